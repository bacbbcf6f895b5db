"""The streams in Quix Streams: `in_quix.py JOB BROKERS TOPIC FOLDER`; writes its result to a topic, then to the folder.

Exactly once by Kafka's transactions, and therefore into a topic; its other sinks are at least once. One process a core.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from quixstreams import Application
from quixstreams.dataframe.windows import Count, Sum

from benchmarks.peers.timings import Clock
from benchmarks.peers.topics import drained, made

COMMIT_S = 0.5
IDLE_S = 5.0
"""Time without messages after which the backlog counts as read."""


def windows(brokers: str, topic: str, state: str) -> None:
    """Count and sum by key and minute, until no more messages arrive."""
    app = _application(brokers, topic, state)
    events = app.topic(topic, timestamp_extractor=_happened, value_deserializer="json", key_deserializer="str")
    counted = (
        app.dataframe(events)
        .tumbling_window(duration_ms=60_000)
        .agg(events=Count(), total=Sum("value"))
        .final(closing_strategy="partition")
    )
    counted = counted.apply(_named, metadata=True)
    counted.to_topic(app.topic(made(topic), value_serializer="json", key_serializer="str"))
    app.run(timeout=IDLE_S, collect=False)


def rows(brokers: str, topic: str, state: str) -> None:
    """Row by row, until it is stopped."""
    app = _application(brokers, topic, state)
    events = app.topic(topic, value_deserializer="json", key_deserializer="str")
    app.dataframe(events)[["happened_at", "id", "key", "value"]].to_topic(
        app.topic(made(topic), value_serializer="json", key_serializer="str")
    )
    app.run()


def _application(brokers: str, topic: str, state: str) -> Application:
    return Application(
        broker_address=brokers,
        consumer_group=f"quix-{topic}",
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_interval=COMMIT_S,
        state_dir=state,
        loglevel="WARNING",
    )


def _happened(value: Any, headers: Any, timestamp: float, kind: Any) -> int:
    del headers, timestamp, kind
    return int(datetime.fromisoformat(value["happened_at"]).replace(tzinfo=UTC).timestamp() * 1000)


def _named(value: Any, key: Any, timestamp: int, headers: Any) -> dict[str, Any]:
    del timestamp, headers
    start = datetime.fromtimestamp(value["start"] / 1000, UTC).replace(tzinfo=None).isoformat()
    return {"window_start": start, "key": key, "events": value["events"], "total": value["total"]}


JOBS: dict[str, Callable[[str, str, str], None]] = {"windows": windows, "rows": rows}

if __name__ == "__main__":
    job, brokers, topic, to = sys.argv[1:]
    clock, spawning = Clock(), multiprocessing.get_context("spawn")
    with clock.part(job):
        workers = [
            spawning.Process(target=JOBS[job], args=(brokers, topic, f"{to}/state-{number}"))
            for number in range(os.cpu_count() or 1)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a worker failed")
    clock.parts[job] -= IDLE_S
    drained(brokers, made(topic), f"{to}/made")
    clock.say()
