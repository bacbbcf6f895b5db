"""The base class of streams whose records have positions: decodes values, plans ranges, and polls for new records."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Self

from pipeline.connectors.column_names import ColumnNames
from pipeline.connectors.contract import undeclared_names
from pipeline.connectors.direct_tail import DirectTail
from pipeline.connectors.kafka.value_formats import Avro, Format, Metadata, Protobuf, metadata_of
from pipeline.connectors.log_batches import plan_log
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.definitions import names
from pipeline.core.errors import DefinitionError, Place, SourceError, did_you_mean
from pipeline.core.fingerprint import fingerprint
from pipeline.core.schema import Schema
from pipeline.core.sources import Extent, LogTraits, NewColumns, ReadResult, ScanQuery, Tail
from pipeline.core.splits import SourceObject, SourceSplit

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from pipeline.connectors.kafka.decoding import Decoder

_RECORD_BYTES = 300
"""Assumed size of a record for planning."""
_SAMPLED = 10_000
_REUSE_S = 0.05
"""How long a tail uses the positions that the system returned."""


@dataclass(frozen=True)
class StreamPartition:
    """A stream as one partition, as the decoder of values names it."""

    uri: str
    topic: str
    number: int = 0


@dataclass(frozen=True, kw_only=True)
class RecordStream:
    """One or more streams of a system, each of which is a partition."""

    streams: tuple[str, ...]
    format: Format = "json"
    metadata: Metadata = field(default_factory=Metadata)
    new_columns: NewColumns = "discard_value"
    """What happens to fields that are not in the contract."""
    naming: ColumnNames = field(default_factory=ColumnNames)
    """Which fields have another name in the table."""

    def __getstate__(self) -> dict[str, object]:
        """Pickle the options only; connections are opened again."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @property
    @abstractmethod
    def scheme(self) -> str:
        """The scheme of the partitions' URIs."""

    @abstractmethod
    def extent(self, name: str) -> Extent:
        """Return the positions that a stream contains now; raise `SourceError` if it does not exist."""

    @abstractmethod
    def offsets_at(self, time: datetime) -> Mapping[str, int]:
        """Return for each stream the position of the first record at or after a time."""

    @abstractmethod
    def records(self, name: str, extent: Extent) -> pa.Table:
        """Return the records of a stream's range in order: their values, positions and the requested metadata.

        Raises `SourceError` if some of the range was removed, or if the stream was created again.
        """

    @property
    def fingerprint(self) -> str:
        """A hash of the format and the metadata; the names of the streams are not part of it."""
        kind = self.format if isinstance(self.format, str) else type(self.format).__name__
        policy = () if self.new_columns in {"discard_value", "freeze"} else (self.new_columns,)
        return fingerprint(self.scheme, kind, self.metadata.columns, *policy, *self.naming.renamed_part)

    def evolving(self, new_columns: NewColumns) -> Self:
        """Return these streams with a rule for fields that are not in the contract."""
        return replace(self, new_columns=new_columns)

    def beyond(self, split: SourceSplit, schema: Schema) -> Schema:
        """Return the fields of a range's records that are not in the contract, with the inferred types."""
        inferred = self.decoder.infer(self._split_records(split), Place(split.source_object.uri))
        return inferred.select(undeclared_names(schema, inferred.names))

    def extents(self) -> Mapping[str, Extent]:
        """Return the positions that each stream contains now; raise `SourceError` if one does not exist."""
        return {self.uri(name): self.extent(name) for name in self.streams}

    @property
    def traits(self) -> LogTraits:
        """Streams are independent of each other and are not removed."""
        return LogTraits()

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Return the ranges of each stream beyond the cursor."""
        return plan_log(self, cursor, bound, row_bytes=_RECORD_BYTES)

    def schema(self, source_object: SourceObject) -> Schema:
        """Infer the columns from a stream's first records; raise `SourceError` if it has none."""
        name = self._name(source_object.uri)
        extent = self.extent(name)
        first = Extent(extent.begin, min(extent.end, extent.begin + _SAMPLED), extent.stamp)
        return self.decoder.infer(self.records(name, first), Place(source_object.uri))

    def read(self, split: SourceSplit, schema: Schema) -> ReadResult:
        """Return the records of a range at their positions; raise `SchemaError` for columns that they cannot have."""
        partition = self._partition(split)
        self.decoder.check_columns(schema, Place(partition.uri))
        return self.decoder.read(self._split_records(split), schema, partition)

    @contextmanager
    def scan(self, con: duckdb.DuckDBPyConnection, split: SourceSplit, schema: Schema) -> Iterator[ScanQuery | None]:
        """Yield a range as a query, with its records in memory; `None` if one of them is not a valid record."""
        partition = self._partition(split)
        self.decoder.check_columns(schema, Place(partition.uri))
        with self.decoder.scan(con, self._split_records(split), schema, partition) as scanned:
            yield scanned

    def parse(self, rows: Sequence[str], schema: Schema) -> ReadResult:
        """Decode rejected rows again, from the texts that `read` returned; metadata is null."""
        self.decoder.check_columns(schema, Place(self.scheme))
        return self.decoder.parse(rows, schema)

    @contextmanager
    def tail(self, offsets: Mapping[str, int]) -> Iterator[Tail]:
        """Read records as they arrive, by asking for new positions."""
        yield DirectTail(self, dict(offsets), reuse_s=_REUSE_S)

    @cached_property
    def decoder(self) -> Decoder:
        """Decodes values into rows."""
        from pipeline.connectors.kafka.decoding import Decoder  # noqa: PLC0415 - used when data is read

        return Decoder(self.format, self.metadata, new_columns=self.new_columns, naming=self.naming)

    def uri(self, name: str) -> str:
        """Return the URI of a stream."""
        return f"{self.scheme}://{name}"

    def _name(self, uri: str) -> str:
        return uri.removeprefix(f"{self.scheme}://")

    def _partition(self, split: SourceSplit) -> StreamPartition:
        return StreamPartition(split.source_object.uri, self._name(split.source_object.uri))

    def _split_records(self, split: SourceSplit) -> pa.Table:
        name = self._name(split.source_object.uri)
        end = self.extent(name).end if split.end is None else split.end
        return self.records(name, Extent(split.begin, end, split.source_object.stamp))


def require_streams(streams: str | Sequence[str], system: str) -> tuple[str, ...]:
    """Return the names of streams; raise `DefinitionError` if there are none."""
    chosen = tuple(sorted(set(names(streams))))
    if not all(chosen) or not chosen:
        raise DefinitionError(f"a {system} source needs the name of a stream")
    return chosen


def stream_metadata(chosen: str | Sequence[str], known: Sequence[str], system: str) -> Metadata:
    """Return the metadata to fetch; raise `DefinitionError` for metadata that the messages of a system do not have."""
    unknown = sorted(set(names(chosen)) - set(known))
    if unknown:
        do = did_you_mean(unknown[0], known)
        raise DefinitionError(f"unknown metadata of a {system} stream", got=repr(unknown[0]), do=do)
    return metadata_of(chosen)


def require_format(format: Format, system: str) -> None:  # noqa: A002 - the usual name of the option
    """Raise `DefinitionError` for a format that is not known."""
    if not isinstance(format, Avro | Protobuf) and format not in {"json", "text", "raw"}:
        known = did_you_mean(str(format), ("json", "text", "raw", "avro", "protobuf"))
        raise DefinitionError(f"unknown format of {system}", got=repr(format), do=known)


def removed(uri: str, begin: int, first: int) -> SourceError:
    """Return the error for a range whose first records were removed before they were read."""
    return SourceError(
        "records were removed before they were read",
        got=f"position {begin}, but the stream begins at {first}",
        do="keep records longer; to continue with the others: headwater run --accept-gaps",
        place=Place(uri),
    )


def created_again(uri: str) -> SourceError:
    """Return the error for a stream that was deleted and created again."""
    return SourceError(
        "the stream was deleted and created again",
        do="its positions now identify other records: headwater run --full, or restart the stream with --from earliest",
        place=Place(uri),
    )
