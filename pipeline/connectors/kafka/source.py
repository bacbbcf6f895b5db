"""Topics of Kafka as a log.

Delivery: the records of committed transactions, each at its offset, and never one twice for a range of offsets. An
offset that is gone, or a topic that was deleted and created again, is an error: nothing is skipped, and no reader is
reset. No consumer group is joined and no offset is committed to Kafka.
"""

from __future__ import annotations

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

from pipeline.connectors.contract import undeclared_names
from pipeline.connectors.kafka.partitions import Partition, Topic
from pipeline.connectors.kafka.security import Sasl, Tls
from pipeline.connectors.kafka.value_formats import Avro, Field, Format, Metadata, Protobuf, metadata_of
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
"""What a record is taken to weigh where work is planned: brokers tell offsets, not bytes."""
_SAMPLED = 10_000


@dataclass(frozen=True)
class Kafka:
    """Some topics of a cluster. Make one with `kafka`."""

    topics: tuple[str, ...]
    pattern: str | None
    servers: str | None
    format: Format = "json"
    metadata: Metadata = field(default_factory=Metadata)
    security: Tls | Sasl | None = None
    keeps_tombstones: bool = False
    ahead_bytes: int = field(default=AHEAD_BYTES, compare=False)
    event_time: EventTime | None = None
    """The event time, whose column a message without a value has its own time in, where such messages are kept."""
    new_columns: NewColumns | None = None
    """What happens to fields that the contract does not name; `None`: they are passed over."""

    def __getstate__(self) -> dict[str, object]:
        """Pickle the options alone: connections are made anew."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @property
    def fingerprint(self) -> str:
        """A hash of the format and of what is fetched; which topics, and where they are, does not count."""
        kind = self.format if isinstance(self.format, str) else type(self.format).__name__
        kept = ("message", self.format.message) if isinstance(self.format, Protobuf) else ()
        policy = () if self.new_columns in {None, "refuse"} else (self.new_columns,)
        return fingerprint("kafka", kind, kept, self.metadata.columns, self.keeps_tombstones, *policy)

    def evolving(self, new_columns: NewColumns) -> Kafka:
        """Return the topics for a source that does this with fields that its contract does not have."""
        return replace(self, new_columns=new_columns)

    def beyond(self, part: SourceSplit, schema: Schema) -> Schema:
        """Return the fields of a range's records that a contract does not have, with the types that these tell."""
        inferred = self.decoder.infer(self.records(part), Place(part.piece.uri))
        return inferred.select(undeclared_names(schema, inferred.names))

    def timed(self, time: EventTime) -> Kafka:
        """Return the topics for a source with this event time: a tombstone then has its message's time."""
        if not self.keeps_tombstones:
            return self
        return replace(self, event_time=time, metadata=replace(self.metadata, timestamp=True))

    @property
    def traits(self) -> LogTraits:
        """Partitions are independent of each other, and stay."""
        return LogTraits()

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Return ranges of what each partition holds beyond the offsets of a cursor; `SourceError` when no topic matches."""
        if not self._topics():
            raise SourceError("no topic matches", got=repr(self.pattern), do="create one", place=self.place)
        return plan_log(self, cursor, bound, row_bytes=_RECORD_BYTES)

    def schema(self, piece: SourceObject) -> Schema:
        """Return the columns of a partition's first records; raise `SourceError` when there are none to go by."""
        from pipeline.connectors.kafka.ranges import sample  # noqa: PLC0415 - Kafka's client is an extra

        return self.decoder.infer(sample(self, Partition.of(piece.uri), _SAMPLED), Place(piece.uri))

    def read(self, part: SourceSplit, schema: Schema) -> ReadResult:
        """Return the records of a range at their offsets; without an end, up to what is committed now.

        Raises `SchemaError` for a contract that these records cannot have, and `SourceError` when some of the range is
        gone, is not committed in time, or when the topic is not the one that the piece was of.
        """
        partition = Partition.of(part.piece.uri)
        self.decoder.check_columns(schema, Place(part.piece.uri))
        return self.decoder.read(self.records(part), schema, partition)

    @contextmanager
    def scan(self, con: duckdb.DuckDBPyConnection, part: SourceSplit, schema: Schema) -> Iterator[ScanQuery | None]:
        """Yield a range as a query, with its records in memory; None when one of them is no row at all."""
        partition = Partition.of(part.piece.uri)
        self.decoder.check_columns(schema, Place(part.piece.uri))
        with self.decoder.scan(con, self.records(part), schema, partition) as scanned:
            yield scanned

    def parse(self, rows: Sequence[str], schema: Schema) -> ReadResult:
        """Read rejected rows again, from the texts that `read` gave; what is not in a value, as its key, is null."""
        self.decoder.check_columns(schema, self.place)
        return self.decoder.parse(rows, schema)

    def extents(self) -> Mapping[str, Extent]:
        """Return what each partition holds now, without what waits behind an open transaction."""
        topics = self._topics()
        extents = self._extents(topics)
        return {p.uri: Extent(e.begin, e.end, topics[p.topic].id) for p, e in extents.items()}

    def check(self) -> Iterator[Finding]:
        """Look at the topics for what may hurt a stream, and for transactions that hold its readers back."""
        from pipeline.connectors.kafka.administration import check  # noqa: PLC0415 - Kafka's client is an extra

        return check(self)

    def held_back(self) -> Mapping[str, int]:
        """Return for each partition how many offsets wait behind a transaction that is neither committed nor aborted.

        It is over in seconds, or at the transaction's time-out; one that stays is an alarm: the partition stands still.
        """
        extents = self._extents(self._topics())
        return {p.uri: max(0, end - extents[p].end) for p, end in self.client.high_watermarks(tuple(extents)).items()}

    def offsets_at(self, time: datetime) -> Mapping[str, int]:
        """Return for each partition the offset of the first record of that time or later; its end where there is none.

        The time is the message's own, which the producer or the broker gave it.
        """
        partitions = _partitions(self._topics())
        return {p.uri: at for p, at in self.client.offsets_at(partitions, time).items()}

    def tail(self, offsets: Mapping[str, int]) -> AbstractContextManager[Tail]:
        """Read some partitions on and on, in a thread of its own, at most `ahead_bytes` ahead of what is taken.

        Raises `SourceError` for an offset that is not held any more.
        """
        from pipeline.connectors.kafka.tail import tail  # noqa: PLC0415 - Kafka's client is an extra

        return tail(self, offsets)

    @cached_property
    def decoder(self) -> Decoder:
        """What makes rows of values."""
        from pipeline.connectors.kafka.decoding import Decoder  # noqa: PLC0415 - Kafka's client is an extra

        return Decoder(self.format, self.metadata, self.keeps_tombstones, self.event_time, self.new_columns)

    @property
    def place(self) -> Place:
        """The topics, as an error names them."""
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
        """What asks the brokers; connected when first used."""
        try:
            from pipeline.connectors.kafka.client import Client  # noqa: PLC0415 - an extra
        except ImportError as error:
            problem = "Kafka support is not installed"
            raise SourceError(problem, got=error.name, do="pip install 'headwater[kafka]'") from error
        return Client(self.options(), self.place)

    def _topics(self) -> Mapping[str, Topic]:
        return self.client.topics(self.topics, self.pattern)

    def _extents(self, topics: Mapping[str, Topic]) -> Mapping[Partition, Extent]:
        return self.client.extents(_partitions(topics))

    def records(self, part: SourceSplit) -> pa.Table:
        """Return the records of a range, read from the brokers."""
        from pipeline.connectors.kafka.ranges import fetched  # noqa: PLC0415 - Kafka's client is an extra

        return fetched(self, part)


def kafka(
    topics: str | Sequence[str] = (),
    *,
    pattern: str | None = None,
    servers: str | None = None,
    format: Format = "json",  # noqa: A002 - the field's word
    metadata: Sequence[Field] = (),
    security: Tls | Sasl | None = None,
    tombstones: str = "reject",
    ahead_bytes: int = AHEAD_BYTES,
) -> Kafka:
    """Read topics of Kafka, by name, or all whose whole name matches a regular expression, new ones too.

    `servers` are `host:port` with commas between; without it `HEADWATER_KAFKA_SERVERS` is used when data moves.
    `format` says what a value is: `json` (an object; fields that the contract does not name are passed over), `text`,
    `raw`, `Avro(…)` or `Protobuf(…)`. `metadata` names what is fetched of the message itself: `key`, `timestamp`,
    `headers`, `topic`, `partition`, `offset`, each as a column of that name after an underscore. A message without a
    value (a tombstone) is set aside, unless `tombstones="keep"`: then it is a row of nulls, to be told by its key,
    whose event time is the time of the message.

    Raises `DefinitionError` for options that do not go together.
    """
    names = (topics,) if isinstance(topics, str) else tuple(topics)
    if bool(names) == (pattern is not None):
        raise DefinitionError("a Kafka source needs either topics or a pattern", do="pass one of them")
    if not isinstance(format, Avro | Protobuf) and format not in {"json", "text", "raw"}:
        known = did_you_mean(str(format), ("json", "text", "raw", "avro", "protobuf"))
        raise DefinitionError("unknown format of Kafka values", got=repr(format), do=known)
    if tombstones not in {"reject", "keep"}:
        raise DefinitionError("tombstones= must be 'reject' or 'keep'", got=repr(tombstones))
    if pattern is not None:
        try:
            re.compile(pattern)
        except re.error as error:
            raise DefinitionError("pattern= is no regular expression", got=f"{pattern!r}: {error}") from error
    return Kafka(
        tuple(sorted(set(names))),
        pattern,
        servers,
        format,
        metadata_of(metadata),
        security,
        tombstones == "keep",
        ahead_bytes,
    )


def _partitions(topics: Mapping[str, Topic]) -> tuple[Partition, ...]:
    return tuple(Partition(topic.name, number) for topic in topics.values() for number in range(topic.partitions))
