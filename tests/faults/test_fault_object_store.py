"""Streams whose lake is on an object store: killed at each step of an epoch, and with two coordinators."""

from __future__ import annotations

import random
import signal
import threading
import uuid

import pytest

from pipeline.core.errors import ConflictError
from tests.faults.streams import Clicks, Follower, Kill, Orders, oracle, run, start
from tests.rigs.proofs import some

NAMES = ("kept", "minutes")
STEPS = ("staged", "saved", "committed", "settled")


@pytest.fixture
def clicks(s3, tmp_path) -> Clicks:
    folder = tmp_path / "clicks"
    return Clicks(folder, environment=s3.environment(folder, uuid.uuid4().hex)).write()


@pytest.mark.proof
@pytest.mark.fault(1, 2, 3, 26)
def test_streams_are_killed_at_each_step_of_an_epoch(clicks, undisturbed):
    for number, (table, step) in enumerate(some([(t, s) for t in NAMES for s in STEPS], 2)):
        orders = Orders(str(clicks.folder), NAMES, shards=1 + number % 3, kill=Kill(1, table, step))
        assert run(orders) is None, f"not killed at {table} {step}"
    with Follower(clicks, NAMES) as follower:
        assert run(Orders(str(clicks.folder), NAMES, shards=2)) is not None
    assert follower.versions
    assert oracle(clicks, NAMES) == {name: undisturbed[name] for name in NAMES}


@pytest.mark.proof
@pytest.mark.fault(7)
def test_a_suspended_coordinator_fails_when_it_resumes(clicks, undisturbed):
    with start(Orders(str(clicks.folder), ("minutes",), stop=(2, "saved"))) as first:
        first.stopped()
        run(Orders(str(clicks.folder), ("minutes",), shards=3, take_over=True))
        first.send(signal.SIGCONT)
        assert isinstance(first.wait(), ConflictError)
    assert oracle(clicks, ("minutes",))["minutes"] == undisturbed["minutes"]


@pytest.mark.proof
@pytest.mark.fault(1, 2, 3, 8, 26)
@pytest.mark.parametrize("seed", range(10))
def test_two_writers_are_killed_at_random(clicks, undisturbed, seed):
    """Two coordinators of each table take the stream over from each other, and are killed at any time."""
    dice = random.Random(seed)  # noqa: S311 - a seed for faults

    def insist(name: str, seconds: list[float]) -> None:
        for each in seconds:
            with start(Orders(str(clicks.folder), (name,), shards=2, take_over=True)) as child:
                child.process.join(each)

    rivals = [
        threading.Thread(target=insist, args=(name, [dice.uniform(0.5, 4) for _ in range(3)]))
        for name in NAMES
        for _ in range(2)
    ]
    for rival in rivals:
        rival.start()
    for rival in rivals:
        rival.join()
    for name in NAMES:
        run(Orders(str(clicks.folder), (name,), take_over=True))
    assert oracle(clicks, NAMES) == {name: undisturbed[name] for name in NAMES}
