"""ORC files: split between stripes; a position is the row number in the file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import duckdb
import pyarrow as pa

from pipeline.connectors.column_names import ColumnNames
from pipeline.connectors.files.arrow_rows import microseconds, register
from pipeline.connectors.files.orc_stripes import batches, schema_of_file
from pipeline.connectors.files.orc_tail import Stripe, stripes
from pipeline.connectors.files.stores import Ranges
from pipeline.connectors.files.typed import RowGroup, TypedRows
from pipeline.core.errors import Place, SourceError
from pipeline.core.schema import Schema
from pipeline.core.splits import SourceSplit
from pipeline.kernel.types import from_arrow

_MAGIC_BYTES = 3


@dataclass(frozen=True)
class OrcFile:
    """An ORC file: its location, its stripes, and its columns under the names of the table."""

    path: str
    stripes: tuple[Stripe, ...]
    original: pa.Schema
    """The columns under the names of the table, with times in nanoseconds, as in the file."""
    place: Place

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns in the table."""
        return tuple(self.original.names)

    @property
    def columns(self) -> pa.Schema:
        """The columns with the types that a lake stores."""
        return pa.schema([(field.name, microseconds(field.type)) for field in self.original])

    def schema(self, con: duckdb.DuckDBPyConnection) -> Schema:
        """Return the columns and types."""
        del con
        return from_arrow(self.columns)

    def rows(self, con: duckdb.DuckDBPyConnection, split: SourceSplit, *, exact: bool) -> TypedRows:
        """Return the rows of the split's stripes."""
        chosen = _within(self.stripes, split)
        columns = self.original if exact else self.columns
        rows = self._batches([number for number, _ in chosen], columns)
        name = register(con, self.path, pa.RecordBatchReader.from_batches(columns, rows))
        return TypedRows(name, f"row_number() over () + {split.first - 1}", sum(stripe.rows for _, stripe in chosen))

    def _batches(self, numbers: Sequence[int], columns: pa.Schema) -> Iterator[pa.RecordBatch]:
        for batch in batches(self.path, numbers):
            yield batch.rename_columns(list(self.names)).cast(columns)


class OrcFormat:
    """The format ORC, with an index of stripes at the end of a file."""

    has_index = True

    def open(self, path: str, naming: ColumnNames, place: Place) -> OrcFile:
        """Read the metadata of a file; raise `SourceError` if it is not ORC, or has names that differ only in case."""
        try:
            columns = schema_of_file(path)
            file_names = columns.names  # an error if one is not UTF-8
            with Path(path).open("rb") as file:
                found = stripes(file)
        except (pa.ArrowException, ValueError) as error:
            raise SourceError("the file cannot be read as ORC", got=str(error), place=place) from error
        names = naming.named(file_names, place)
        return OrcFile(path, found, pa.schema(list(zip(names, columns.types, strict=True))), place)

    def groups(self, file: BinaryIO) -> Sequence[RowGroup]:
        """Return the stripes; none if the file is damaged."""
        found = _found(file)
        begins = itertools.accumulate((stripe.rows for stripe in found), initial=0)
        return [RowGroup(b, b + 1, stripe.end - stripe.begin) for b, stripe in zip(begins, found, strict=False)]

    def ranges(self, file: BinaryIO, split: SourceSplit) -> Ranges:
        """Return the bytes with the stripes of a split, and the tail of the file; the entire file if it is damaged."""
        found, size = _found(file), split.source_object.size_bytes
        chosen = [stripe for _, stripe in _within(found, split)]
        if not chosen:
            return ((0, size),)
        return ((0, _MAGIC_BYTES), (chosen[0].begin, chosen[-1].end), (max(stripe.end for stripe in found), size))


def _found(file: BinaryIO) -> tuple[Stripe, ...]:
    """Return the stripes of a file; none if it is damaged, which reading it reports."""
    try:
        return stripes(file)
    except ValueError:
        return ()


def _within(stripes: Sequence[Stripe], split: SourceSplit) -> list[tuple[int, Stripe]]:
    """Return the stripes of a split with their numbers."""
    begins = itertools.accumulate((stripe.rows for stripe in stripes), initial=0)
    return [
        (number, stripe)
        for number, (begin, stripe) in enumerate(zip(begins, stripes, strict=False))
        if split.begin <= begin and (split.end is None or begin < split.end)
    ]
