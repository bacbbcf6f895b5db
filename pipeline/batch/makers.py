"""How each kind of definition makes its rows: pieces of a source, a SQL statement, a function of frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from pipeline.batch.task import REJECTED, Made, Split
from pipeline.core.errors import DefinitionError, Place
from pipeline.core.functions import FunctionTransform
from pipeline.core.reading import INGESTED_AT, POSITION, SOURCE, Reader
from pipeline.core.schema import Schema, compare
from pipeline.kernel.engine import arrow, empty, listed, literal
from pipeline.kernel.frames import call
from pipeline.kernel.scan import Scan, register
from pipeline.kernel.types import from_arrow

BLOCK_BYTES = 128 << 20
"""The size of the files that a function gets at a time."""
_ROWS = "_rows"


@dataclass(frozen=True)
class FromSource:
    """The rows of a source's pieces, with their provenance."""

    reader: Reader
    schema: Schema
    at: str

    def make(self, con: duckdb.DuckDBPyConnection, split: Split) -> Made:
        """Read the split's pieces one after the other."""
        con.execute(f"create temp table {REJECTED} (reasons varchar, _source varchar, _position bigint, row varchar)")
        con.register("_none", empty(con, Schema((*self.schema.columns, *_PROVENANCE.columns))))
        con.execute(f"create temp table {_ROWS} as from _none")
        good = bad = 0
        for piece in split.pieces:
            reading = self.reader.read(piece, self.schema)
            good, bad = good + reading.rows.num_rows, bad + reading.rejected.num_rows
            con.register("_read", reading.rows)
            con.register("_bad", reading.rejected)
            source = literal(piece.uri)
            con.execute(
                f"insert into {_ROWS} select {listed(self.schema.names)}, {source}, {POSITION}, "
                f"{literal(self.at)}::timestamptz from _read"
            )
            con.execute(f"insert into {REJECTED} select reason, {source}, {POSITION}, row from _bad")
            con.unregister("_read")
            con.unregister("_bad")
        size = sum(piece.size_bytes for piece in split.pieces)
        return Made(f"select * from {_ROWS}", rows_in=good + bad, bytes_in=size, rejected=bad)


_PROVENANCE = Schema.of({SOURCE: "VARCHAR", POSITION: "BIGINT", INGESTED_AT: "TIMESTAMPTZ"})


@dataclass(frozen=True)
class FromSql:
    """The rows of a statement over a split of its driving input and the whole of the others."""

    text: str
    driving: str
    others: Mapping[str, Scan]
    hidden: tuple[str, ...] = ()

    def make(self, con: duckdb.DuckDBPyConnection, split: Split) -> Made:
        """Make the inputs views and return the statement."""
        scan = split.scan or Scan(Schema(()))
        register(con, {**self.others, self.driving: scan})
        return Made(self.text, rows_in=scan.rows, bytes_in=scan.size_bytes, hidden=self.hidden)


@dataclass(frozen=True)
class FromFunction:
    """The rows of a function that is called block by block on its first input."""

    transform: FunctionTransform
    others: Mapping[str, Scan]
    place: Place

    def make(self, con: duckdb.DuckDBPyConnection, split: Split) -> Made:
        """Call the function on each block of the split and keep what it returns."""
        scan = split.scan or Scan(Schema(()))
        driving = self.transform.inputs[0]
        others = {name: arrow(con, other.query()) for name, other in self.others.items()}
        first: pa.Schema | None = None
        for block in scan.splits(BLOCK_BYTES):
            made = call(self.transform, {driving: arrow(con, block.query()), **others}, self.place)
            con.register("_block", made)
            if first is None:
                first = made.schema
                con.execute(f"create temp table {_ROWS} as from _block")
            else:
                self._require_same(first, made.schema)
                con.execute(f"insert into {_ROWS} by name from _block")
            con.unregister("_block")
        return Made(f"select * from {_ROWS}", rows_in=scan.rows, bytes_in=scan.size_bytes)

    def _require_same(self, first: pa.Schema, later: pa.Schema) -> None:
        change = compare(from_arrow(first), from_arrow(later))
        if change:
            raise DefinitionError(
                f"table {self.transform.function.__name__!r} gives other columns for one block than for another",
                got=str(change),
                do="cast them, so that their types do not depend on the rows",
                place=self.place,
            )


@dataclass(frozen=True)
class FromArrow:
    """The rows of a table or a stream of blocks that is here already."""

    rows: pa.Table | pa.RecordBatchReader
    rows_in: int
    bytes_in: int = 0
    views: Mapping[str, Scan | pa.Table] = field(default_factory=dict)
    query: str = "select * from _given"
    hidden: tuple[str, ...] = ()

    def make(self, con: duckdb.DuckDBPyConnection, split: Split) -> Made:
        """Make the rows a view, whatever the split."""
        del split
        con.register("_given", self.rows)
        register(con, self.views)
        return Made(self.query, rows_in=self.rows_in, bytes_in=self.bytes_in, hidden=self.hidden)
