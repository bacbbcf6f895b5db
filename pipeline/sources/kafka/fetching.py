"""From messages to Arrow: one table per batch and partition, of the values and what else is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from confluent_kafka import KafkaError, Message

from pipeline.core.reading import POSITION
from pipeline.sources.kafka.client import Stream
from pipeline.sources.kafka.formats import Metadata
from pipeline.sources.kafka.partition import Partition

VALUE = "value"
_HEADERS = pa.map_(pa.string(), pa.binary())
_EOF = KafkaError._PARTITION_EOF  # noqa: SLF001 - so the client names its own errors


@dataclass(frozen=True)
class Fetched:
    """What came of one partition at once: its records in order, and the offset after all that is known of it."""

    records: pa.Table
    end: int


def fetch(stream: Stream, metadata: Metadata, rows: int, wait_s: float) -> Mapping[Partition, Fetched]:
    """Return what comes within a time, at most so many records; raise `SourceError` as `Stream.told` does."""
    messages = stream.consumer.consume(rows, wait_s)
    if not messages:
        stream.check()
        return {}
    ends: dict[Partition, int] = {}
    if any(map(Message.error, messages)):
        messages = _sound(stream, messages, ends)
    found = {p: Fetched(t, int(t.column(POSITION)[-1].as_py()) + 1) for p, t in _tables(messages, metadata)}
    for partition, end in ends.items():
        before = found.get(partition)
        table = empty(metadata) if before is None else before.records
        found[partition] = Fetched(table, end if before is None else max(end, before.end))
    return found


def empty(metadata: Metadata) -> pa.Table:
    """Return no records."""
    return _table([], metadata)


def _sound(stream: Stream, messages: Sequence[Message], ends: dict[Partition, int]) -> list[Message]:
    """Return the records among messages, and note where partitions end for now."""
    sound = []
    for message in messages:
        error = message.error()
        if error is None:
            sound.append(message)
            continue
        partition = Partition(message.topic() or "?", message.partition() or 0)
        if error.code() == _EOF:
            ends[partition] = message.offset() or 0
        else:
            stream.told(error, partition)
    return sound


def _tables(messages: Sequence[Message], metadata: Metadata) -> list[tuple[Partition, pa.Table]]:
    if not messages:
        return []
    table = _table(messages, metadata)
    numbers = np.fromiter(map(Message.partition, messages), np.int64, len(messages))
    topics = list(map(Message.topic, messages))
    names = sorted({str(topic) for topic in topics})
    if len(names) > 1:
        codes = {name: code for code, name in enumerate(names)}
        numbers += np.fromiter((codes[str(topic)] for topic in topics), np.int64, len(messages)) << 32
    distinct = np.unique(numbers)
    if len(distinct) == 1:
        return [(_partition(int(distinct[0]), names), table)]
    return [(_partition(int(n), names), table.take(pa.array(np.flatnonzero(numbers == n)))) for n in distinct]


def _partition(code: int, names: Sequence[str]) -> Partition:
    return Partition(names[code >> 32], code & 0xFFFFFFFF)


def _table(messages: Sequence[Message], metadata: Metadata) -> pa.Table:
    columns = {
        VALUE: pa.array(list(map(Message.value, messages)), pa.binary()),
        POSITION: pa.array(list(map(Message.offset, messages)), pa.int64()),
    }
    if metadata.key:
        columns["_key"] = pa.array(list(map(Message.key, messages)), pa.binary())
    if metadata.timestamp:
        stamps = np.fromiter((time for _, time in map(Message.timestamp, messages)), np.int64, len(messages))
        columns["_timestamp"] = pa.array(stamps * 1000, pa.timestamp("us", tz="UTC"))
    if metadata.headers:
        # a name that comes again replaces the one before, as a map wants
        pairs = [list(dict(message.headers() or ()).items()) for message in messages]
        columns["_headers"] = pa.array(pairs, _HEADERS)
    return pa.table(columns)
