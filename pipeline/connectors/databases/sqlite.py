"""SQLite files, whose columns accept values of any type: a value of another type than its column's is rejected."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote as url_quote

import pyarrow as pa

from pipeline.connectors.databases.adbc_connection import AdbcConnection, driver_errors
from pipeline.connectors.databases.columns import SEPARATOR, DatabaseColumn, FetchedColumn
from pipeline.connectors.databases.cursor_values import Lag, NullCursors
from pipeline.connectors.databases.database_file import DatabaseFile
from pipeline.connectors.databases.query_reader import QueryReader, query_options, reader_of_query
from pipeline.connectors.databases.sessions import fetched_type
from pipeline.core.errors import Place, SourceError
from pipeline.core.extras import imports_of
from pipeline.kernel.sql_text import literal, quoted

_TYPED_ROW = {"BIGINT": "0", "DOUBLE": "0.5", "BLOB": "x''", "BOOLEAN": "0"}
"""A value of each type. The driver takes the type of a column from its first values, so the first row has one of each."""
_VIEW = "headwater_query"


@dataclass(frozen=True)
class SqliteFile(DatabaseFile):
    """See `SqlDatabase`."""

    name: ClassVar[str] = "SQLite"
    log: ClassVar[str] = "-wal"
    locked: ClassVar[str] = "the SQLite file is locked by a writer"

    @contextmanager
    def connected(self) -> Iterator[_Session]:
        """Open the file for reading; raise `SourceError` if it does not exist."""
        self.require()
        with imports_of("sqlite", "a SQLite source"):
            from adbc_driver_sqlite import dbapi  # noqa: PLC0415 - optional dependency
        with driver_errors(self.translated):
            raw = dbapi.connect(f"file:{url_quote(str(Path(self.path).absolute()))}?mode=ro", autocommit=True)
        connection = AdbcConnection(raw, self.translated)
        try:
            connection.table("pragma busy_timeout = 10000")
            connection.execute("begin")
            yield _Session(connection, self)
        finally:
            connection.close()

    def translated(self, error: Exception) -> SourceError:
        """Return an error of the driver as one of ours."""
        return self.refused(" ".join(str(error).partition("\nquery: ")[0].split()))

    def rejection(self, misfits: Sequence[FetchedColumn], columns: Sequence[DatabaseColumn]) -> str:
        """Return SQL for a row with misfits: the row as JSON, and the reasons."""
        reasons = " || ".join(
            f"case when {each.misfit} then {literal(f'; column {each.column.name!r} is not {each.column.type}: ')} || {each.column.text} else '' end"
            for each in misfits
        )
        # a blob in JSON is an error, and SQLite's functions have at most 100 arguments
        parts = " || ',' || ".join(
            f"json_quote({literal(each.name)}) || ':' || json_quote({_in_json(f't.{quoted(each.name)}', each)})"
            for each in columns
        )
        return f"'{{' || {parts} || '}}{SEPARATOR}' || substr({reasons}, 3)"


def _in_json(at: str, column: DatabaseColumn) -> str:
    return f"case when typeof({at}) = 'blob' then {column.text} else {at} end"


@dataclass(frozen=True)
class _Session:
    """See `SqlSession`."""

    connection: AdbcConnection
    file: SqliteFile

    def columns(self, relation: str) -> tuple[DatabaseColumn, ...]:
        name = relation
        if relation.startswith("("):
            self.connection.execute(f"drop view if exists temp.{_VIEW}")
            self.connection.execute(f"create temp view {_VIEW} as select * from {relation}")
            name = _VIEW
        described = self._described(name)
        if not described:
            raise SourceError("there is no such table", got=relation, place=Place(self.file.path))
        names = [str(each["name"]) for each in described]
        return tuple(
            _column(_written_name(name, names), str(each["type"])) for name, each in zip(names, described, strict=True)
        )

    def key(self, table: str) -> tuple[str, ...]:
        keys = [each for each in self._described(quoted(table)) if each["pk"]]
        return tuple(str(each["name"]) for each in sorted(keys, key=lambda each: int(each["pk"])))

    def _described(self, name: str) -> list[dict[str, Any]]:
        plain = name[1:-1].replace('""', '"') if name.startswith('"') else name
        query = f"select name, type, pk from pragma_table_xinfo({literal(plain)}) where hidden <> 1"
        rows: list[dict[str, Any]] = self.connection.table(query).to_pylist()
        return rows

    def table(self, query: str) -> pa.Table:
        return self.connection.table(query)

    def rows(self, query: str, columns: Sequence[FetchedColumn], texts: Sequence[str]) -> pa.Table:
        values = [
            f"{_TYPED_ROW.get(fetched_type(each), literal(''))} as {quoted(each.column.name)}" for each in columns
        ]
        values += [f"'' as {quoted(name)}" for name in texts]
        return self.connection.table(f"select {', '.join(values)} union all select * from ({query})").slice(1)

    def stamp(self) -> str | None:
        return self.file.stamp()


def _written_name(name: str, names: Sequence[str]) -> str:
    """Return the name of a column as a query wrote it: SQLite adds a number to one that is equal to another, ignoring case."""
    plain = re.sub(r":\d+$", "", name)
    return plain if plain != name and plain.lower() in {each.lower() for each in names} else name


def _column(name: str, declared: str) -> DatabaseColumn:
    """Return how to fetch a column, by SQLite's rules for the affinity of a declared type."""
    at, kind = f"t.{quoted(name)}", declared.upper()
    text = f"case when typeof({at}) = 'blob' then hex({at}) else cast({at} as text) end"
    if "BOOL" in kind:
        fits = f"{at} in (0, 1)"
        return DatabaseColumn(name, "BOOLEAN", f"case when {fits} then {at} end", text, _not(at, fits))
    if "INT" in kind:
        return _of_type(name, "BIGINT", "'integer'", text)
    if "BLOB" in kind:
        return _of_type(name, "BLOB", "'blob'", text)
    if re.search("REAL|FLOA|DOUB", kind):
        fits = f"typeof({at}) = 'real'"
        return DatabaseColumn(name, "DOUBLE", f"case when {fits} then {at} end", text, _not(at, fits))
    fits = f"typeof({at}) <> 'blob'"
    return DatabaseColumn(name, "VARCHAR", f"case when {fits} then cast({at} as text) end", text, _not(at, fits))


def _of_type(name: str, kind: str, storage: str, text: str) -> DatabaseColumn:
    at = f"t.{quoted(name)}"
    fits = f"typeof({at}) = {storage}"
    return DatabaseColumn(name, kind, f"case when {fits} then {at} end", text, _not(at, fits))


def _not(at: str, fits: str) -> str:
    return f"{at} is not null and not ({fits})"


def sqlite(
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
    """Read a table, a view or a query of a SQLite file.

        orders = source(sqlite("shop.db", "orders", cursor="updated_at"))

    Without `cursor`, everything is read whenever the file has changed. With it, a run reads the rows above the greatest
    value that was read, and those at most `lag` below it that are new; `key` are the columns that identify a row, by
    default the primary key. A value of another type than its column's is a rejected row.

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
    return reader_of_query(SqliteFile(str(path)), options)
