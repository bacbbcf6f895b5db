"""Send events to a topic from a separate process: `python -m benchmarks.stream.load BROKERS TOPIC COUNT [PER_S]`.

Without a rate, events are sent as fast as possible, with the times of `Events`, followed by one event per partition
that closes all windows. With a rate, events are sent evenly, and their event time is the time of creation on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from confluent_kafka import Producer

from benchmarks.stream.events import CHUNK, END, PARTITIONS, STAMP, Events

ROOT = Path(__file__).parents[2]
TICK_S = 0.002
"""Interval at which events are created at a fixed rate; events due in one interval get the same time."""

_FAST = {
    "enable.idempotence": True,
    "batch.num.messages": 100_000,
    "batch.size": 1_000_000,
    "queue.buffering.max.messages": 1_000_000,
    "log_level": 3,
}


@dataclass(frozen=True)
class Loaded:
    """The acknowledged events of a topic; `slipped_s` is the maximum delay behind the requested rate."""

    events: int
    bytes: int
    seconds: float
    slipped_s: float = 0.0


def loading(brokers: str, topic: str, events: Events, per_s: int | None = None) -> subprocess.Popen[str]:
    """Start a load in another process; `loaded` waits for it."""
    words = [brokers, topic, str(events.count), "--seed", str(events.seed), "--first", str(events.first)]
    words += ["--per-s", str(per_s)] if per_s else []
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.stream.load", *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def loaded(process: subprocess.Popen[str]) -> Loaded:
    """Wait for a load and return its report; raise `SystemExit` if it failed."""
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"the load exited with {process.returncode}")
    return Loaded(**json.loads(output))


def at_once(producer: Producer, topic: str, events: Events) -> Loaded:
    """Send all events as fast as the broker accepts them."""
    begun, size = time.perf_counter(), 0
    for some in events.messages():
        size += sum(map(len, some.texts))
        dealt: list[list[dict[str, Any]]] = [[] for _ in range(PARTITIONS)]
        for text, key, partition in zip(some.texts, some.keys, some.partitions, strict=True):
            dealt[partition].append({"value": text, "key": key})
        for partition, messages in enumerate(dealt):
            _put(producer, topic, partition, messages)
    for partition in range(PARTITIONS):
        _put(producer, topic, partition, [{"value": events.last(partition), "key": END}])
    _flush(producer)
    return Loaded(events.count, size, time.perf_counter() - begun)


def evenly(producer: Producer, topic: str, events: Events, per_s: int) -> Loaded:
    """Send events at a fixed rate per second, each with its creation time."""
    tails = [message for some in events.tails() for message in zip(some.texts, some.keys, some.partitions, strict=True)]
    begun, size, sent, slipped = time.perf_counter(), 0, 0, 0.0
    for elapsed in _ticks(begun):
        due = min(events.count, int(elapsed * per_s))
        head = b'{"happened_at":"' + datetime.now(UTC).strftime(STAMP).encode() + b'",'
        for tail, key, partition in tails[sent:due]:
            producer.produce(topic, head + tail, key, partition)
            size += len(head) + len(tail)
        sent = due
        producer.poll(0)
        slipped = max(slipped, time.perf_counter() - begun - sent / per_s)
        if sent == events.count:
            break
    _flush(producer)
    return Loaded(sent, size, time.perf_counter() - begun, slipped)


def fill(brokers: str, topic: str, messages: pa.Table) -> None:
    """Send all rows of `text`, `key` and `partition` to a topic, from this process."""
    producer = Producer({"bootstrap.servers": brokers, **_FAST, "linger.ms": 20})
    for some in messages.to_batches(max_chunksize=CHUNK):
        rows = some.to_pylist()
        for partition in range(PARTITIONS):
            chosen = [{"value": r["text"], "key": r["key"]} for r in rows if r["partition"] == partition]
            _put(producer, topic, partition, chosen)
    _flush(producer)


def _ticks(begun: float) -> Iterator[float]:
    """Yield the seconds since the start, at every tick."""
    while True:
        elapsed = time.perf_counter() - begun
        yield elapsed
        time.sleep(max(0.0, TICK_S - (time.perf_counter() - begun - elapsed)))


def _put(producer: Producer, topic: str, partition: int, messages: list[dict[str, Any]]) -> None:
    while messages:
        producer.produce_batch(topic, messages, partition=partition)
        messages = [message for message in messages if message.pop("_error", None) is not None]
        producer.poll(0.05 if messages else 0)


def _flush(producer: Producer) -> None:
    if left := producer.flush(120):
        raise SystemExit(f"{left} events were not acknowledged")


def main() -> None:
    """Send the events requested on the command line, and print a report as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("brokers")
    parser.add_argument("topic")
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--per-s", type=int)
    chosen = parser.parse_args()
    producer = Producer(
        {"bootstrap.servers": chosen.brokers, **_FAST, "linger.ms": 1 if chosen.per_s else 20},
    )
    events = Events(chosen.count, chosen.seed, chosen.first)
    load = (
        evenly(producer, chosen.topic, events, chosen.per_s)
        if chosen.per_s
        else at_once(producer, chosen.topic, events)
    )
    print(json.dumps(asdict(load)))


if __name__ == "__main__":
    main()
