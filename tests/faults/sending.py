"""A process that delivers known versions to a target and can suspend itself in the middle of one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipeline.connectors.kafka import kafka
from pipeline.connectors.kafka.sink import ToKafka
from pipeline.core.errors import ConflictError
from pipeline.core.sinks import Delivery, Destination, SinkContext, SinkPosition
from tests.faults.streams import PROCESSES

ROWS = 40
"""The number of rows of a version, in two blocks."""
FENCED = 3
"""The exit code of a process that another one has fenced."""


@dataclass(frozen=True)
class DeliverySpec:
    """The versions to deliver, and the version in which to suspend between its two blocks."""

    to: Destination
    home: SinkContext
    versions: int
    stop_in: int | None = None


def expected(versions: int) -> list[int]:
    """Return the rows of all versions."""
    return list(range(versions * ROWS))


def start_delivery(spec: DeliverySpec) -> PROCESSES.Process:
    """Start a process that resumes at the target's position."""
    process = PROCESSES.Process(target=work, args=(spec,))
    process.start()
    return process


def stopped(process: PROCESSES.Process) -> None:
    """Wait until the process has suspended itself."""
    while "\nState:\tT" not in status(process.pid):
        assert process.is_alive()


def status(pid: int) -> str:
    """Return the status of a process from /proc."""
    with open(f"/proc/{pid}/status") as file:  # noqa: PTH123 - a file of the system
        return file.read()


def work(spec: DeliverySpec) -> None:
    """Deliver versions; exit with `FENCED` if another process has taken over."""
    target = spec.to.open(spec.home)
    reached = target.reached()
    try:
        for number in range(0 if reached is None else reached.version + 1, spec.versions):
            to = SinkPosition(number, number + 1)
            rows = _rows(number, spec if number == spec.stop_in else None)
            target.write(Delivery(to, reached, rows, rows.schema.empty_table(), ("id",), is_whole=reached is None))
            reached = to
    except ConflictError:
        sys.exit(FENCED)
    finally:
        target.close()


def _rows(number: int, stop: DeliverySpec | None) -> pa.RecordBatchReader:
    schema = pa.schema({"id": pa.int64()})

    def blocks() -> Iterator[pa.RecordBatch]:
        half = ROWS // 2
        yield pa.record_batch({"id": range(number * ROWS, number * ROWS + half)}, schema)
        if stop is not None:
            _wait_for_the_broker(stop.to)
            os.kill(os.getpid(), signal.SIGSTOP)
        yield pa.record_batch({"id": range(number * ROWS + half, (number + 1) * ROWS)}, schema)

    return pa.RecordBatchReader.from_batches(schema, blocks())


def _wait_for_the_broker(to: Destination) -> None:
    """Wait until the broker has rows of the open transaction."""
    if isinstance(to, ToKafka):
        log = kafka(to.topic, servers=to.servers)
        while not any(log.held_back().values()):
            pass
