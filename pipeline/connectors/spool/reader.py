"""The base class of connectors whose plan fetches rows into a spool."""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from pipeline.connectors.contract import REJECTED, shift_positions, undeclared_names
from pipeline.connectors.files.csv.reader import Dialect
from pipeline.connectors.files.json import reader as json_reader
from pipeline.connectors.files.source import Files
from pipeline.connectors.spool.segments import Spool, place_of, rows_of
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.errors import Place
from pipeline.core.fingerprint import fingerprint
from pipeline.core.schema import Schema
from pipeline.core.sources import NewColumns, ReadResult
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.kernel.engine import connect, expect_columns

DEFAULT_FOLDER = ".headwater/spool"
"""Where segments are kept, relative to the project's folder."""


@dataclass(frozen=True, kw_only=True)
class SpooledReader(ABC):
    """A reader whose plan fetches rows into a spool, from which splits are read, also if the system has changed since.

    `_position` is the number of a row in the order in which the source delivered its rows. A row that does not match the
    contract is quarantined as JSON, with the request and its place in the response. Fields that are not in the contract
    are ignored, unless `source(..., new_columns=)` says otherwise. Delivery: each row that the system delivered once.
    """

    spool: str | None = field(default=None, compare=False)
    """A folder, or a URI of an object store that all workers can read."""
    folder: str = field(default=".", compare=False)
    """The folder for a relative `spool`: the project's folder, once the project is loaded."""
    new_columns: NewColumns = "discard_value"
    """What happens to fields that are not in the contract."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of the options that determine the rows; the location of the data is not part of it."""

    @property
    @abstractmethod
    def uri(self) -> str:
        """The address of the source without credentials, as in `_source`."""

    @abstractmethod
    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Fetch what is new since a cursor into the spool, in a stable order; without a cursor, everything."""

    @property
    def segments(self) -> Spool:
        """The spool of this source."""
        return Spool(f"{self.spool_location}/{fingerprint(self.uri, self.fingerprint)}")

    @property
    def spool_location(self) -> str:
        """The folder or the URI of all spools beside that of this source."""
        location = self.spool or DEFAULT_FOLDER
        return (location if "://" in location else str(Path(self.folder) / location)).rstrip("/")

    def within(self, folder: Path) -> SpooledReader:
        """Return the reader with a relative spool resolved against a folder."""
        return replace(self, folder=str(folder))

    def evolving(self, new_columns: NewColumns) -> SpooledReader:
        """Return the reader with this policy for fields that are not in the contract."""
        return replace(self, new_columns=new_columns)

    @property
    def dialect(self) -> Dialect:
        """How the rows become columns."""
        return Dialect(new_columns=self.new_columns)

    @contextmanager
    def lines(self, split: SourceSplit) -> Iterator[str]:
        """Yield a local path of the rows of a split, one per line."""
        with rows_of(self.segments, split) as path:
            yield path

    def beyond(self, split: SourceSplit, schema: Schema) -> Schema:
        """Return the fields of a split that are not in the contract, with types inferred from all of its rows."""
        with self.lines(split) as path:
            columns = self.infer(path, place_of(split))
        return columns.select(undeclared_names(schema, columns.names))

    def schema(self, source_object: SourceObject) -> Schema:
        """Return the fields of a segment's rows with inferred types; objects and arrays become structs and lists."""
        split = SourceSplit(source_object)
        with self.lines(split) as path:
            return self.infer(path, place_of(split))

    def infer(self, path: str, place: Place) -> Schema:
        """Return the fields of JSON objects, one per line, with inferred types; raise `SourceError` if there are none."""
        with connect() as con:
            return json_reader.infer(con, path, place, self.dialect)

    def read(self, split: SourceSplit, schema: Schema) -> ReadResult:
        """Return the accepted and the rejected rows of a segment.

        Raises `SchemaError` for fields that are not in the contract if they are to be refused, and `SourceError` if the
        segment is not in the spool.
        """
        reading = self.read_lines(split, schema)
        if reading.rejected.num_rows:
            reading = ReadResult(reading.rows, self._with_requests(split, reading.rejected))
        return shift_positions(reading, split.first - 1)

    def read_lines(self, split: SourceSplit, schema: Schema) -> ReadResult:
        """Return the rows of a split, with the numbers of their lines as positions."""
        with self.lines(split) as path, connect() as con:
            expect_columns(con, len(schema.columns))
            keyed = self.dialect.naming.keyed(schema)
            return json_reader.read(con, path, keyed, place_of(split), self.dialect)

    def parse(self, rows: Sequence[str], schema: Schema) -> ReadResult:
        """Read rejected rows again, from their JSON; positions are 1-based indexes into `rows`."""
        return Files(("",), "json", self.dialect).parse(rows, schema)

    def _with_requests(self, split: SourceSplit, rejected: pa.Table) -> pa.Table:
        """Return rejected rows with their request added to the reason."""
        requests = self.segments.requests(split)
        begins, shown = [rows for rows, _ in requests], []
        for line, reason in zip(*(rejected.column(n).to_pylist() for n in ("_position", "reason")), strict=True):
            number = bisect.bisect_right(begins, line - 1) - 1
            shown.append(f"{reason}; row {line - begins[number]} of {requests[number][1]}")
        return rejected.set_column(1, "reason", pa.array(shown, pa.string())).cast(REJECTED)
