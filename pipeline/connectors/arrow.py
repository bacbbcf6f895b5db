"""The base class of connectors that yield Arrow batches: validates rows, and reads rejected rows again."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Self

import pyarrow as pa

from pipeline.connectors.contract import RAW, apply_contract_to_types, check_columns, undeclared_names
from pipeline.connectors.extension_types import require_known_types
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

_ROWS_AS_JSON = Files(("",), "json", Dialect())


class ArrowReader(ABC):
    """A reader that yields Arrow batches. A connector is a frozen dataclass derived from it, with three members.

    `_position` numbers the rows of a split, starting at its `first`. A row with a value that its column's type cannot
    represent is quarantined as JSON. Delivery: each split once, if reading it twice yields the same rows.
    """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of the options that determine the rows; the location of the data is not part of it."""

    @abstractmethod
    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Return what is new since a cursor, in a stable order; without a cursor, everything that exists now."""

    @abstractmethod
    def batches(self, split: SourceSplit) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a split; reading a split again yields the same rows in the same order."""

    new_columns: NewColumns = "freeze"
    """What happens to columns that are not in the contract."""

    def evolving(self, new_columns: NewColumns) -> ArrowReader:
        """Return the reader with this policy for columns that are not in the contract."""
        return self.replacing(new_columns=new_columns)

    def replacing(self, **members: object) -> Self:
        """Return a copy with other values of some members; unlike `dataclasses.replace`, it keeps `new_columns`."""
        reader = object.__new__(type(self))
        vars(reader).update({**vars(self), **members})  # the subclass is a frozen dataclass
        return reader

    def beyond(self, split: SourceSplit, schema: Schema) -> Schema:
        """Return the columns of a split's first batch that are not in the contract."""
        first = _first(self.batches(split), split)
        columns = Schema(()) if first is None else from_arrow(first.schema)
        return columns.select(undeclared_names(schema, columns.names))

    def schema(self, source_object: SourceObject) -> Schema:
        """Return the columns of a source object's first batch; raise `SourceError` if there is none."""
        split = SourceSplit(source_object)
        first = _first(self.batches(split), split)
        if first is None:
            raise SourceError(
                "there are no rows to infer the columns from", do="pass schema=", place=Place(source_object.uri)
            )
        return from_arrow(first.schema)

    def read(self, split: SourceSplit, schema: Schema) -> ReadResult:
        """Return the accepted and the rejected rows; raise `SchemaError` for columns other than the contract's."""
        batches = self.batches(split)
        first = _first(batches, split)
        with connect() as con:
            names = schema.names if first is None else tuple(first.schema.names)
            undeclared = check_columns(schema, names, Place(split.source_object.uri), self.new_columns)
            rows = _nothing(schema) if first is None else pa.Table.from_batches(itertools.chain([first], batches))
            con.register("_batches", rows)
            nothing = "".join(f", null::varchar as {quoted(name)}" for name in schema.names if name not in names)
            numbered = f"row_number() over () + {split.first - 1} as {POSITION}"
            con.execute(f"create temp table {RAW} as select {numbered}, *{nothing} from _batches")
            return apply_contract_to_types(con, schema, undeclared)

    def parse(self, rows: Sequence[str], schema: Schema) -> ReadResult:
        """Read rejected rows again; positions are 1-based indexes into `rows`."""
        return _ROWS_AS_JSON.parse(rows, schema)


def _first(batches: Iterator[pa.RecordBatch], split: SourceSplit) -> pa.RecordBatch | None:
    """Return the next batch; raise `SourceError` if it has an unknown extension type."""
    first = next(batches, None)
    if first is not None:
        require_known_types(first.schema, Place(split.source_object.uri))
    return first


def _nothing(schema: Schema) -> pa.Table:
    return pa.table({name: pa.nulls(0, pa.string()) for name in schema.names})
