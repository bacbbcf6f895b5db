"""DuckDB files, opened for reading."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import duckdb
import pyarrow as pa

from pipeline.connectors.databases.columns import SEPARATOR, DatabaseColumn, FetchedColumn
from pipeline.connectors.databases.cursor_values import TIMES, Lag, NullCursors
from pipeline.connectors.databases.database_file import DatabaseFile
from pipeline.connectors.databases.query_reader import QueryReader, query_options, reader_of_query
from pipeline.kernel.engine import arrow, first_line, plain_type
from pipeline.kernel.sql_text import literal, quoted
from pipeline.kernel.types import decimal_of, stored_type


@dataclass(frozen=True)
class DuckdbFile(DatabaseFile):
    """See `SqlDatabase`."""

    name: ClassVar[str] = "DuckDB"
    log: ClassVar[str] = ".wal"
    locked: ClassVar[str] = "the DuckDB file is written to by another process"

    @contextmanager
    def connected(self) -> Iterator[_Session]:
        """Open the file for reading; raise `SourceUnavailableError` while another process writes to it."""
        self.require()
        try:
            connection = duckdb.connect(self.path, read_only=True)
        except duckdb.Error as error:
            raise self.refused(first_line(error)) from error
        with connection:
            connection.execute("set timezone = 'UTC'")
            connection.execute("begin transaction")
            yield _Session(connection, self)

    def rejection(self, misfits: Sequence[FetchedColumn], columns: Sequence[DatabaseColumn]) -> str:
        """Return SQL for a row with misfits: the row as JSON, and the reasons."""
        packed = ", ".join(f"{quoted(each.name)} := t.{quoted(each.name)}" for each in columns)
        reasons = ", ".join(
            f"case when {each.misfit} then {literal(f'column {each.column.name!r} is not {each.column.type}: ')} || {each.column.text} end"
            for each in misfits
        )
        return f"to_json(struct_pack({packed}))::varchar || {literal(SEPARATOR)} || concat_ws('; ', {reasons})"


@dataclass(frozen=True)
class _Session:
    """See `SqlSession`."""

    connection: duckdb.DuckDBPyConnection
    file: DuckdbFile

    def columns(self, relation: str) -> tuple[DatabaseColumn, ...]:
        query = relation[1:-1] if relation.startswith("(") else f"select * from {relation}"
        rows = self.table(f"describe {query}").to_pylist()  # around a query, equal names would be changed
        return tuple(_column(str(row["column_name"]), plain_type(str(row["column_type"]))) for row in rows)

    def key(self, table: str) -> tuple[str, ...]:
        name, _, schema = table.rpartition(".")[2], "", table.rpartition(".")[0].rpartition(".")[2] or "main"
        query = (
            "select unnest(constraint_column_names) as name from duckdb_constraints() "
            f"where constraint_type = 'PRIMARY KEY' and table_name = {literal(name)} and schema_name = {literal(schema)}"
        )
        return tuple(str(row["name"]) for row in self.table(query).to_pylist())

    def table(self, query: str) -> pa.Table:
        try:
            return arrow(self.connection, query)
        except duckdb.Error as error:
            raise self.file.refused(first_line(error)) from error

    def rows(self, query: str, columns: Sequence[FetchedColumn], texts: Sequence[str]) -> pa.Table:
        del columns, texts
        return self.table(query)

    def stamp(self) -> str | None:
        return self.file.stamp()


def _column(name: str, kind: str) -> DatabaseColumn:
    """Return how to fetch a column: with the type under which it is stored in the lake, if no value loses anything."""
    at, stored = f"t.{quoted(name)}", stored_type(kind)
    text = f"{at}::varchar"
    if kind in TIMES:
        fits = f"{at} >= '0001-01-01' and {at} < '10000-01-01'"
        return DatabaseColumn(name, kind, f"case when {fits} then {at} end", text, f"not ({fits})")
    if stored in {kind, "VARCHAR"}:
        return DatabaseColumn(name, stored, at if stored == kind else f"{at}::varchar", text)
    if stored.endswith("]") or decimal_of(stored) is not None or stored.startswith(("STRUCT", "MAP")):
        return DatabaseColumn(name, stored, f"{at}::{stored}", text)
    cast = f"try_cast({at} as {stored})"
    return DatabaseColumn(name, stored, cast, text, f"try_cast({cast} as {kind}) is distinct from {at}")


def duckdb_file(
    path: str | Path,
    table: str | None = None,
    *,
    query: str | None = None,
    columns: Sequence[str] = (),
    key: str | Sequence[str] = (),
    cursor: str | None = None,
    lag: Lag | None = None,
    null_cursors: NullCursors = "include",
    deleted_when: str | None = None,
    reconcile: str | timedelta | None = None,
) -> QueryReader:
    """Read a table, a view or a query of a DuckDB file.

        orders = source(duckdb_file("shop.duckdb", "orders", cursor="updated_at"))

    Without `cursor`, everything is read whenever the file has changed. With it, a run reads the rows above the greatest
    value that was read, and those at most `lag` below it that are new; `key` are the columns that identify a row, by
    default the primary key. Infinite dates and times are rejected rows.

    `deleted_when` and `reconcile` add the column `_deleted`; see docs/deletes.md.

    Raises `DefinitionError` for contradictory options.
    """
    options = query_options(
        table,
        query,
        columns=columns,
        key=key,
        cursor=cursor,
        lag=lag,
        null_cursors=null_cursors,
        deleted_when=deleted_when,
        reconcile=reconcile,
    )
    return reader_of_query(DuckdbFile(str(path)), options)
