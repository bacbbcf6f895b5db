"""What a connector needs beside its Arrow batches: holding them to the contract, and reading rejected rows again."""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import pyarrow as pa

from pipeline.connectors.contract import RAW, apply_contract_to_types, check_columns, undeclared_names
from pipeline.connectors.files.csv.reader import Dialect
from pipeline.connectors.files.source import Files
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.errors import Place, SourceError
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION, NewColumns, ReadResult
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.kernel.engine import connect
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.types import from_arrow

_ROWS_AS_JSON = Files("", "json", Dialect())


class ArrowReader(ABC):
    """A reader of which only the batches are its own. A connector is a frozen dataclass below it with three members.

    `_position` counts the rows of a part, from its `first` on. A row with a value that its column's type cannot hold is
    set aside as JSON. Delivery: each part once, if reading it twice gives the same rows.
    """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of the options that decide the rows; where the data is does not count."""

    @abstractmethod
    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Return what is new since a cursor, in a stable order; everything that is there now, without one."""

    @abstractmethod
    def batches(self, part: SourceSplit) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a part; a part that is read again gives the same rows in the same order."""

    new_columns: NewColumns = "refuse"
    """What happens to columns that the contract does not have."""

    def evolving(self, new_columns: NewColumns) -> ArrowReader:
        """Return the reader for a source that does this with columns that its contract does not have."""
        reader = copy.copy(self)
        object.__setattr__(
            reader, "new_columns", new_columns
        )  # its dataclass is frozen, and not ours to add a field to
        return reader

    def beyond(self, part: SourceSplit, schema: Schema) -> Schema:
        """Return the columns of a part's first batch that a contract does not have."""
        first = next(self.batches(part), None)
        columns = Schema(()) if first is None else from_arrow(first.schema)
        return columns.select(undeclared_names(schema, columns.names))

    def schema(self, piece: SourceObject) -> Schema:
        """Return the columns of a piece's first batch; raise `SourceError` when there is none."""
        first = next(self.batches(SourceSplit(piece)), None)
        if first is None:
            raise SourceError("there are no rows to tell the columns by", do="give schema=", place=Place(piece.uri))
        return from_arrow(first.schema)

    def read(self, part: SourceSplit, schema: Schema) -> ReadResult:
        """Return the rows that fit the contract, and those that do not; raise `SchemaError` for other columns."""
        batches = self.batches(part)
        first = next(batches, None)
        with connect() as con:
            names = schema.names if first is None else tuple(first.schema.names)
            undeclared = check_columns(schema, names, Place(part.piece.uri), self.new_columns)
            rows = _nothing(schema) if first is None else pa.Table.from_batches(itertools.chain([first], batches))
            con.register("_batches", rows)
            nothing = "".join(f", null::varchar as {quoted(name)}" for name in schema.names if name not in names)
            numbered = f"row_number() over () + {part.first - 1} as {POSITION}"
            con.execute(f"create temp table {RAW} as select {numbered}, *{nothing} from _batches")
            return apply_contract_to_types(con, schema, undeclared)

    def parse(self, rows: Sequence[str], schema: Schema) -> ReadResult:
        """Read rejected rows again; positions are 1-based in `rows`."""
        return _ROWS_AS_JSON.parse(rows, schema)


def _nothing(schema: Schema) -> pa.Table:
    return pa.table({name: pa.nulls(0, pa.string()) for name in schema.names})
