"""Parquet files: split between row groups; a position is the row number in the file."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.connectors.contract import RAW, apply_contract_to_types, check_columns, not_in_years
from pipeline.connectors.files.byte_ranges import is_small
from pipeline.connectors.files.column_names import ColumnNames
from pipeline.core.errors import Place, SourceError
from pipeline.core.schema import Column, Schema
from pipeline.core.sources import MISFIT, POSITION, NewColumns, ReadResult, ScanQuery
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.kernel.engine import schema_of
from pipeline.kernel.sql_text import literal, quoted

_ROW = "file_row_number"


@dataclass(frozen=True)
class ParquetFile:
    """The metadata of a Parquet file: its location, number of rows, and columns under the names of the table."""

    path: str
    rows: int
    names: tuple[str, ...]
    place: Place

    @classmethod
    def of(cls, path: str, naming: ColumnNames, place: Place) -> ParquetFile:
        """Read the metadata of a file.

        Raises `SourceError` for names that differ only in case, because DuckDB would rename one of them.
        """
        try:
            footer = pq.read_metadata(path)
        except pa.ArrowException as error:
            raise SourceError("the file cannot be read as PARQUET", got=str(error), place=place) from error
        return cls(path, footer.num_rows, naming.named(footer.schema.to_arrow_schema().names, place), place)

    def schema(self, con: duckdb.DuckDBPyConnection) -> Schema:
        """Return the columns and types."""
        file_schema = schema_of(con, f"select * from read_parquet({literal(self.path)})")
        named = zip(file_schema.columns, self.names, strict=True)
        return Schema(tuple(Column(name, c.type, key=c.name if c.name != name else "") for c, name in named))


def uncast_columns(file_schema: Schema, schema: Schema) -> str | None:
    """Return SQL for a contract's columns, null for missing ones; `None` if a column must be cast."""
    known, types = file_schema.as_dict(), schema.as_dict()
    if any(known.get(name, kind) != kind for name, kind in types.items()):
        return None
    return _selected(file_schema, schema.names, {name: f"null::{kind}" for name, kind in types.items()})


def _selected(file_schema: Schema, names: Sequence[str], nothing: Mapping[str, str]) -> str:
    columns = {column.name: quoted(column.data_name) for column in file_schema.columns}
    return ", ".join(f"{columns.get(name) or nothing[name]} as {quoted(name)}" for name in names)


def splits(
    con: duckdb.DuckDBPyConnection, path: str, source_object: SourceObject, target_bytes: int
) -> tuple[SourceSplit, ...]:
    """Split a file between row groups into splits of about `target_bytes` before compression."""
    groups = con.execute(
        "select any_value(row_group_num_rows), sum(total_uncompressed_size)::bigint "
        f"from parquet_metadata({literal(path)}) group by row_group_id order by row_group_id"
    ).fetchall()
    if is_small(sum(size for _, size in groups), target_bytes) or _has_row_numbers(con, path):
        return (SourceSplit(source_object),)
    sizes, begins, room = [0], [0], target_bytes
    for row, (_, size) in zip(itertools.accumulate((rows for rows, _ in groups), initial=0), groups, strict=False):
        if room <= 0:
            begins.append(row)
            sizes.append(0)
            room = target_bytes
        sizes[-1] += size
        room -= size
    if len(begins) == 1:
        return (SourceSplit(source_object),)
    ends = [*begins[1:], None]
    return tuple(SourceSplit(source_object, b, e, b + 1, size) for b, e, size in zip(begins, ends, sizes, strict=True))


def parts(split: SourceSplit, finer: Sequence[SourceSplit]) -> tuple[SourceSplit, ...]:
    """Divide a split at the row groups with which finer splits of its file begin."""
    inside = [s for s in finer if s.begin > split.begin and (split.end is None or s.begin < split.end)]
    begins = [(split.begin, split.first), *((s.begin, s.first) for s in inside)]
    ends = [*(s.begin for s in inside), split.end]
    size_bytes = split.size_bytes // len(begins)
    return tuple(
        replace(split, begin=begin, first=first, end=end, planned_bytes=size_bytes)
        for (begin, first), end in zip(begins, ends, strict=True)
    )


def read(
    con: duckdb.DuckDBPyConnection, file: ParquetFile, split: SourceSplit, schema: Schema, new_columns: NewColumns
) -> ReadResult:
    """Return the accepted rows of a split, and the rejected rows as JSON objects."""
    undeclared = check_columns(schema, file.names, file.place, new_columns)
    names = (*schema.names, *undeclared)
    columns = _selected(file.schema(con), names, dict.fromkeys(names, "null::varchar"))
    con.execute(f"create temp table {RAW} as select {_numbered(split)}, {columns} from {_scan(file.path, split)}")
    return apply_contract_to_types(con, schema, undeclared)


def scan(
    con: duckdb.DuckDBPyConnection, file: ParquetFile, split: SourceSplit, schema: Schema, new_columns: NewColumns
) -> ScanQuery | None:
    """Return the rows as a query if all columns have the contract's types, so that only years can be invalid."""
    undeclared = check_columns(schema, file.names, file.place, new_columns)
    columns = uncast_columns(file.schema(con), schema)
    if undeclared or columns is None:
        return None
    rows_of = f"(select {columns}, {_numbered(split)} from {_scan(file.path, split)})"
    query = f"select *, {not_in_years(schema)} as {MISFIT} from {rows_of}"
    return ScanQuery(query, (file.rows if split.end is None else split.end) - split.begin, "select 0")


def _has_row_numbers(con: duckdb.DuckDBPyConnection, path: str) -> bool:
    """Return whether a file has a column with the name of DuckDB's row number column."""
    return _ROW in schema_of(con, f"select * from read_parquet({literal(path)})").names


def _numbered(split: SourceSplit) -> str:
    # a file with a column of that name is never split
    return f"{'row_number() over ()' if split.is_whole else f'{_ROW} + 1'} as {POSITION}"


def _scan(path: str, split: SourceSplit) -> str:
    """Return a scan of the split's row groups; DuckDB skips the others by their row numbers."""
    if split.is_whole:
        return f"read_parquet({literal(path)})"
    until = "" if split.end is None else f" and {_ROW} < {split.end}"
    return f"read_parquet({literal(path)}, {_ROW} = true) where {_ROW} >= {split.begin}{until}"
