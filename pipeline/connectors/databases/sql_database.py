"""Any database with a dialect of SQLAlchemy: rows of its DB-API driver, with reflected types."""

from __future__ import annotations

import datetime as dt
import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from pipeline.connectors.databases.address import DatabaseAddress
from pipeline.connectors.databases.columns import DatabaseColumn, FetchedColumn
from pipeline.connectors.databases.connecting import ANSWERS_WITHIN_S, CONNECTS_WITHIN_S, LIBPQ_LIMITS, connecting
from pipeline.connectors.databases.cursor_values import TIMES, Lag, NullCursors
from pipeline.connectors.databases.query_reader import QueryReader, query_options, reader_of_query
from pipeline.connectors.databases.sessions import StandardSql, fetched_type, is_number
from pipeline.core.clients import is_unavailable, message_of
from pipeline.core.credentials import is_reference
from pipeline.core.errors import Place, SourceError, SourceUnavailableError
from pipeline.kernel.sql_text import literal
from pipeline.kernel.types import arrow_type, decimal_of

_BATCH_ROWS = 10_000
_SAMPLED_ROWS = 1000
_TEXT_LENGTH = 4000
_DECIMAL_DIGITS = 38
_FETCH_DIALECTS = frozenset({"mssql", "oracle"})
"""Dialects with OFFSET and FETCH instead of LIMIT."""
_PERMANENT = ("access denied", "password", "login failed", "permission denied", "does not exist", "no such")
_LIMITS: dict[str, dict[str, int]] = {
    "psycopg": LIBPQ_LIMITS,
    "psycopg2": LIBPQ_LIMITS,
    "pymysql": {"connect_timeout": CONNECTS_WITHIN_S, "read_timeout": ANSWERS_WITHIN_S},
    "mysqldb": {"connect_timeout": CONNECTS_WITHIN_S, "read_timeout": ANSWERS_WITHIN_S},
    "pymssql": {"login_timeout": CONNECTS_WITHIN_S, "timeout": ANSWERS_WITHIN_S},
    "oracledb": {"tcp_connect_timeout": CONNECTS_WITHIN_S, "expire_time": 1},
}
"""By driver: the options that end a connection to a server that does not answer; Oracle's `expire_time` is in minutes."""
_OF_PYTHON = {
    bool: "BOOLEAN",
    int: "BIGINT",
    float: "DOUBLE",
    bytes: "BLOB",
    dt.date: "DATE",
}


@dataclass(frozen=True)
class AlchemyDatabase(StandardSql):
    """See `SqlDatabase`."""

    address: DatabaseAddress

    @property
    def system(self) -> str:
        """The name of the dialect; `sql` if the URL is a reference, which is looked up only where it is used."""
        return "sql" if is_reference(self.address.url) else sa.make_url(self.address.url).get_backend_name()

    @property
    def uri(self) -> str:
        """The address without user and password."""
        return self.address.public()

    @property
    def dialect(self) -> sa.Dialect:
        """The dialect; raise `SourceError` if its driver is not installed."""
        return self._engine().dialect

    @contextmanager
    def connected(self) -> Iterator[_Session]:
        """Connect, and begin a transaction."""
        engine = self._engine()

        def connect() -> sa.Connection:
            try:
                return engine.connect()
            except sa.exc.SQLAlchemyError as error:
                raise _translated(error, self.address) from error

        try:
            with connecting(self.address, connect) as connection:
                yield _Session(connection, self)
        except sa.exc.SQLAlchemyError as error:
            raise _translated(error, self.address) from error
        finally:
            engine.dispose()

    def _backend(self) -> str:
        """The name of the dialect, also of a URL by reference."""
        return str(sa.make_url(self.address.connection_url()).get_backend_name())

    def _engine(self) -> sa.Engine:
        try:
            url = sa.make_url(self.address.connection_url())
            limits = {name: value for name, value in _LIMITS.get(_driver(url), {}).items() if name not in url.query}
            return sa.create_engine(url, poolclass=sa.NullPool, connect_args=limits)
        except (ImportError, sa.exc.NoSuchModuleError) as error:
            raise SourceError(
                "the driver of a database is not installed",
                got=message_of(error),
                do="install the driver that the URL names",
                place=Place(self.uri),
            ) from error
        except sa.exc.ArgumentError as error:
            raise SourceError("this is not the URL of a database", do="write it as SQLAlchemy does") from error

    def quote(self, name: str) -> str:
        """Return a name in the quotes of the dialect."""
        return str(self.dialect.identifier_preparer.quote_identifier(name))

    def limited(self, query: str, rows: int, offset: int = 0) -> str:
        """Return a query with LIMIT, or with OFFSET and FETCH."""
        if self._backend() in _FETCH_DIALECTS:
            return f"{query} offset {offset} rows fetch next {rows} rows only"
        return super().limited(query, rows, offset)

    def literal(self, column: DatabaseColumn, text: str) -> str:
        """Return a value as SQL; dates and times are typed where a text is not compared with them."""
        if is_number(column.type):
            return text
        backend, is_time = self._backend(), column.type in TIMES
        if backend == "oracle" and is_time:
            return f"timestamp {literal(text if ':' in text else f'{text} 00:00:00')}"
        if backend == "mssql":
            return _mssql_time(text) if is_time else f"{'' if text.isascii() else 'N'}{literal(text)}"
        return literal(text)

    def rejection(self, misfits: Sequence[FetchedColumn], columns: Sequence[DatabaseColumn]) -> str:
        """No column has misfits: a value of another type is found after it was fetched."""
        raise AssertionError(f"no misfits are known: {misfits}, {columns}")


@dataclass(frozen=True)
class _Session:
    """See `SqlSession`."""

    connection: sa.Connection
    database: AlchemyDatabase

    def columns(self, relation: str) -> tuple[DatabaseColumn, ...]:
        if relation.startswith("("):
            return self._sampled(relation)
        dialect = self.connection.dialect
        preparer = dialect.identifier_preparer
        parts = [preparer._unescape_identifier(part[1:-1]) for part in _split(relation, preparer)]  # noqa: SLF001 - its inverse
        try:
            described = sa.inspect(self.connection).get_columns(*as_stored(dialect, parts[-1], ".".join(parts[:-1])))
        except sa.exc.NoSuchTableError as error:
            raise SourceError("there is no such table", got=relation, place=Place(self.database.uri)) from error
        return tuple(
            self._column(stored_name(dialect, each["name"]), reflected_type(each["type"])) for each in described
        )

    def _sampled(self, relation: str) -> tuple[DatabaseColumn, ...]:
        """Return the columns of a query, whose types are those of its first values."""
        result = self.connection.exec_driver_sql(f"select * from {relation} t")
        names = [stored_name(self.connection.dialect, name) for name in result.keys()]  # noqa: SIM118 - no dictionary
        rows = result.fetchmany(_SAMPLED_ROWS)
        result.close()
        values = list(zip(*rows, strict=True)) if rows else [()] * len(names)
        return tuple(self._column(name, sampled_type(column)) for name, column in zip(names, values, strict=True))

    def _column(self, name: str, kind: str) -> DatabaseColumn:
        at, dialect = f"t.{self.database.quote(name)}", self.connection.dialect
        text = sa.cast(sa.literal_column(at), sa.String(_TEXT_LENGTH)).compile(dialect=dialect)
        return DatabaseColumn(
            name, kind, exact_value(dialect.name, at, kind), exact_text(dialect.name, at, kind) or str(text)
        )

    def key(self, table: str) -> tuple[str, ...]:
        (schema, _, name), dialect = table.rpartition("."), self.connection.dialect
        try:
            described = sa.inspect(self.connection).get_pk_constraint(*as_stored(dialect, name, schema))
        except sa.exc.NoSuchTableError:
            return ()
        return tuple(stored_name(dialect, each) for each in described["constrained_columns"])

    def table(self, query: str) -> pa.Table:
        result = self.connection.exec_driver_sql(query)
        return _table(list(result.keys()), list(result.fetchall()), {})

    def rows(self, query: str, columns: Sequence[FetchedColumn], texts: Sequence[str]) -> pa.Table:
        types = {each.column.name: fetched_type(each) for each in columns} | dict.fromkeys(texts, "VARCHAR")
        streamed = self.connection.execution_options(stream_results=True, yield_per=_BATCH_ROWS)
        result = streamed.exec_driver_sql(query)
        names = [*(each.column.name for each in columns), *texts]
        batches = [_table(names, list(part), types) for part in result.partitions(_BATCH_ROWS)]
        return _joined(batches or [_table(names, [], types)])

    def stamp(self) -> str | None:
        return None


def _driver(url: sa.URL) -> str:
    """Return the name of the driver of a URL; raise `NoSuchModuleError` for an unknown one."""
    return str(url.get_dialect().driver)


def stored_name(dialect: sa.Dialect, name: str) -> str:
    """Return the name that a dialect reflects as the database stores it: Oracle's ID is reflected as `id`."""
    return str(dialect.denormalize_name(name) if dialect.requires_name_normalize else name)


def as_stored(dialect: sa.Dialect, table: str, schema: str) -> tuple[str, str | None]:
    """Return the names of a table and its schema such that a dialect looks them up as they are stored."""
    if not dialect.requires_name_normalize:
        return table, schema or None
    return sa.quoted_name(table, quote=True), sa.quoted_name(schema, quote=True) if schema else None


def exact_value(dialect: str, at: str, kind: str) -> str:
    """Return SQL for the value of a column as the driver keeps it: that of Oracle forgets the zone of a time."""
    return f"sys_extract_utc({at})" if (dialect, kind) == ("oracle", "TIMESTAMPTZ") else at


def exact_text(dialect: str, at: str, kind: str) -> str | None:
    """Return SQL for the value of a column as text of ISO 8601 or with all digits; `None` where a cast is exact.

    A cast of SQL Server shortens a `datetime` to minutes, a `float` to 6 digits and letters to its code page; one of
    Oracle writes times and numbers as the session is set.
    """
    if dialect == "mssql":
        if kind in TIMES:
            return f"convert(varchar(33), {at}, 126)"
        return f"convert(varchar(33), {at}, 3)" if kind == "DOUBLE" else f"cast({at} as nvarchar({_TEXT_LENGTH}))"
    if dialect != "oracle":
        return None
    if kind == "TIMESTAMPTZ":
        return f"to_char(sys_extract_utc({at}), 'YYYY-MM-DD HH24:MI:SS.FF9') || '+00:00'"
    if kind in TIMES:
        return f"to_char(cast({at} as timestamp(9)), 'YYYY-MM-DD HH24:MI:SS.FF9')"  # a DATE has no FF9
    return f"to_char({at}, 'TM9', 'nls_numeric_characters=''.,''')" if is_number(kind) else None


def _mssql_time(text: str) -> str:
    """Return a time as a literal that no language of a session changes.

    One that was computed has a space; `datetime` accepts at most three digits of its seconds.
    """
    day, space, time = text.partition(" ")
    if not space:
        return literal(text)
    return literal(f"{day}T" + re.sub(r"(\.\d{3})\d+", r"\1", time))


def _split(relation: str, preparer: Any) -> list[str]:
    """Return the quoted parts of a name."""
    end, parts, rest = preparer.final_quote, [], relation
    while rest:
        at = 1
        while True:
            at = rest.index(end, at)
            if rest[at + 1 : at + 2] != end:
                break
            at += 2
        parts.append(rest[: at + 1])
        rest = rest[at + 2 :]
    return parts


_REFLECTED: tuple[tuple[type[sa.types.TypeEngine[Any]], str], ...] = (
    (sa.Boolean, "BOOLEAN"),
    (sa.SmallInteger, "SMALLINT"),
    (sa.Integer, "BIGINT"),
    (sa.Float, "DOUBLE"),
    (sa.DateTime, "TIMESTAMP"),
    (sa.Date, "DATE"),
    (sa.types._Binary, "BLOB"),  # noqa: SLF001 - the base of BLOB and VARBINARY
)


def reflected_type(kind: sa.types.TypeEngine[Any]) -> str:
    """Return the type of a reflected column; VARCHAR for a type that is read as text."""
    stored = next((name for of, name in _REFLECTED if isinstance(kind, of)), "VARCHAR")
    if isinstance(kind, sa.DateTime) and kind.timezone:
        return "TIMESTAMPTZ"
    if stored == "VARCHAR" and isinstance(kind, sa.Numeric):
        bounded = kind.precision is not None and kind.precision <= _DECIMAL_DIGITS
        return f"DECIMAL({kind.precision},{kind.scale or 0})" if bounded else "VARCHAR"
    return stored


def sampled_type(values: Sequence[object]) -> str:
    """Return the type of Python values; VARCHAR for numbers with digits after the point, and for mixed values."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {dt.datetime}:
        zones = {value.tzinfo is not None for value in values if isinstance(value, dt.datetime)}
        return {frozenset({True}): "TIMESTAMPTZ", frozenset({False}): "TIMESTAMP"}.get(frozenset(zones), "VARCHAR")
    return _OF_PYTHON.get(kinds.pop(), "VARCHAR") if len(kinds) == 1 else "VARCHAR"


def _table(names: Sequence[str], rows: Sequence[Sequence[object]], types: dict[str, str]) -> pa.Table:
    columns: Iterator[Sequence[object]] = zip(*rows, strict=True) if rows else itertools.repeat(())
    return pa.table(
        [_array(values, types.get(name)) for name, values in zip(names, columns, strict=False)], list(names)
    )


def _array(values: Sequence[object], kind: str | None) -> pa.Array:
    """Return values as an array of their type, or as text if one of them has another."""
    if kind is None:
        return pa.array(values)
    if kind != "VARCHAR" and decimal_of(kind) is None:
        try:
            return pa.array(values, arrow_type(kind))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            pass  # the contract finds the value that does not fit
    return pa.array([None if value is None else _text(value) for value in values], pa.string())


def _text(value: object) -> str:
    if isinstance(value, Decimal):
        return format(value, "f") if value.is_finite() else str(value)
    return value.hex() if isinstance(value, bytes) else str(value)


def _joined(batches: Sequence[pa.Table]) -> pa.Table:
    """Return batches as one table; a column that is text in one of them is text in all."""
    columns = []
    for at in range(batches[0].num_columns):
        kinds = {batch.schema.field(at).type for batch in batches}
        kind = kinds.pop() if len(kinds) == 1 else pa.string()
        columns.append(pa.chunked_array([c.cast(kind) for b in batches for c in b.column(at).chunks], kind))
    return pa.table(columns, batches[0].column_names)


def _translated(error: sa.exc.SQLAlchemyError, address: DatabaseAddress) -> SourceError:
    cause = getattr(error, "orig", None) or error
    text, place = address.redacted(message_of(cause)), Place(address.public())
    is_lost = isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated
    passes = is_lost or (isinstance(error, sa.exc.OperationalError) and is_unavailable(cause))
    if passes and not any(words in text.lower() for words in _PERMANENT):
        return SourceUnavailableError("a database is unavailable", got=text, place=place)
    return SourceError(
        "a database refuses to be read", got=text, do="check the address, the user and the query", place=place
    )


def sql_database(
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
    """Read a table or a query of any database with a dialect of SQLAlchemy.

        stock = source(sql_database("cockroachdb://reader@db.example.com/shop", "stock", cursor="updated_at"))

    The types are those that SQLAlchemy reflects; those of a query are taken from its first values, and `schema=` should
    declare them. Rows pass through Python, so a connector of the system itself is several times as fast. Without
    `cursor`, everything is read by each run. With it, a run reads the rows above the greatest value that was read, and
    those at most `lag` below it that are new; `key` are the columns that identify a row, by default the primary key.

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
    return reader_of_query(AlchemyDatabase(DatabaseAddress(url, password)), options)
