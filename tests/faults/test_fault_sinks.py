"""Delivering processes are suspended or killed: transactional sinks receive rows exactly once, others at least once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import to_callback, to_kafka, to_online
from pipeline.connectors.kafka import kafka as topics
from pipeline.connectors.online_store import OnlineStore
from pipeline.core.sinks import SinkContext
from tests.contracts.test_contract_target import committed
from tests.faults.sending import FENCED, DeliverySpec, expected, start_delivery, stopped

SOON_S = 60.0


@pytest.fixture
def home(tmp_path):
    return SinkContext("faults", uuid.uuid4().hex[:8], "alerts", tmp_path)


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
def test_a_zombie_is_fenced_and_nothing_is_lost_or_duplicated(kafka, topic, home):
    """The first is suspended in a transaction; the second delivers that version and later ones; the first resumes."""
    to = to_kafka(topic, servers=kafka.bootstrap, key="id")
    first = start_delivery(DeliverySpec(to, home, 5, stop_in=2))
    stopped(first)

    assert ended(start_delivery(DeliverySpec(to, home, 4))) == 0
    os.kill(first.pid, signal.SIGCONT)

    assert ended(first) == FENCED
    assert sent(kafka, topic) == expected(4)
    assert ended(start_delivery(DeliverySpec(to, home, 5))) == 0
    assert sent(kafka, topic) == expected(5)


@pytest.mark.proof
@pytest.mark.fault(18)
def test_a_process_suspended_beyond_its_transaction_timeout_is_fenced(kafka, topic, home):
    """No other process took over: the broker aborted the transaction, and the process restarts."""
    to = to_kafka(topic, servers=kafka.bootstrap, key="id", transaction_s=1.0)
    first = start_delivery(DeliverySpec(to, home, 3, stop_in=1))
    stopped(first)
    log, until = topics(topic, servers=kafka.bootstrap), time.monotonic() + SOON_S
    assert any(log.held_back().values())
    while any(log.held_back().values()):
        assert time.monotonic() < until
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGCONT)

    assert ended(first) == FENCED
    assert sent(kafka, topic) == expected(1)
    assert ended(start_delivery(DeliverySpec(to, home, 3))) == 0
    assert sent(kafka, topic) == expected(3)


def append(file: Path, version: int, rows: pa.Table) -> None:
    del version
    with file.open("a") as sink_file:
        sink_file.write("".join(f"{key}\n" for key in rows["id"].to_pylist()))


@pytest.mark.proof
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
        process = start_delivery(DeliverySpec(to, home, 200))
        process.join(dice.uniform(0.3, 2.0))
        kills += process.exitcode is None
        process.kill()
        process.join()
    assert ended(start_delivery(DeliverySpec(to, home, 200))) == 0
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


PROJECT = """\
from pathlib import Path
from pipeline import files, sink, source, sql, to_callback, to_kafka, to_online

FILE = Path(__file__).parent / "taken"


def note(version, rows):
    with FILE.open("a") as file:
        file.write("".join(f"{{key}}\\n" for key in rows["id"].to_pylist()))


ticks = source(
    files(FILE.parent / "*.csv"), schema={{"id": "bigint", "at": "timestamp"}}, event_time="at", stored=False
)
even = sql("select id from ticks where id % 2 = 0")
topic = sink("even", to=to_kafka("{topic}", servers="{servers}", key="id"))
online = sink("even", to=to_online(key="id"))
called = sink("even", to=to_callback(note))
"""


def write(file: Path, first: int) -> None:
    """Create a file of 20 rows atomically."""
    rows = "".join(f"{i},2026-01-01 {i // 3600:02}:{i // 60 % 60:02}:{i % 60:02}\n" for i in range(first, first + 20))
    file.with_suffix(".new").write_text("id,at\n" + rows)
    file.with_suffix(".new").rename(file)


@pytest.mark.proof
@pytest.mark.fault(1)
@pytest.mark.parametrize("seed", range(2))
def test_a_stream_and_its_sinks_are_killed(seed, kafka, topic, tmp_path):
    """The stream is killed at any point: in the end, each sink contains the rows of the table."""
    dice = random.Random(seed)  # noqa: S311 - a seed for faults
    print("seed", seed)  # noqa: T201 - shown when it fails
    (tmp_path / "headwater.toml").write_text(f'[project]\nname = "{topic}"\ndefinitions = "ticks.py"\n')
    (tmp_path / "ticks.py").write_text(PROJECT.format(topic=topic, servers=kafka.bootstrap))
    command = [Path(sys.executable).parent / "headwater", "stream", "--take-over"]
    for life in range(5):
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            until = time.monotonic() + dice.uniform(2.0, 5.0)
            for number in range(life * 1200, life * 1200 + 1200, 20):  # files arrive during the whole run
                write(tmp_path / f"{number:05}.csv", number)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, until - time.monotonic()) / 10)
            process.kill()
    command.append("--until-caught-up")
    completed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=SOON_S)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    print(completed.stdout)  # noqa: T201 - likewise

    expected = list(range(0, 6000, 2))
    assert sorted(sent(kafka, topic)) == expected
    store = OnlineStore(tmp_path / ".headwater" / "online.db", "online")
    assert all(store.get(key) == {"id": key} for key in expected)
    taken = [int(line) for line in (tmp_path / "taken").read_text().splitlines()]
    print("twice", len(taken) - len(expected))  # noqa: T201 - likewise
    assert sorted(set(taken)) == expected
