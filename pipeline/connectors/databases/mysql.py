"""MySQL and MariaDB: planned by PyMySQL in one snapshot, read by connectorx with types that it keeps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from pipeline.connectors.databases.address import DatabaseAddress
from pipeline.connectors.databases.columns import DatabaseColumn, FetchedColumn
from pipeline.connectors.databases.connecting import (
    ANSWERS_WITHIN_S,
    CONNECTS_WITHIN_S,
    connecting,
    connectorx_limits,
    keep_alive,
)
from pipeline.connectors.databases.cursor_values import Lag, NullCursors
from pipeline.connectors.databases.mysql_types import column_of, mysql_literal, quoted_in_backticks, rejection
from pipeline.connectors.databases.query_reader import QueryReader, query_options, reader_of_query
from pipeline.connectors.databases.sessions import StandardSql, is_number
from pipeline.core.clients import message_of
from pipeline.core.errors import Place, SourceError, SourceUnavailableError
from pipeline.core.extras import imports_of

_PORT = 3306
_SETTINGS = (
    "set session time_zone = '+00:00'",
    "set session transaction isolation level repeatable read",
)
_SNAPSHOT = "start transaction with consistent snapshot, read only"
_RETRIED_CODES = frozenset({1040, 1053, 1077, 1079, 1152, 1158, 1159, 1160, 1161, 1184, 1203, 1205, 1213, 1927, 4031})
"""Errors that pass: too many connections, shutdown, network, lock wait, deadlock, a connection that was ended."""
_CLIENT_CODES = range(2000, 2100)
"""Errors of the client: no server, or a connection that was lost."""
_CODE = re.compile(r"ERROR (\d{4})")


@dataclass(frozen=True)
class MysqlServer(StandardSql):
    """See `SqlDatabase`."""

    address: DatabaseAddress

    @property
    def system(self) -> str:
        """The name of the system."""
        return "MySQL"

    @property
    def uri(self) -> str:
        """The address without user and password."""
        return self.address.public()

    @contextmanager
    def connected(self) -> Iterator[_Session]:
        """Connect, and begin a transaction with a snapshot."""
        with imports_of("mysql", "a MySQL source"):
            import connectorx  # noqa: F401, PLC0415 - optional dependency
            import pymysql  # noqa: PLC0415 - optional dependency
        parts = urlsplit(self.address.connection_url())
        options: dict[str, Any] = {
            "host": parts.hostname or "127.0.0.1",
            "port": parts.port or _PORT,
            "user": unquote(parts.username or ""),
            "password": unquote(parts.password or ""),
            "database": unquote(parts.path).strip("/") or None,
        }

        def connect() -> Any:
            with _errors(self.address):
                opened = pymysql.connect(**options, **limits(), charset="utf8mb4", autocommit=True)
            keep_alive(opened._sock)  # noqa: SLF001 - the library has no option for it
            return opened

        connection = connecting(self.address, connect)
        try:
            opened = _Session(connection, self.address)
            for statement in (*_SETTINGS, _SNAPSHOT):
                opened.fetched(statement)
            yield opened
        finally:
            with suppress(pymysql.Error):
                connection.close()

    def quote(self, name: str) -> str:
        """Return a name in backticks."""
        return quoted_in_backticks(name)

    def literal(self, column: DatabaseColumn, text: str) -> str:
        """Return a number as it is, and another value as a string."""
        return text if is_number(column.type) else mysql_literal(text)

    def rejection(self, misfits: Sequence[FetchedColumn], columns: Sequence[DatabaseColumn]) -> str:
        """Return SQL for a row with misfits: the row as JSON, and the reasons."""
        return rejection(misfits, columns)


@dataclass(frozen=True)
class _Session:
    """See `SqlSession`."""

    connection: Any
    address: DatabaseAddress

    def columns(self, relation: str) -> tuple[DatabaseColumn, ...]:
        cursor, _ = self.fetched(f"select * from {relation} t limit 0")
        fields = cursor._result.fields  # noqa: SLF001 - the description lacks flags and character set
        return tuple(column_of(field) for field in fields)

    def key(self, table: str) -> tuple[str, ...]:
        schema, _, name = table.rpartition(".")
        of_schema = mysql_literal(schema) if schema else "database()"
        query = (
            "select column_name from information_schema.key_column_usage where constraint_name = 'PRIMARY' "
            f"and table_schema = {of_schema} and table_name = {mysql_literal(name)} order by ordinal_position"
        )
        return tuple(str(row[0]) for row in self.fetched(query)[1])

    def table(self, query: str) -> pa.Table:
        cursor, rows = self.fetched(query)
        names = [column[0] for column in cursor.description]
        values = zip(*rows, strict=True) if rows else ((),) * len(names)
        return pa.table([pa.array(list(column)) for column in values], names)

    def rows(self, query: str, columns: Sequence[FetchedColumn], texts: Sequence[str]) -> pa.Table:
        del columns, texts
        import connectorx  # noqa: PLC0415 - optional dependency

        _, colon, rest = self.address.connection_url().partition(":")
        url = f"mysql{colon}{rest}{'&' if urlsplit(rest).query else '?'}{connectorx_limits()}"
        with _errors(self.address):
            return connectorx.read_sql(
                url, query, return_type="arrow", protocol="binary", pre_execution_query=list(_SETTINGS)
            )

    def stamp(self) -> str | None:
        return None

    def fetched(self, query: str) -> tuple[Any, Sequence[tuple[Any, ...]]]:
        """Run a query, and return the cursor and its rows."""
        with _errors(self.address), self.connection.cursor() as cursor:
            cursor.execute(query)
            return cursor, cursor.fetchall()


def limits() -> dict[str, int]:
    """Return the settings of a connection after which PyMySQL gives up, in seconds."""
    return {"connect_timeout": CONNECTS_WITHIN_S, "read_timeout": ANSWERS_WITHIN_S, "write_timeout": ANSWERS_WITHIN_S}


@contextmanager
def _errors(address: DatabaseAddress) -> Iterator[None]:
    import pymysql  # noqa: PLC0415 - optional dependency

    try:
        yield
    except (pymysql.Error, RuntimeError, OSError) as error:
        raise translated(error, address) from error


def translated(error: Exception, address: DatabaseAddress) -> SourceError:
    """Return an error of a driver as one of ours: unavailable if it passes by itself."""
    text, place = address.redacted(message_of(error)), Place(address.public())
    in_text = _CODE.search(text)
    code = int(in_text[1]) if in_text else next((each for each in error.args if isinstance(each, int)), 0)
    if code in _RETRIED_CODES or code in _CLIENT_CODES or (not code and not isinstance(error, ValueError)):
        return SourceUnavailableError("MySQL is unavailable", got=text, place=place)
    return SourceError(
        "MySQL refuses to be read", got=text, do="check the address, the user and its rights", place=place
    )


def mysql(
    url: str,
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
    password: str | None = None,
) -> QueryReader:
    """Read a table, a view or a query of MySQL or MariaDB.

        orders = source(mysql("mysql://reader@db.example.com/shop", "orders", cursor="updated_at", lag="5 minutes"))

    `url` is a URL without a password, or `env:NAME` or `file:PATH` with an entire URL. Without `cursor`, everything is
    read by each run. With it, a run reads the rows above the greatest value that was read, and those at most `lag` below
    it that are new; `key` are the columns that identify a row, by default the primary key.

    `deleted_when` and `reconcile` add the column `_deleted`; see docs/deletes.md.

    Raises `DefinitionError` for a password that is written out, and for contradictory options.
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
    return reader_of_query(MysqlServer(DatabaseAddress(url, password)), options)
