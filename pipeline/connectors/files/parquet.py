"""Parquet files: split between row groups; a position is the row number in the file."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.connectors.column_names import ColumnNames
from pipeline.connectors.extension_types import require_known_types
from pipeline.connectors.files.stores import Ranges
from pipeline.connectors.files.typed import RowGroup, TypedRows, renamed
from pipeline.core.errors import Place, SourceError
from pipeline.core.schema import Schema
from pipeline.core.splits import SourceSplit
from pipeline.kernel.engine import schema_of
from pipeline.kernel.sql_text import literal

_ROW = "file_row_number"
_MAGIC_BYTES = 4


@dataclass(frozen=True)
class ParquetFile:
    """The metadata of a Parquet file: its location, number of rows, and columns under the names of the table."""

    path: str
    row_count: int
    names: tuple[str, ...]
    place: Place

    def schema(self, con: duckdb.DuckDBPyConnection) -> Schema:
        """Return the columns and types."""
        return renamed(schema_of(con, f"select * from read_parquet({literal(self.path)})"), self.names)

    def rows(self, con: duckdb.DuckDBPyConnection, split: SourceSplit, *, exact: bool) -> TypedRows:
        """Return the rows of the split's row groups; DuckDB skips the others by their row numbers."""
        del con, exact
        if split.is_whole:
            return TypedRows(f"read_parquet({literal(self.path)})", "row_number() over ()", self.row_count)
        until = "" if split.end is None else f" and {_ROW} < {split.end}"
        scan = f"read_parquet({literal(self.path)}, {_ROW} = true) where {_ROW} >= {split.begin}{until}"
        return TypedRows(scan, f"{_ROW} + 1", (self.row_count if split.end is None else split.end) - split.begin)


class ParquetFormat:
    """The format Parquet, with an index of row groups at the end of a file."""

    has_index = True

    def open(self, path: str, naming: ColumnNames, place: Place) -> ParquetFile:
        """Read the metadata of a file.

        Raises `SourceError` for names that differ only in case, because DuckDB would rename one of them, and for an
        unknown extension type.
        """
        try:
            footer = pq.read_metadata(path)
        except pa.ArrowException as error:
            raise SourceError("the file cannot be read as PARQUET", got=str(error), place=place) from error
        columns = columns_of(footer, place)
        return ParquetFile(path, footer.num_rows, naming.named(columns.names, place), place)

    def groups(self, file: BinaryIO) -> Sequence[RowGroup]:
        """Return the row groups; none if the file is damaged, or a column has the name of DuckDB's row number column."""
        footer = _footer(file)
        if footer is None or _ROW in footer.schema.to_arrow_schema().names:
            return ()
        groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
        begins = itertools.accumulate((group.num_rows for group in groups), initial=0)
        return [RowGroup(b, b + 1, g.total_byte_size) for b, g in zip(begins, groups, strict=False)]

    def ranges(self, file: BinaryIO, split: SourceSplit) -> Ranges:
        """Return the bytes with the row groups of a split, and the footer; the entire file if it is damaged."""
        footer = _footer(file)
        if footer is None:
            return ((0, split.source_object.size_bytes),)
        groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
        begins = itertools.accumulate((group.num_rows for group in groups), initial=0)
        end = footer.num_rows if split.end is None else split.end
        bounds = [_bounds(group) for begin, group in zip(begins, groups, strict=False) if split.begin <= begin < end]
        last = max(_bounds(group)[1] for group in groups)
        return ((0, _MAGIC_BYTES), (bounds[0][0], bounds[-1][1]), (last, split.source_object.size_bytes))


def columns_of(footer: pq.FileMetaData, place: Place) -> pa.Schema:
    """Return the columns of a file; raise `SourceError` for an unknown extension type."""
    columns = footer.schema.to_arrow_schema()
    require_known_types(columns, place)
    return columns


def _footer(file: BinaryIO) -> pq.FileMetaData | None:
    try:
        return pq.read_metadata(file)
    except pa.ArrowException:  # reading the file reports it
        return None


def _bounds(group: pq.RowGroupMetaData) -> tuple[int, int]:
    """Return the first byte of a row group, and the byte after its last one."""
    columns = [group.column(number) for number in range(group.num_columns)]
    begins = [min(each.data_page_offset, each.dictionary_page_offset or each.data_page_offset) for each in columns]
    return min(begins), max(b + each.total_compressed_size for b, each in zip(begins, columns, strict=True))
