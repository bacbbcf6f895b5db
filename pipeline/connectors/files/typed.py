"""Files of formats with types of their own, such as Parquet, Avro and ORC: what such a format provides, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, Protocol

import duckdb

from pipeline.connectors.column_names import ColumnNames
from pipeline.connectors.contract import RAW, apply_contract_to_types, check_columns, not_in_years
from pipeline.connectors.files.byte_ranges import is_small
from pipeline.connectors.files.stores import Ranges
from pipeline.core.errors import Place
from pipeline.core.schema import Column, Schema
from pipeline.core.sources import MISFIT, POSITION, NewColumns, ReadResult, ScanQuery
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.kernel.sql_text import quoted


@dataclass(frozen=True)
class TypedRows:
    """The rows of a split as SQL: what follows FROM, the position of a row, and the number of rows."""

    scan: str
    position: str
    count: int


class TypedFile(Protocol):
    """An open file of such a format."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its columns in the table."""

    @property
    def place(self) -> Place:
        """Its place for errors."""

    def schema(self, con: duckdb.DuckDBPyConnection) -> Schema:
        """Return its columns with their types; the key of a renamed column is its name in the file."""

    def rows(self, con: duckdb.DuckDBPyConnection, split: SourceSplit, *, exact: bool) -> TypedRows:
        """Return the rows of a split in order; a query of them must use one thread, and be run once.

        If `exact`, the types may be more precise than those of `schema`; otherwise the query fails for a value that is.
        """


class TypedFormat(Protocol):
    """A format whose files contain groups of rows, between which they can be split."""

    @property
    def has_index(self) -> bool:
        """Whether a part of the file says where the groups are; otherwise the entire file must be read to find them."""

    def open(self, path: str, naming: ColumnNames, place: Place) -> TypedFile:
        """Open a file; raise `SourceError` if it is not one of this format."""

    def groups(self, file: BinaryIO) -> Sequence[RowGroup]:
        """Return the groups of a file in order; none if it cannot be split."""

    def ranges(self, file: BinaryIO, split: SourceSplit) -> Ranges:
        """Return the bytes of a file that are needed to read a split."""


@dataclass(frozen=True)
class RowGroup:
    """A group of rows: where it begins as in `SourceSplit.begin`, the number of the first row, and its size as planned."""

    begin: int
    first: int
    size_bytes: int


def splits(groups: Sequence[RowGroup], source_object: SourceObject, target_bytes: int) -> tuple[SourceSplit, ...]:
    """Split a file between groups into splits of about `target_bytes`."""
    if is_small(sum(group.size_bytes for group in groups), target_bytes):
        return (SourceSplit(source_object),)
    begins: list[RowGroup] = []
    for group in groups:
        if not begins or begins[-1].size_bytes >= target_bytes:
            begins.append(group)
        else:
            begins[-1] = replace(begins[-1], size_bytes=begins[-1].size_bytes + group.size_bytes)
    if len(begins) == 1:
        return (SourceSplit(source_object),)
    starts = [0, *(group.begin for group in begins[1:])]
    ends = [*starts[1:], None]
    return tuple(
        SourceSplit(source_object, begin, end, group.first, group.size_bytes)
        for begin, end, group in zip(starts, ends, begins, strict=True)
    )


def parts(split: SourceSplit, finer: Sequence[SourceSplit]) -> tuple[SourceSplit, ...]:
    """Divide a split at the groups with which finer splits of its file begin."""
    inside = [s for s in finer if s.begin > split.begin and (split.end is None or s.begin < split.end)]
    begins = [(split.begin, split.first), *((s.begin, s.first) for s in inside)]
    ends = [*(s.begin for s in inside), split.end]
    size_bytes = split.size_bytes // len(begins)
    return tuple(
        replace(split, begin=begin, first=first, end=end, planned_bytes=size_bytes)
        for (begin, first), end in zip(begins, ends, strict=True)
    )


def renamed(file_schema: Schema, names: Sequence[str]) -> Schema:
    """Return the columns of a file under the names of the table."""
    pairs = zip(file_schema.columns, names, strict=True)
    return Schema(tuple(Column(name, c.type, key=c.name if c.name != name else "") for c, name in pairs))


def read(
    con: duckdb.DuckDBPyConnection, file: TypedFile, split: SourceSplit, schema: Schema, new_columns: NewColumns
) -> ReadResult:
    """Return the accepted rows of a split, and the rejected rows as JSON objects."""
    undeclared = check_columns(schema, file.names, file.place, new_columns)
    names = (*schema.names, *undeclared)
    columns = _selected(file.schema(con), names, dict.fromkeys(names, "null::varchar"))
    rows = file.rows(con, split, exact=True)
    con.execute(f"create temp table {RAW} as select {rows.position} as {POSITION}, {columns} from {rows.scan}")
    return apply_contract_to_types(con, schema, undeclared)


def scan(
    con: duckdb.DuckDBPyConnection, file: TypedFile, split: SourceSplit, schema: Schema, new_columns: NewColumns
) -> ScanQuery | None:
    """Return the rows as a query if all columns have the contract's types, so that only years can be invalid."""
    undeclared = check_columns(schema, file.names, file.place, new_columns)
    columns = uncast_columns(file.schema(con), schema)
    if undeclared or columns is None:
        return None
    rows = file.rows(con, split, exact=False)
    rows_of = f"(select {columns}, {rows.position} as {POSITION} from {rows.scan})"
    return ScanQuery(f"select *, {not_in_years(schema)} as {MISFIT} from {rows_of}", rows.count, "select 0")


def uncast_columns(file_schema: Schema, schema: Schema) -> str | None:
    """Return SQL for a contract's columns, null for missing ones; `None` if a column must be cast."""
    known, types = file_schema.as_dict(), schema.as_dict()
    if any(known.get(name, kind) != kind for name, kind in types.items()):
        return None
    return _selected(file_schema, schema.names, {name: f"null::{kind}" for name, kind in types.items()})


def _selected(file_schema: Schema, names: Sequence[str], nothing: Mapping[str, str]) -> str:
    columns = {column.name: quoted(column.data_name) for column in file_schema.columns}
    return ", ".join(f"{columns.get(name) or nothing[name]} as {quoted(name)}" for name in names)
