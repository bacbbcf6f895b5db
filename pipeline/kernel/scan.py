"""Inputs of a statement: Parquet files with one schema, or in-memory tables, by the name used in SQL."""

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
    """A committed Parquet file, by its full path."""

    uri: str
    rows: int
    size_bytes: int


@dataclass(frozen=True)
class Scan:
    """Rows with `schema` in Parquet files; it is small when pickled, so that tasks can contain it."""

    schema: Schema
    files: tuple[DataFile, ...] = ()

    @property
    def rows(self) -> int:
        """The number of rows, according to the Delta log."""
        return sum(file.rows for file in self.files)

    @property
    def size_bytes(self) -> int:
        """The total size of the files."""
        return sum(file.size_bytes for file in self.files)

    def query(self) -> str:
        """Return a SELECT of the rows, in the order of the files."""
        if not self.files:
            return no_rows(self.schema)
        files = ", ".join(literal(file.uri) for file in self.files)
        rows = f"read_parquet([{files}], union_by_name = true, hive_partitioning = false)"
        if any(column.is_added for column in self.schema.columns):
            rows = (
                f"({no_rows(self.schema)} union all by name from {rows})"  # DuckDB removes the empty part from its plan
            )
        return f"select {listed(self.schema.names)} from {rows}"

    def widened(self, schema: Schema) -> Scan:
        """Return the scan with the missing columns of a schema added as nulls."""
        known = set(self.schema.names)
        new = (replace(c, is_added=True) for c in schema.columns if c.name not in known)
        return replace(self, schema=Schema((*self.schema.columns, *new)))

    def splits(self, target_bytes: int) -> tuple[Scan, ...]:
        """Return scans of complete files of about `target_bytes` each, which together are this scan, in order."""
        groups: list[list[DataFile]] = []
        remaining = 0
        for file in self.files:
            if not groups or file.size_bytes > remaining:
                groups.append([])
                remaining = target_bytes
            groups[-1].append(file)
            remaining -= file.size_bytes
        return tuple(replace(self, files=tuple(group)) for group in groups) or (self,)


def no_rows(schema: Schema) -> str:
    """Return a SELECT with a schema's columns and no rows."""
    return f"select {', '.join(f'null::{c.type} as {quoted(c.name)}' for c in schema.columns)} where false"


def register(con: duckdb.DuckDBPyConnection, inputs: Mapping[str, Scan | pa.Table]) -> None:
    """Create a view for each input, with its name."""
    for name, value in inputs.items():
        if isinstance(value, Scan):
            con.execute(f"create or replace temp view {quoted(name)} as {value.query()}")
        else:
            con.register(name, value)
