"""Kafka topics as a log.

Delivery: the records of committed transactions, each at its offset, and each once per range of offsets. A deleted
offset, or a topic that was deleted and created again, is an error: nothing is skipped, and offsets are never reset.
No consumer group is joined, and no offset is committed to Kafka.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from pipeline.connectors.column_names import ColumnNames
from pipeline.connectors.contract import undeclared_names
from pipeline.connectors.kafka.partitions import Partition, Topic
from pipeline.connectors.kafka.security import Sasl, Tls
from pipeline.connectors.kafka.value_formats import (
    Avro,
    Debezium,
    Field,
    Format,
    Metadata,
    Protobuf,
    metadata_of,
    naming_of,
)
from pipeline.connectors.log_batches import plan_log
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.errors import DefinitionError, Place, SourceError, did_you_mean
from pipeline.core.event_time import EventTime
from pipeline.core.findings import Finding
from pipeline.core.fingerprint import fingerprint
from pipeline.core.schema import Schema
from pipeline.core.sources import Extent, LogTraits, NewColumns, ReadResult, ScanQuery, Tail
from pipeline.core.splits import SourceObject, SourceSplit

if TYPE_CHECKING:
    from pipeline.connectors.kafka.client import Client
    from pipeline.connectors.kafka.decoding import Decoder

SERVERS = "HEADWATER_KAFKA_SERVERS"
AHEAD_BYTES = 64 << 20
_RECORD_BYTES = 200
"""Assumed size of a record for planning: brokers report offsets, not bytes."""
_SAMPLED = 10_000


@dataclass(frozen=True)
class Kafka:
    """Topics of a cluster. Create it with `kafka`."""

    topics: tuple[str, ...]
    pattern: str | None
    servers: str | None
    format: Format = "json"
    metadata: Metadata = field(default_factory=Metadata)
    security: Tls | Sasl | None = None
    keeps_tombstones: bool = False
    ahead_bytes: int = field(default=AHEAD_BYTES, compare=False)
    event_time: EventTime | None = None
    """The event time; messages without a value use the message timestamp if tombstones are kept."""
    new_columns: NewColumns = "discard_value"
    """What happens to fields that are not in the contract."""
    naming: ColumnNames = field(default_factory=ColumnNames)
    """Which fields have another name in the table."""

    def __getstate__(self) -> dict[str, object]:
        """Pickle the options only; connections are opened again."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @property
    def fingerprint(self) -> str:
        """A hash of the format and the metadata; topics and servers are not part of it."""
        kind = self.format if isinstance(self.format, str) else type(self.format).__name__
        kept = ("message", self.format.message) if isinstance(self.format, Protobuf) else ()
        if isinstance(self.format, Debezium):
            kept = ("types", json.dumps(dict(sorted(self.format.types.items()))))
        policy = () if self.new_columns in {"discard_value", "freeze"} else (self.new_columns,)
        more = (*policy, *self.naming.renamed_part)
        return fingerprint("kafka", kind, kept, self.metadata.columns, self.keeps_tombstones, *more)

    def evolving(self, new_columns: NewColumns) -> Kafka:
        """Return these topics with a rule for fields that are not in the contract."""
        return replace(self, new_columns=new_columns)

    def beyond(self, split: SourceSplit, schema: Schema) -> Schema:
        """Return the fields of a range's records that are not in the contract, with the inferred types."""
        inferred = self.decoder.infer(self.records(split), Place(split.source_object.uri))
        return inferred.select(undeclared_names(schema, inferred.names))

    def timed(self, time: EventTime) -> Kafka:
        """Return these topics with an event time, for which tombstones use the message timestamp."""
        if not self.keeps_tombstones:
            return self
        return replace(self, event_time=time, metadata=replace(self.metadata, timestamp=True))

    @property
    def traits(self) -> LogTraits:
        """Partitions are independent of each other and are not removed."""
        return LogTraits()

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Return the ranges of each partition beyond the cursor; raise `SourceError` if no topic matches."""
        if not self._topics():
            raise SourceError("no topic matches", got=repr(self.pattern), do="create one", place=self.place)
        return plan_log(self, cursor, bound, row_bytes=_RECORD_BYTES)

    def schema(self, source_object: SourceObject) -> Schema:
        """Infer the columns from a partition's first records; raise `SourceError` if it has none."""
        from pipeline.connectors.kafka.ranges import sample  # noqa: PLC0415 - optional dependency

        return self.decoder.infer(sample(self, Partition.of(source_object.uri), _SAMPLED), Place(source_object.uri))

    def read(self, split: SourceSplit, schema: Schema) -> ReadResult:
        """Return the records of a range at their offsets; without an end, up to the last committed offset.

        Raises `SchemaError` if these records cannot have the columns of the contract, and `SourceError` if some of the
        range was deleted or is not committed in time, or if the topic was recreated.
        """
        partition = Partition.of(split.source_object.uri)
        self.decoder.check_columns(schema, Place(split.source_object.uri))
        return self.decoder.read(self.records(split), schema, partition)

    @contextmanager
    def scan(self, con: duckdb.DuckDBPyConnection, split: SourceSplit, schema: Schema) -> Iterator[ScanQuery | None]:
        """Yield a range as a query, with its records in memory; None if one of them is not a valid record."""
        partition = Partition.of(split.source_object.uri)
        self.decoder.check_columns(schema, Place(split.source_object.uri))
        with self.decoder.scan(con, self.records(split), schema, partition) as scanned:
            yield scanned

    def parse(self, rows: Sequence[str], schema: Schema) -> ReadResult:
        """Decode rejected rows again, from the texts that `read` returned; metadata such as the key is null."""
        self.decoder.check_columns(schema, self.place)
        return self.decoder.parse(rows, schema)

    def extents(self) -> Mapping[str, Extent]:
        """Return the range of offsets of each partition, excluding records behind an open transaction."""
        topics = self._topics()
        extents = self._extents(topics)
        return {p.uri: Extent(e.begin, e.end, topics[p.topic].id) for p, e in extents.items()}

    def check(self) -> Iterator[Finding]:
        """Check the topics for settings that can harm a stream, and for transactions that block its readers."""
        from pipeline.connectors.kafka.administration import check  # noqa: PLC0415 - optional dependency

        return check(self)

    def held_back(self) -> Mapping[str, int]:
        """Return, for each partition, the number of offsets behind a transaction that is neither committed nor aborted.

        This normally lasts seconds, at most the transaction timeout. If it persists, the partition is blocked.
        """
        extents = self._extents(self._topics())
        return {p.uri: max(0, end - extents[p].end) for p, end in self.client.high_watermarks(tuple(extents)).items()}

    def offsets_at(self, time: datetime) -> Mapping[str, int]:
        """Return, for each partition, the offset of the first record at or after a time; its end if there is none.

        The time is the message timestamp, set by the producer or the broker.
        """
        partitions = _partitions(self._topics())
        return {p.uri: at for p, at in self.client.offsets_at(partitions, time).items()}

    def tail(self, offsets: Mapping[str, int]) -> AbstractContextManager[Tail]:
        """Read partitions continuously in a thread, prefetching at most `ahead_bytes`.

        Raises `SourceError` if an offset was deleted.
        """
        from pipeline.connectors.kafka.tail import tail  # noqa: PLC0415 - optional dependency

        return tail(self, offsets)

    @cached_property
    def decoder(self) -> Decoder:
        """Decodes values into rows."""
        from pipeline.connectors.kafka.decoding import Decoder  # noqa: PLC0415 - optional dependency

        decoder = Decoder(
            self.format, self.metadata, self.keeps_tombstones, self.event_time, self.new_columns, self.naming
        )
        if isinstance(self.format, Debezium):
            from pipeline.connectors.kafka.debezium import decoder_of  # noqa: PLC0415 - likewise

            return decoder_of(decoder, self.format)
        return decoder

    @property
    def place(self) -> Place:
        """The topics, as shown in error messages."""
        return Place(f"kafka://{','.join(self.topics) or self.pattern}")

    def options(self) -> Mapping[str, str]:
        """Return the client's settings; raise `DefinitionError` if no bootstrap servers are configured."""
        servers = self.servers or os.environ.get(SERVERS)
        if not servers:
            problem = "no Kafka bootstrap servers are configured"
            raise DefinitionError(problem, do=f"pass servers=, or set {SERVERS}", place=self.place)
        return {"bootstrap.servers": servers, **({} if self.security is None else self.security.options())}

    @cached_property
    def client(self) -> Client:
        """Queries the brokers; connected at first use."""
        try:
            from pipeline.connectors.kafka.client import Client  # noqa: PLC0415 - optional dependency
        except ImportError as error:
            problem = "Kafka support is not installed"
            raise SourceError(problem, got=error.name, do="pip install 'headwater[kafka]'") from error
        return Client(self.options(), self.place)

    def _topics(self) -> Mapping[str, Topic]:
        return self.client.topics(self.topics, self.pattern)

    def _extents(self, topics: Mapping[str, Topic]) -> Mapping[Partition, Extent]:
        return self.client.extents(_partitions(topics))

    def records(self, split: SourceSplit) -> pa.Table:
        """Return the records of a range, read from the brokers."""
        from pipeline.connectors.kafka.ranges import fetched  # noqa: PLC0415 - optional dependency

        return fetched(self, split)


def kafka(
    topics: str | Sequence[str] = (),
    *,
    pattern: str | None = None,
    servers: str | None = None,
    format: Format = "json",  # noqa: A002 - the usual name of the option
    metadata: Field | Sequence[Field] = (),
    rename: Mapping[str, str] | None = None,
    security: Tls | Sasl | None = None,
    tombstones: str = "reject",
    ahead_bytes: int = AHEAD_BYTES,
) -> Kafka:
    """Read Kafka topics by name, or all topics whose full name matches a regular expression, including new ones.

    `servers` is a comma-separated list of `host:port`; if omitted, `HEADWATER_KAFKA_SERVERS` is read when data is
    read. `format` describes a value: `json` (an object; fields that are not in the contract are ignored), `text`,
    `raw`, `Avro(…)`, `Protobuf(…)` or `Debezium()`. `metadata` selects `key`, `timestamp`, `headers`, `topic`, `partition` or `offset` of
    the message, each as a column with this name after an underscore. A message without a value (a tombstone) is
    quarantined, unless `tombstones="keep"`: then it is a row of nulls, identified by its key, whose event time is the
    message timestamp. `rename` maps names of fields to names of columns: a column has the value of the field with the old
    name, or else of the one with the new name.

    Raises `DefinitionError` for invalid or contradictory options.
    """
    names = (topics,) if isinstance(topics, str) else tuple(topics)
    if bool(names) == (pattern is not None):
        raise DefinitionError("a Kafka source needs either topics or a pattern", do="pass one of them")
    if not isinstance(format, Avro | Protobuf | Debezium) and format not in {"json", "text", "raw"}:
        known = did_you_mean(str(format), ("json", "text", "raw", "avro", "protobuf"))
        raise DefinitionError("unknown format of Kafka values", got=repr(format), do=known)
    if tombstones not in {"reject", "keep"}:
        raise DefinitionError("tombstones= must be 'reject' or 'keep'", got=repr(tombstones))
    if pattern is not None:
        try:
            re.compile(pattern)
        except re.error as error:
            raise DefinitionError("pattern= is not a valid regular expression", got=f"{pattern!r}: {error}") from error
    return Kafka(
        tuple(sorted(set(names))),
        pattern,
        servers,
        format,
        metadata_of(metadata),
        security,
        tombstones == "keep",
        ahead_bytes,
        naming=naming_of(rename, format),
    )


def _partitions(topics: Mapping[str, Topic]) -> tuple[Partition, ...]:
    return tuple(Partition(topic.name, number) for topic in topics.values() for number in range(topic.partitions))
