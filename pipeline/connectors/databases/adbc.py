"""Any database with an ADBC driver."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.connectors.databases.adbc_connection import AdbcConnection, driver_errors
from pipeline.connectors.databases.address import DatabaseAddress
from pipeline.connectors.databases.columns import DatabaseColumn, FetchedColumn
from pipeline.connectors.databases.connecting import connecting, libpq_url
from pipeline.connectors.databases.cursor_values import Lag, NullCursors
from pipeline.connectors.databases.query_reader import QueryReader, query_options, reader_of_query
from pipeline.connectors.databases.sessions import StandardSql
from pipeline.core.clients import is_unavailable, message_of
from pipeline.core.credentials import is_reference, secret
from pipeline.core.errors import DefinitionError, Place, SourceError, SourceUnavailableError
from pipeline.core.extras import imports_of
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.types import from_arrow

_TEXTS = (pa.string(), pa.large_string(), pa.string_view())
_PERMANENT = ("authentication failed", "does not exist", "permission denied", "incorrect username or password")
_DRIVER_SCHEMES = {"adbc_driver_snowflake": "snowflake"}
"""Drivers that connect to `user:password@account/…`; in Headwater, the scheme may precede it."""
_SECRET_OPTIONS = ("password", "token", "secret", "private_key", "credential")


@dataclass(frozen=True)
class AdbcDriver(StandardSql):
    """See `SqlDatabase`. `driver` is the module of a driver, such as `adbc_driver_snowflake`."""

    driver: str
    address: DatabaseAddress
    settings: tuple[tuple[str, str], ...] = ()
    quote_character: str = '"'
    text_type: str = "varchar"
    takes_url: bool = True
    """Whether the driver connects to a URL; otherwise only to its settings."""

    @property
    def system(self) -> str:
        """The driver."""
        return self.driver.removeprefix("adbc_driver_")

    @property
    def uri(self) -> str:
        """The address without user and password."""
        return self.address.public()

    @contextmanager
    def connected(self) -> Iterator[_Session]:
        """Connect to the database."""
        with imports_of(self.system, f"the ADBC driver {self.driver}"):
            dbapi = importlib.import_module(f"{self.driver}.dbapi")
        translate = partial(_translated, self)
        settings = {name: secret(value, f"the setting {name}") for name, value in self.settings}
        is_libpq = self.driver == "adbc_driver_postgresql"
        url = libpq_url(self.address) if is_libpq else self.address.connection_url()
        options = {"db_kwargs": settings} if settings else {}

        def connect() -> Any:
            with driver_errors(translate):
                return dbapi.connect(*([url] if self.takes_url else []), autocommit=True, **options)

        connection = AdbcConnection(connecting(self.address, connect), translate)
        try:
            yield _Session(connection, self)
        finally:
            connection.close()

    def quote(self, name: str) -> str:
        """Return a name in the driver's quotes."""
        mark = self.quote_character
        return quoted(name) if mark == '"' else f"{mark}{name.replace(mark, mark * 2)}{mark}"

    def rejection(self, misfits: Sequence[FetchedColumn], columns: Sequence[DatabaseColumn]) -> str:
        """No column has misfits: values arrive with the types of Arrow."""
        raise AssertionError(f"no misfits are known: {misfits}, {columns}")


@dataclass(frozen=True)
class _Session:
    """See `SqlSession`."""

    connection: AdbcConnection
    database: AdbcDriver

    def columns(self, relation: str) -> tuple[DatabaseColumn, ...]:
        schema = _plain(self.connection.table(f"select * from {relation} t where 1 = 0")).schema
        return tuple(
            self._column(field, column.type) for field, column in zip(schema, from_arrow(schema).columns, strict=True)
        )

    def _column(self, field: pa.Field, kind: str) -> DatabaseColumn:
        at = f"t.{self.database.quote(field.name)}"
        text = exact_text(self.database.system, at, kind) or f"cast({at} as {self.database.text_type})"
        is_other = (
            kind == "VARCHAR" and field.type not in _TEXTS
        )  # a time or an interval, which the lake stores as text
        return DatabaseColumn(field.name, kind, text if is_other else at, text)

    def key(self, table: str) -> tuple[str, ...]:
        del table
        return ()  # drivers do not tell

    def table(self, query: str) -> pa.Table:
        return _plain(self.connection.table(query))

    def rows(self, query: str, columns: Sequence[FetchedColumn], texts: Sequence[str]) -> pa.Table:
        del columns, texts
        return self.table(query)

    def stamp(self) -> str | None:
        return None


def exact_text(system: str, at: str, kind: str) -> str | None:
    """Return SQL for a time as text with all its digits; `None` where a cast is exact.

    A cast of Snowflake writes a time as the session is set: without an offset of minutes, and with three digits.
    """
    if system != "snowflake" or kind not in {"TIMESTAMP", "TIMESTAMPTZ"}:
        return None
    utc = f"convert_timezone('UTC', {at})" if kind == "TIMESTAMPTZ" else at
    zone = " || '+00:00'" if kind == "TIMESTAMPTZ" else ""
    return f"to_varchar({utc}, 'YYYY-MM-DD HH24:MI:SS.FF9'){zone}"


def _plain(rows: pa.Table) -> pa.Table:
    """Return the rows with the storage of extension types, such as the text of a UUID or of a number without limits."""
    for at, field in enumerate(rows.schema):
        if isinstance(field.type, pa.BaseExtensionType):
            chunks = [chunk.storage for chunk in rows.column(at).chunks]
            rows = rows.set_column(at, field.name, pa.chunked_array(chunks, field.type.storage_type))
    return rows


def _translated(database: AdbcDriver, error: Exception) -> SourceError:
    text, place = database.address.redacted(message_of(error)), Place(database.uri)
    if is_unavailable(error) and not any(words in text.lower() for words in _PERMANENT):
        return SourceUnavailableError("a database is unavailable", got=text, place=place)
    return SourceError(
        "a database refuses to be read", got=text, do="check the address, the user and the query", place=place
    )


def adbc(
    driver: str,
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
    settings: Mapping[str, str] | None = None,
) -> QueryReader:
    """Read a table or a query of a database by the module of an ADBC driver.

        orders = source(adbc("adbc_driver_flightsql", "grpc+tls://db.example.com:443", "orders", key="id", cursor="at"))

    `settings` are those of the driver; a password or a token in them is a reference, `env:NAME` or `file:PATH`. Values
    arrive as the driver gives them. Without `cursor`, everything is read by each run. With it, a run reads the rows above
    the greatest value that was read, and those at most `lag` below it that are new; `key` are the columns that identify
    a row.

    `deleted_when` and `reconcile` add the column `_deleted`; see docs/deletes.md.

    Raises `DefinitionError` for a password that is written out, and for contradictory options.
    """
    given = tuple(sorted((settings or {}).items()))
    for name, value in given:
        if any(word in name.lower() for word in _SECRET_OPTIONS) and not is_reference(value):
            raise DefinitionError(f"the setting {name!r} must be a reference", do='write "env:NAME" or "file:PATH"')
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
    address = DatabaseAddress(url, password, _DRIVER_SCHEMES.get(driver, ""))
    return reader_of_query(AdbcDriver(driver, address, given), options)
