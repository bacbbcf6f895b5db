"""An input of a plan: files of one schema, or a table in memory, under the name that SQL uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.core.schema import Schema
from pipeline.kernel.sql_text import listed, literal, quoted

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


@dataclass(frozen=True)
class DataFile:
    """A committed Parquet file, by its whole path."""

    uri: str
    rows: int
    size_bytes: int


@dataclass(frozen=True)
class Scan:
    """Rows of `schema` in Parquet files; pickles small, so that a task can carry it anywhere."""

    schema: Schema
    files: tuple[DataFile, ...] = ()

    @property
    def rows(self) -> int:
        """The number of rows, from the log."""
        return sum(file.rows for file in self.files)

    @property
    def size_bytes(self) -> int:
        """The size of the files."""
        return sum(file.size_bytes for file in self.files)

    def query(self) -> str:
        """Return a SELECT of the rows, in the order of the files."""
        if not self.files:
            return no_rows(self.schema)
        files = ", ".join(literal(file.uri) for file in self.files)
        rows = f"read_parquet([{files}], union_by_name = true, hive_partitioning = false)"
        if any(column.is_added for column in self.schema.columns):
            rows = f"({no_rows(self.schema)} union all by name from {rows})"  # which DuckDB takes out of its plan
        return f"select {listed(self.schema.names)} from {rows}"

    def widened(self, schema: Schema) -> Scan:
        """Return the same rows with the columns of a schema that they do not have: null."""
        known = set(self.schema.names)
        new = (replace(c, is_added=True) for c in schema.columns if c.name not in known)
        return replace(self, schema=Schema((*self.schema.columns, *new)))

    def splits(self, target_bytes: int) -> tuple[Scan, ...]:
        """Return scans of whole files, each of about `target_bytes`; together they are this scan, in its order."""
        groups: list[list[DataFile]] = []
        room = 0
        for file in self.files:
            if not groups or file.size_bytes > room:
                groups.append([])
                room = target_bytes
            groups[-1].append(file)
            room -= file.size_bytes
        return tuple(replace(self, files=tuple(group)) for group in groups) or (self,)


def no_rows(schema: Schema) -> str:
    """Return a SELECT of a schema's columns, and no rows."""
    return f"select {', '.join(f'null::{c.type} as {quoted(c.name)}' for c in schema.columns)} where false"


def register(con: duckdb.DuckDBPyConnection, inputs: Mapping[str, Scan | pa.Table]) -> None:
    """Make each input a view of its name."""
    for name, value in inputs.items():
        if isinstance(value, Scan):
            con.execute(f"create or replace temp view {quoted(name)} as {value.query()}")
        else:
            con.register(name, value)
