"""Partitions read continuously: a thread prefetches records, and ranges of offsets are served from memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.connectors.kafka.client import PartitionConsumer
from pipeline.connectors.kafka.message_batches import FetchedRecords, empty, fetch
from pipeline.connectors.kafka.partitions import Partition
from pipeline.connectors.kafka.ranges import check_topics
from pipeline.core.errors import HeadwaterError, Place, SourceError
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION, Extent, ReadResult, ReadyOffsets, ScanQuery, SplitReader
from pipeline.core.splits import SourceSplit

if TYPE_CHECKING:
    from pipeline.connectors.kafka.source import Kafka

_FETCH_ROWS = 50_000
_BUSY_WAIT_S, _IDLE_WAIT_S = 0.01, 0.1
_BUSY_CHECK_S, _IDLE_CHECK_S = 0.05, 0.5
"""The interval of topic checks: while records arrive and no caller waits for them, and while none arrive."""
_ANSWER_S, _CHECK_S = 3.0, 5.0
"""Time limits of this check: while fetching, and after the fetch has failed."""


@dataclass
class _PartitionBuffer:
    """The prefetched tables of one partition, in offset order."""

    begin: int
    end: int
    checked: int
    """The offset up to which records are known to come from the original topic: these can be taken."""
    taken: int
    """The offset up to which ranges were requested; records before it are kept only for repeated reads."""
    tables: list[tuple[FetchedRecords, int]] = field(default_factory=list)
    """Each table with its begin offset."""


@contextmanager
def tail(kafka: Kafka, offsets: Mapping[str, int]) -> Iterator[KafkaTail]:
    """Read partitions from their offsets until the context ends; raise `SourceError` if an offset was deleted."""
    kafka_tail = KafkaTail(kafka)
    try:
        kafka_tail.add(offsets)
        kafka_tail.start()
        yield kafka_tail
    finally:
        kafka_tail.close()


class KafkaTail:
    """Reads partitions continuously. `ready` and the reader are thread-safe."""

    def __init__(self, kafka: Kafka) -> None:
        """Configure the consumer; nothing is read yet."""
        self._kafka = kafka
        self._stream = PartitionConsumer(kafka.options(), kafka.place, ahead_bytes=kafka.ahead_bytes // 4)
        self._lock = threading.Condition()
        self._buffers: dict[Partition, _PartitionBuffer] = {}
        self._ids: dict[str, str] = {}
        self._to_add: dict[Partition, int] = {}
        self._waiting_bytes = self._waiting_rows = 0
        """The number of rows that are checked but not taken, and the bytes of all rows that are not taken."""
        self._checked_at = 0.0
        self._is_unanswered = False
        self._is_awaited = False
        """Whether a caller waits in `ready`: then fetched records are checked immediately."""
        self._failed: HeadwaterError | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="headwater-kafka", daemon=True)

    def start(self) -> None:
        """Start the fetching thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop fetching and free the buffers."""
        with self._lock:
            self._is_closed = True
            self._lock.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._stream.close()

    def add(self, offsets: Mapping[str, int]) -> None:
        """Start reading more partitions; raise `SourceError` if an offset was deleted."""
        partitions = {Partition.of(uri): at for uri, at in offsets.items()}
        topics = self._kafka.client.topics(sorted({p.topic for p in partitions}), None)
        for partition in partitions:
            if partition.number >= topics[partition.topic].partitions:
                raise SourceError("the topic has no such partition", place=Place(partition.uri))
        extents = self._kafka.client.extents(tuple(partitions))
        for partition, at in partitions.items():
            if not extents[partition].begin <= at:
                raise retention_error(partition, at, extents[partition])
        ids = {name: topic.id for name, topic in topics.items() if name not in self._ids}
        with self._lock:
            self._ids.update(ids)
            for partition, at in partitions.items():
                self._buffers[partition] = _PartitionBuffer(at, at, at, at)
                self._to_add[partition] = at
            self._lock.notify_all()

    def ready(self, timeout_s: float) -> ReadyOffsets:
        """Return the offsets up to which records can be taken; wait for a record up to the timeout if there is none.

        These records come from the topics that the tail started with. The fetching thread has checked that, so this
        method sends no request to a broker. Raises `SourceError` if a topic or unread records were deleted, or if the
        brokers reject the client. While no broker answers, no further records become ready.
        """
        with self._lock:
            self._is_awaited = True
            self._lock.wait_for(lambda: self._waiting_rows or self._failed, timeout_s)
            self._is_awaited = False
            self._raise_failure()
            offsets = {p.uri: buffer.checked for p, buffer in self._buffers.items()}
            return ReadyOffsets(offsets, self._waiting_rows, is_unanswered=self._is_unanswered)

    def reader(self, splits: Sequence[SourceSplit] = ()) -> SplitReader:
        """Return a reader that serves ranges from memory, or from the brokers if they are no longer in memory."""
        del splits  # they count as taken when they are read
        return _BufferedReader(self._kafka, self)

    @property
    def waiting_bytes(self) -> int:
        """The bytes in memory that are not taken yet."""
        with self._lock:
            return self._waiting_bytes

    def take(self, split: SourceSplit) -> pa.Table | None:
        """Return the records of a range, and free those before it; None if they are not in memory."""
        partition, end = Partition.of(split.source_object.uri), split.end
        with self._lock:
            buffer = self._buffers.get(partition)
            if buffer is None or end is None or split.begin < buffer.begin or end > buffer.end:
                return None
            self._discard(buffer, split.begin)
            if end > buffer.taken:
                self._count_taken(buffer, end)
            source_objects = [f.records for f, begin in buffer.tables if begin < end and f.end > split.begin]
        records = pa.concat_tables([empty(self._kafka.metadata), *source_objects])
        positions = records.column(POSITION)
        if len(positions) and (positions[0].as_py() < split.begin or positions[-1].as_py() >= end):
            chosen = pc.and_(pc.greater_equal(positions, split.begin), pc.less(positions, end))
            records = records.filter(chosen)
        return records

    def _discard(self, buffer: _PartitionBuffer, before: int) -> None:
        while buffer.tables and buffer.tables[0][0].end <= before:
            buffer.tables.pop(0)
        buffer.begin = buffer.tables[0][1] if buffer.tables else max(buffer.begin, min(before, buffer.end))

    def _count_taken(self, buffer: _PartitionBuffer, end: int) -> None:
        """Record that a partition was taken up to an offset; a table counts as taken when its end is."""
        for fetched, _ in buffer.tables:
            if buffer.taken < fetched.end <= end:
                self._waiting_rows -= fetched.records.num_rows if fetched.end <= buffer.checked else 0
                self._waiting_bytes -= fetched.records.nbytes
        buffer.taken = end
        self._lock.notify_all()

    def _raise_failure(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        try:
            fetched: Mapping[Partition, FetchedRecords] = {}
            while self._wait_for_room():
                if self._has_room:
                    # after a pause, return as soon as one record arrives; otherwise collect a large batch
                    rows, wait_s = (_FETCH_ROWS, _BUSY_WAIT_S) if fetched else (1, _IDLE_WAIT_S)
                    fetched = fetch(self._stream, self._kafka.metadata, rows, wait_s)
                    self._store(fetched)
                if self._is_check_due():
                    self._check()
        except HeadwaterError as error:
            self._fail(self._root_cause(error))
        except Exception as error:  # noqa: BLE001 - any failure of the thread is raised in `ready`
            self._fail(SourceError("fetching from Kafka failed", got=repr(error), place=self._kafka.place))

    def _root_cause(self, error: HeadwaterError) -> HeadwaterError:
        """Return a better explanation if there is one: missing offsets may be caused by a deleted topic."""
        try:
            check_topics(self._kafka, dict(self._ids), self._kafka.place, patience_s=_CHECK_S)
        except SourceError as cause:
            return cause
        return error

    def _wait_for_room(self) -> bool:
        """Wait until there is room or a check is due, and add requested partitions; return false when the tail is closed."""
        with self._lock:
            self._lock.wait_for(
                lambda: self._is_closed or self._to_add or self._has_room,
                _BUSY_CHECK_S if self._has_unchecked else None,
            )
            added, self._to_add = self._to_add, {}
            is_closed = self._is_closed
        if added and not is_closed:
            self._stream.add(added)
        return not is_closed

    @property
    def _has_room(self) -> bool:
        return bool(self._buffers) and self._waiting_bytes < self._kafka.ahead_bytes

    @property
    def _has_unchecked(self) -> bool:
        return any(buffer.checked < buffer.end for buffer in self._buffers.values())

    def _is_check_due(self) -> bool:
        with self._lock:
            age_s = time.monotonic() - self._checked_at
            due_s = 0.0 if self._is_awaited else _BUSY_CHECK_S
            return age_s > (due_s if self._has_unchecked else _IDLE_CHECK_S)

    def _store(self, fetched_by_partition: Mapping[Partition, FetchedRecords]) -> None:
        with self._lock:
            for partition, fetched in fetched_by_partition.items():
                buffer = self._buffers[partition]
                if fetched.end <= buffer.end:
                    continue
                buffer.tables.append((fetched, buffer.end))
                buffer.end = fetched.end
                self._waiting_bytes += fetched.records.nbytes

    def _check(self) -> None:
        """Make the fetched records available if the topics still have their ids; raise `SourceError` otherwise."""
        with self._lock:
            ends, ids = {partition: buffer.end for partition, buffer in self._buffers.items()}, dict(self._ids)
        is_answered = check_topics(self._kafka, ids, self._kafka.place, patience_s=_ANSWER_S)
        with self._lock:
            self._checked_at, self._is_unanswered = time.monotonic(), not is_answered
            for partition, end in ends.items() if is_answered else ():
                buffer = self._buffers[partition]
                self._waiting_rows += sum(f.records.num_rows for f, _ in buffer.tables if buffer.checked < f.end <= end)
                buffer.checked = max(buffer.checked, end)
            self._lock.notify_all()

    def _fail(self, error: HeadwaterError) -> None:
        with self._lock:
            self._failed = error
            self._lock.notify_all()


@dataclass(frozen=True)
class _BufferedReader:
    """Reads ranges from a tail's buffers."""

    kafka: Kafka
    tail: KafkaTail

    def read(self, split: SourceSplit, schema: Schema) -> ReadResult:
        partition, records = self._records(split, schema)
        return self.kafka.decoder.read(records, schema, partition)

    @contextmanager
    def scan(self, con: duckdb.DuckDBPyConnection, split: SourceSplit, schema: Schema) -> Iterator[ScanQuery | None]:
        partition, records = self._records(split, schema)
        with self.kafka.decoder.scan(con, records, schema, partition) as scanned:
            yield scanned

    def is_small(self, split: SourceSplit) -> bool:
        """Return true: planning a scan of records in memory costs more than running it."""
        del split
        return True

    @contextmanager
    def scan_together(
        self, con: duckdb.DuckDBPyConnection, splits: Sequence[SourceSplit], schema: Schema
    ) -> Iterator[ScanQuery | None]:
        ranges = [self._records(split, schema) for split in splits]
        with self.kafka.decoder.scan_together(con, ranges, schema) as scanned:
            yield scanned

    def _records(self, split: SourceSplit, schema: Schema) -> tuple[Partition, pa.Table]:
        self.kafka.decoder.check_columns(schema, Place(split.source_object.uri))
        records = self.tail.take(split)
        return Partition.of(split.source_object.uri), self.kafka.records(split) if records is None else records


def retention_error(partition: Partition, at: int, extent: Extent) -> SourceError:
    """Return the error for an offset that was deleted from a partition."""
    return SourceError(
        "records were deleted before they were read, by retention",
        got=f"offset {at}, but the partition begins at {extent.begin}",
        do="increase the retention; to continue with the remaining records: headwater stream --accept-gaps",
        place=Place(partition.uri),
    )
