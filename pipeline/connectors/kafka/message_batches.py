"""Converts messages to Arrow: one table per batch and partition, with the values and the requested metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from confluent_kafka import KafkaError

from pipeline.connectors.kafka.client import PartitionConsumer
from pipeline.connectors.kafka.messages import MessageBatch
from pipeline.connectors.kafka.partitions import Partition
from pipeline.connectors.kafka.value_formats import FETCHED, VALUE, Metadata
from pipeline.core.sources import POSITION

_EOF = KafkaError._PARTITION_EOF  # noqa: SLF001 - the client's name for an internal error


@dataclass(frozen=True)
class FetchedRecords:
    """Records of one partition from one fetch, in offset order, and the offset up to which the partition is known."""

    records: pa.Table
    end: int


def fetch(
    stream: PartitionConsumer, metadata: Metadata, rows: int, wait_s: float
) -> Mapping[Partition, FetchedRecords]:
    """Fetch at most `rows` records within a time limit; raise `SourceError` for permanent errors of a partition."""
    with stream.consumer.batch(rows, wait_s) as batch:
        if batch is None:
            stream.check()
            return {}
        fetched = {p: FetchedRecords(t, int(t.column(POSITION)[-1].as_py()) + 1) for p, t in _tables(batch, metadata)}
        for fault in batch.faults:
            partition = Partition(fault.topic or "?", max(0, fault.partition))
            if fault.code != _EOF:
                stream.raise_if_permanent(fault, partition)
                continue
            before = fetched.get(partition)
            records = empty(metadata) if before is None else before.records
            fetched[partition] = FetchedRecords(
                records, fault.offset if before is None else max(fault.offset, before.end)
            )
    return fetched


def empty(metadata: Metadata) -> pa.Table:
    """Return an empty table of records."""
    extra = [(name, FETCHED[name]) for name in metadata.columns if name in FETCHED]
    return pa.schema([(VALUE, pa.binary()), (POSITION, pa.int64()), *extra]).empty_table()


def _tables(batch: MessageBatch, metadata: Metadata) -> list[tuple[Partition, pa.Table]]:
    if not len(batch):
        return []
    columns = {VALUE: batch.values(), POSITION: batch.offsets()}
    readers = {"_key": batch.keys, "_timestamp": batch.timestamps, "_headers": batch.headers}
    columns |= {name: readers[name]() for name in metadata.columns if name in readers}
    table = pa.table(columns)
    first = int(batch.places[0])
    if (batch.places == first).all():
        return [(_partition(batch, first), table)]
    places = np.unique(batch.places)
    return [(_partition(batch, int(p)), table.take(pa.array(np.flatnonzero(batch.places == p)))) for p in places]


def _partition(batch: MessageBatch, place: int) -> Partition:
    return Partition(batch.topics[place >> 32], place & 0xFFFFFFFF)
