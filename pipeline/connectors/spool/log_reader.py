"""The base class of connectors that write messages to a durable log of their own, from which they are read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pipeline.connectors.column_names import ColumnNames
from pipeline.connectors.contract import check_columns, shift_positions
from pipeline.connectors.direct_tail import DirectTail
from pipeline.connectors.files.csv.reader import Dialect
from pipeline.connectors.log_batches import plan_log
from pipeline.connectors.spool.reader import SpooledReader
from pipeline.connectors.spool.record_log import RecordLog, parts_of
from pipeline.core import scratch
from pipeline.core.clients import message_of
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.errors import DefinitionError, Place, SourceError, did_you_mean
from pipeline.core.schema import Schema
from pipeline.core.sources import Extent, LogTraits, ReadResult, ScanQuery, Tail
from pipeline.core.splits import SourceObject, SourceSplit

if TYPE_CHECKING:
    import duckdb

_ROW_BYTES = 500
"""Assumed size of a record for planning."""
_SAMPLED = 10_000
RECEIVED_AT = "received_at"


@dataclass(frozen=True, kw_only=True)
class MessageLog(SpooledReader):
    """Messages in a durable log. A partition is a folder; an offset is the number of a record.

    `metadata` names what is added to the columns of a message, each with an underscore: `_received_at` and others. A body
    that is not a JSON object is quarantined.
    """

    metadata: tuple[str, ...] = ()
    naming: ColumnNames = field(default_factory=ColumnNames)
    """Which fields have another name in the table."""

    known_metadata: ClassVar[tuple[str, ...]] = (RECEIVED_AT,)

    def __post_init__(self) -> None:
        """Raise `DefinitionError` for metadata that these messages do not have."""
        for name in self.metadata:
            if name not in self.known_metadata:
                raise DefinitionError("unknown metadata", got=repr(name), do=did_you_mean(name, self.known_metadata))

    @property
    def dialect(self) -> Dialect:
        """How messages become columns."""
        return replace(super().dialect, naming=self.naming)

    @property
    def home(self) -> Path:
        """The folder with the partitions."""
        return Path(self.segments.location)

    def partition(self, name: str = "0") -> RecordLog:
        """Return the log of a partition, which may not exist yet."""
        return RecordLog(self.home / name)

    @property
    def traits(self) -> LogTraits:
        """Partitions are independent of each other and are not removed."""
        return LogTraits()

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Return the records of each partition beyond the cursor."""
        return plan_log(self, cursor, bound, row_bytes=_ROW_BYTES)

    def extents(self) -> Mapping[str, Extent]:
        """Return the numbers of the records of each partition."""
        with self._translated_errors():
            names = sorted(path.name for path in self.home.iterdir() if path.is_dir()) if self.home.is_dir() else []
            extents = {f"{self.uri}/{name}": self.partition(name).extent() for name in names}
        return {uri: extent for uri, extent in extents.items() if extent is not None}

    def offsets_at(self, time: datetime) -> Mapping[str, int]:
        """Return for each partition the number of the first record that was received at or after a time."""
        moment_ms = int(time.timestamp() * 1000)
        with self._translated_errors():
            return {uri: self._log(uri).number_at(moment_ms) for uri in self.extents()}

    @contextmanager
    def tail(self, offsets: Mapping[str, int]) -> Iterator[Tail]:
        """Read records as they arrive."""
        yield DirectTail(self, dict(offsets))

    @contextmanager
    def scan(self, con: duckdb.DuckDBPyConnection, split: SourceSplit, schema: Schema) -> Iterator[ScanQuery | None]:
        """Yield `None`: records are always read by `read`. Raises `SchemaError` for a reserved column name."""
        del con
        check_columns(schema, schema.names, Place(split.source_object.uri))
        yield None

    def schema(self, source_object: SourceObject) -> Schema:
        """Return the fields of a partition's first records; raise `SourceError` if it has none."""
        extent = self.extents().get(source_object.uri)
        if extent is None or extent.begin == extent.end:
            place = Place(source_object.uri)
            raise SourceError("there are no records to infer the columns from", do="pass schema=", place=place)
        end = min(extent.end, extent.begin + _SAMPLED)
        with self.lines(SourceSplit(source_object, extent.begin, end)) as path:
            return self.infer(path, Place(source_object.uri))

    def read(self, split: SourceSplit, schema: Schema) -> ReadResult:
        """Return the records of a range at their offsets; without an end, up to the last one.

        Raises `SourceError` if some of the range was removed, or if the log was created again.
        """
        check_columns(schema, schema.names, Place(split.source_object.uri))
        return shift_positions(self.read_lines(split, schema), split.begin - 1)

    @contextmanager
    def lines(self, split: SourceSplit) -> Iterator[str]:
        """Yield a path with the bodies of a range's records, one per line, with the metadata."""
        records = self._records(split)
        with scratch.folder("records") as folder:
            path = Path(folder) / "records"
            path.write_bytes(b"".join(self._row(line) + b"\n" for line in records) or b"\n")
            yield str(path)

    def _records(self, split: SourceSplit) -> Sequence[bytes]:
        uri, place = split.source_object.uri, Place(split.source_object.uri)
        with self._translated_errors():
            extent = self._log(uri).extent()
            end = split.end if split.end is not None else 0 if extent is None else extent.end
            found = self._log(uri).records(split.begin, end)
        if split.source_object.stamp and (extent is None or extent.stamp != split.source_object.stamp):
            raise SourceError("the log was deleted and created again", do="headwater run --full", place=place)
        if len(found) < end - split.begin:
            raise SourceError(
                "some records are no longer in the log",
                got=f"{len(found)} of the records {split.begin} to {end - 1}",
                do="keep them longer",
                place=place,
            )
        return found

    def _log(self, uri: str) -> RecordLog:
        return self.partition(uri.rpartition("/")[2])

    def _row(self, line: bytes) -> bytes:
        at_ms, fields, body = parts_of(line)
        if not self.metadata or not body.startswith(b"{"):
            return body
        received = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
        known = {**fields, RECEIVED_AT: received}
        names = [f"_{name}" for name in self.metadata]
        added = json.dumps(dict(zip(names, map(known.get, self.metadata), strict=True))).encode()[:-1]
        rest = _without(names, body)[1:].lstrip()
        return added + (b"}" if rest == b"}" else b"," + rest)

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SourceError("the log cannot be read", got=message_of(error), place=Place(self.uri)) from error


def _without(names: Sequence[str], body: bytes) -> bytes:
    """Return an object of JSON without fields that metadata replaces; what is not an object stays as it is."""
    if not any(json.dumps(name).encode() in body for name in names):
        return body
    try:
        fields = list(_raw_fields(body.decode()))
    except (ValueError, RecursionError):
        return body  # the reader rejects it
    kept = (f"{json.dumps(name)}: {value}" for name, value in fields if name not in names)
    return f"{{{', '.join(kept)}}}".encode()


def _raw_fields(text: str) -> Iterator[tuple[str, str]]:
    """Yield the fields of an object of JSON with the texts of their values; raise `ValueError` if it is not valid."""
    decoder, at = json.JSONDecoder(), _after_blanks(text, 1)
    while text[at : at + 1] != "}":
        name, at = decoder.raw_decode(text, at)
        at = _after_blanks(text, at)
        if not isinstance(name, str) or text[at : at + 1] != ":":
            raise ValueError(text)
        begin = _after_blanks(text, at + 1)
        _, at = decoder.raw_decode(text, begin)
        yield name, text[begin:at]
        at = _after_blanks(text, at)
        if text[at : at + 1] == ",":
            at = _after_blanks(text, at + 1)
        elif text[at : at + 1] != "}":
            raise ValueError(text)


def _after_blanks(text: str, at: int) -> int:
    while text[at : at + 1] in {" ", "\t", "\n", "\r"}:
        at += 1
    return at


def log_naming(rename: Mapping[str, str] | None, known_metadata: Sequence[str]) -> ColumnNames:
    """Return the new names of fields; raise `DefinitionError` for the name of metadata."""
    return ColumnNames.renaming(rename, [f"_{name}" for name in known_metadata])
