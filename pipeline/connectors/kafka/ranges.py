"""Reads ranges of a partition from the brokers, each with its own consumer."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.connectors.kafka.client import PATIENCE_S, PartitionConsumer
from pipeline.connectors.kafka.message_batches import empty, fetch
from pipeline.connectors.kafka.partitions import Partition
from pipeline.core.errors import Place, SourceError, SourceUnavailableError
from pipeline.core.sources import POSITION, Extent
from pipeline.core.splits import SourceSplit

if TYPE_CHECKING:
    from pipeline.connectors.kafka.source import Kafka

_FETCH_ROWS = 20_000
_WAIT_S = 0.02
_BUFFER_BYTES = 32 << 20


def fetched(kafka: Kafka, split: SourceSplit) -> pa.Table:
    """Return the records of a range; raise `SourceError` if some of it no longer exists or does not arrive in time."""
    partition = Partition.of(split.source_object.uri)
    extent = kafka.client.extents([partition])[partition]
    end = extent.end if split.end is None else split.end
    begin = max(split.begin, extent.begin) if split.is_whole else split.begin
    ids, place = {partition.topic: split.source_object.stamp}, Place(split.source_object.uri)
    try:
        records = empty(kafka.metadata) if begin >= end else _fetch_range(kafka, partition, Extent(begin, end))
    except SourceError:
        check_topics(kafka, ids, place)  # a missing topic is the better explanation
        raise
    if not check_topics(kafka, ids, place):
        raise SourceUnavailableError(
            "Kafka does not answer", got="no id of the topic", do="check the brokers", place=place
        )
    return records


def sample(kafka: Kafka, partition: Partition, rows: int) -> pa.Table:
    """Return the first records of a partition, from at most `rows` offsets."""
    extent = kafka.client.extents([partition])[partition]
    if extent.begin == extent.end:
        return empty(kafka.metadata)
    return _fetch_range(kafka, partition, Extent(extent.begin, min(extent.end, extent.begin + rows)))


def check_topics(kafka: Kafka, ids: dict[str, str], place: Place, *, patience_s: float = PATIENCE_S) -> bool:
    """Raise `SourceError` if a topic no longer has its id; return False if no broker answers in time.

    Records that were read before this check came from the topic with that id.
    """
    current_ids = kafka.client.ids(tuple(ids), patience_s)
    if current_ids is None:
        return False
    for topic, expected_id in ids.items():
        if current_ids[topic] != expected_id:
            raise SourceError(
                f"the topic {topic!r} was deleted or recreated",
                got=f"the id {current_ids[topic]}, not {expected_id}" if current_ids[topic] else "no topic",
                do="its offsets now identify other records: restart with --from earliest",
                place=place,
            )
    return True


def _fetch_range(kafka: Kafka, partition: Partition, extent: Extent) -> pa.Table:
    """Return the records of a range.

    The range is complete when the reader's position reaches its end, even if the last offsets contain no records:
    aborted records, transaction markers and compacted records are not delivered.
    """
    with closing(PartitionConsumer(kafka.options(), kafka.place, ahead_bytes=_BUFFER_BYTES)) as stream:
        stream.add({partition: extent.begin})
        tables, at, until = [empty(kafka.metadata)], extent.begin, time.monotonic() + PATIENCE_S
        while at < extent.end:
            fetched = fetch(stream, kafka.metadata, _FETCH_ROWS, _WAIT_S).get(partition)
            if fetched is not None and fetched.end > at:
                tables.append(fetched.records)
                at, until = fetched.end, time.monotonic() + PATIENCE_S
            elif time.monotonic() > until:
                raise SourceUnavailableError(
                    "the records of a range were not received",
                    got=f"those up to {at} of {extent.begin} to {extent.end}",
                    do="check the brokers; a transaction may be open",
                    place=Place(partition.uri),
                )
    records = pa.concat_tables(tables)
    return records if at == extent.end else records.filter(pc.less(records.column(POSITION), extent.end))
