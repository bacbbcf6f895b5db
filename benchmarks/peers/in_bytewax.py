"""The streams in Bytewax: `in_bytewax.py JOB BROKERS TOPIC FOLDER`; writes its result to the folder.

Exactly once: its recovery store contains offsets and state of every epoch and the length of each output file, and
output files are truncated when it resumes. Readers can see uncommitted rows, so the latency to a committed row cannot be
measured. One process per core.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
from bytewax.connectors.files import DirSink
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.operators import windowing
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import cluster_main

from benchmarks.peers.timings import Clock

EPOCH = timedelta(seconds=0.5)
WAIT = timedelta(hours=2)
"""Its watermark advances with the clock while it processes a backlog; without this wait, rows would be late."""


def windows(brokers: str, topic: str, to: str) -> Dataflow:
    """Count and sum by key and minute, until the backlog has been read."""
    flow = Dataflow("windows")
    source = KafkaSource([brokers], [topic], tail=False, add_config={"isolation.level": "read_committed"})
    events = op.map("read", op.input("events", flow, source), _read)
    counted = windowing.fold_window(
        "count",
        events,
        windowing.EventClock(ts_getter=lambda event: event[0], wait_for_system_duration=WAIT),
        windowing.TumblingWindower(length=timedelta(minutes=1), align_to=datetime(2025, 1, 1, tzinfo=UTC)),
        builder=lambda: (0, 0.0),
        folder=lambda state, event: (state[0] + 1, state[1] + event[1]),
        merger=lambda one, other: (one[0] + other[0], one[1] + other[1]),
        ordered=False,
    )
    Path(to, "made").mkdir(exist_ok=True)
    sink = DirSink(Path(to, "made"), os.cpu_count() or 1)
    op.output("made", op.map("written", counted.down, _written), sink)
    return flow


def _read(message: Any) -> tuple[str, tuple[datetime, float]]:
    event = json.loads(message.value)
    return event["key"], (datetime.fromisoformat(event["happened_at"]).replace(tzinfo=UTC), event["value"])


def _written(counted: tuple[str, tuple[int, tuple[int, float]]]) -> tuple[str, str]:
    key, (window, (events, total)) = counted
    start = datetime(2025, 1, 1) + timedelta(minutes=window)  # noqa: DTZ001 - UTC, without a time zone
    return key, json.dumps({"window_start": start.isoformat(), "key": key, "events": events, "total": total})


JOBS: dict[str, Callable[[str, str, str], Dataflow]] = {"windows": windows}


def work(words: list[str], addresses: list[str], number: int) -> None:
    """Run as one of several processes."""
    job, brokers, topic, to = words
    recovery = RecoveryConfig(Path(to, "recovery"))
    cluster_main(JOBS[job](brokers, topic, to), addresses, number, epoch_interval=EPOCH, recovery_config=recovery)


def _addresses(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in sockets]
    for listener in sockets:
        listener.close()
    return addresses


if __name__ == "__main__":
    clock, spawning, count = Clock(), multiprocessing.get_context("spawn"), os.cpu_count() or 1
    place = Path(sys.argv[-1], "recovery")
    place.mkdir()
    init_db_dir(place, count)
    with clock.part(sys.argv[1]):
        addresses = _addresses(count)
        workers = [spawning.Process(target=work, args=(sys.argv[1:], addresses, n)) for n in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a worker failed")
    clock.say()
