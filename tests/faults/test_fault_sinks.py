"""Processes that send and are stopped or killed: rows of a sink that can tell come once, of the others at least once."""

from __future__ import annotations

import json
import os
import random
import signal
import time
import uuid
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.core.sinks import Home
from pipeline.sinks import OnlineStore, to_callback, to_kafka, to_online
from pipeline.sources.kafka import kafka as topics
from tests.contracts.test_contract_target import committed
from tests.faults.sending import FENCED, Order, expected, sending, stopped

SOON_S = 60.0


@pytest.fixture
def home(tmp_path):
    return Home("faults", uuid.uuid4().hex[:8], "alerts", tmp_path)


@pytest.fixture
def topic(kafka):
    name = f"sink-{uuid.uuid4().hex[:8]}"
    kafka.create_topic(name)
    return name


def sent(kafka, topic):
    return [json.loads(value)["id"] for _, value in committed(kafka.bootstrap, topic)]


def ended(process):
    process.join(SOON_S)
    assert process.exitcode is not None
    return process.exitcode


@pytest.mark.fault(18)
def test_a_zombie_is_fenced_and_nothing_is_lost_or_doubled(kafka, topic, home):
    """The first hangs in a transaction; the second takes over, does that version and more; the first is woken up."""
    to = to_kafka(topic, servers=kafka.bootstrap, key="id")
    first = sending(Order(to, home, 5, stop_in=2))
    stopped(first)

    assert ended(sending(Order(to, home, 4))) == 0
    os.kill(first.pid, signal.SIGCONT)

    assert ended(first) == FENCED
    assert sent(kafka, topic) == expected(4)
    assert ended(sending(Order(to, home, 5))) == 0
    assert sent(kafka, topic) == expected(5)


@pytest.mark.fault(18)
def test_one_that_slept_past_the_time_of_its_transaction_is_fenced(kafka, topic, home):
    """Nobody took over: the broker ended the transaction, and the process begins anew."""
    to = to_kafka(topic, servers=kafka.bootstrap, key="id", transaction_s=1.0)
    first = sending(Order(to, home, 3, stop_in=1))
    stopped(first)
    log, until = topics(topic, servers=kafka.bootstrap), time.monotonic() + SOON_S
    assert any(log.held_back().values())
    while any(log.held_back().values()):
        assert time.monotonic() < until
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGCONT)

    assert ended(first) == FENCED
    assert sent(kafka, topic) == expected(1)
    assert ended(sending(Order(to, home, 3))) == 0
    assert sent(kafka, topic) == expected(3)


def append(file: Path, version: int, rows: pa.Table) -> None:
    del version
    with file.open("a") as found:
        found.write("".join(f"{key}\n" for key in rows["id"].to_pylist()))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["kafka", "online", "callback"])
def test_killed_at_any_time(kind, seed, home, request):
    dice = random.Random(seed)  # noqa: S311 - a seed for faults
    print("seed", seed)  # noqa: T201 - shown when it fails
    file = home.state / "taken"
    if kind == "kafka":
        cluster, topic = request.getfixturevalue("kafka"), request.getfixturevalue("topic")
        to = to_kafka(topic, servers=cluster.bootstrap, key="id")
    else:
        to = to_online(key="id") if kind == "online" else to_callback(partial(append, file))
    kills = 0
    for _ in range(8):
        process = sending(Order(to, home, 200))
        process.join(dice.uniform(0.3, 2.0))
        kills += process.exitcode is None
        process.kill()
        process.join()
    assert ended(sending(Order(to, home, 200))) == 0
    print("killed", kills)  # noqa: T201 - likewise
    if kind == "kafka":
        assert sent(cluster, topic) == expected(200)
    elif kind == "online":
        store = OnlineStore(to.file(home.state), home.sink)
        assert [row["id"] for row in map(store.get, expected(200)) if row is not None] == expected(200)
    else:
        taken = [int(line) for line in file.read_text().splitlines()]
        assert list(dict.fromkeys(taken)) == expected(200)
        assert len(taken) - len(set(taken)) <= kills * 40
