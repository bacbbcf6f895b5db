"""Two coordinators of one stream: each epoch has one commit, and the later coordinator fails and ends."""

from __future__ import annotations

import random
import re
import signal
import threading

import pytest

from pipeline.core.errors import ConflictError
from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime.options import StreamOptions
from pipeline.streaming.runtime.stream import Stream
from tests.faults.streams import AT_ONCE, Clicks, Follower, Orders, oracle, run, start
from tests.faults.test_fault_streams import driven_by_the_log

NAMES = ("kept", "minutes")


@pytest.fixture
def clicks(tmp_path):
    return Clicks(tmp_path / "project").write()


@pytest.mark.fault(7)
@pytest.mark.parametrize(
    ("step", "nth"),
    [
        ("saved", 2),
        *(
            pytest.param(s, n, marks=pytest.mark.proof)
            for s in ("staged", "saved", "committed", "settled")
            for n in (1, 2, 3)
        ),
    ],
)
def test_a_suspended_coordinator_fails_when_it_resumes(clicks, undisturbed, step, nth):
    """The first is suspended at a step, like a hanging machine; the second runs; then the first resumes."""
    name = "minutes"
    with Follower(clicks, (name,)), start(Orders(str(clicks.folder), (name,), stop=(nth, step))) as first:
        first.stopped()
        run(Orders(str(clicks.folder), (name,), shards=3, take_over=True))
        first.send(signal.SIGCONT)
        ended = first.wait()
    assert isinstance(ended, ConflictError), ended
    assert re.search("'minutes' was taken over by another process|another process committed 'minutes'", str(ended))
    assert first.process.exitcode == 1
    assert oracle(clicks, (name,))[name] == undisturbed[name]


@pytest.mark.proof
@pytest.mark.fault(7)
def test_rows_quarantined_by_a_suspended_coordinator_are_not_quarantined_twice(clicks, undisturbed):
    """The first is suspended after its commit and before post-commit; the second runs post-commit and continues."""
    with start(Orders(str(clicks.folder), ("kept",), stop=(1, "committed"))) as first:
        first.stopped()
        run(Orders(str(clicks.folder), ("kept",), take_over=True))
        first.send(signal.SIGCONT)
        assert isinstance(first.wait(), ConflictError)
    assert oracle(clicks, ("kept",))["kept"] == undisturbed["kept"]


@pytest.mark.proof
@pytest.mark.fault(8)
@pytest.mark.parametrize("seed", range(20))
def test_one_of_two_concurrent_coordinators_wins_each_epoch(clicks, undisturbed, seed):
    """Independent processes; the loser of an epoch fails and is restarted."""
    dice = random.Random(seed)  # noqa: S311 - a seed for faults
    lost = []

    def insist(name: str) -> None:
        for _ in range(200):
            with start(Orders(str(clicks.folder), (name,), shards=dice.randint(1, 3), take_over=True)) as child:
                ended = child.wait()
            if not isinstance(ended, BaseException):
                return
            assert isinstance(ended, ConflictError), ended
            lost.append(name)

    rivals = [threading.Thread(target=insist, args=(name,)) for name in NAMES for _ in range(2)]
    with Follower(clicks, NAMES):
        for rival in rivals:
            rival.start()
        for rival in rivals:
            rival.join()
    assert oracle(clicks, NAMES) == driven_by_the_log(undisturbed)


@pytest.mark.fault(8)
@pytest.mark.parametrize("seed", [pytest.param(seed, marks=[pytest.mark.proof] if seed else []) for seed in range(20)])
def test_one_of_two_interleaved_coordinators_wins_each_epoch(clicks, seed):
    """In one process, interleaved in random order: the loser reopens the stream, and each epoch has one winner."""
    dice = random.Random(seed)  # noqa: S311 - a seed for faults
    small = Clicks(clicks.folder, count=40, step=10, partitions=2).write()
    plan = Planner(small.workspace()).plan("minutes")

    def opened() -> Stream:
        return Stream(small.workspace(), plan, StreamOptions(intervals=AT_ONCE, shards=1, source_tasks=1))

    rivals = [opened(), opened()]
    conflicts = 0
    while not all(rival.last.has_ended for rival in rivals):
        number = dice.randrange(2)
        try:
            rivals[number].run_micro_batch()
            if dice.random() < 0.5:
                rivals[number].wait()
            if rivals[number].last.has_ended:
                rivals[number].drain()
        except ConflictError:
            conflicts += 1
            rivals[number].close()
            rivals[number] = opened()
    for rival in rivals:
        rival.close()
    assert conflicts
    oracle(small, ("minutes",))
