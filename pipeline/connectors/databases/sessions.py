"""What a database must offer to be read by `QueryReader`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, runtime_checkable

import pyarrow as pa

from pipeline.connectors.databases.columns import DatabaseColumn, FetchedColumn
from pipeline.kernel.sql_text import literal, quoted
from pipeline.kernel.types import decimal_of

_INTEGERS = frozenset({"TINYINT", "SMALLINT", "INTEGER", "BIGINT"})


class SqlSession(Protocol):
    """A connection inside a transaction that only reads."""

    def columns(self, relation: str) -> tuple[DatabaseColumn, ...]:
        """Return the columns of a relation, which is a quoted table or a query in parentheses; its alias is `t`."""

    def key(self, table: str) -> tuple[str, ...]:
        """Return the columns of a table's primary key, none if it has no key."""

    def table(self, query: str) -> pa.Table:
        """Return the rows of a query; raise `SourceError` if the database refuses it."""

    def rows(self, query: str, columns: Sequence[FetchedColumn], texts: Sequence[str]) -> pa.Table:
        """Return the rows of a query that selects these columns, and then columns of text with these names."""

    def stamp(self) -> str | None:
        """Return a text that changes whenever the database changes; `None` if there is none."""


class SqlDatabase(Protocol):
    """A database, and the SQL that it understands. Options of a reader: it can be pickled and compared."""

    @property
    def system(self) -> str:
        """The name of the system, as shown in error messages."""

    @property
    def uri(self) -> str:
        """Where it is, without credentials."""

    def connected(self) -> AbstractContextManager[SqlSession]:
        """Connect, and begin a transaction; raise `SourceUnavailableError` if it does not answer."""

    def quote(self, name: str) -> str:
        """Return a name in quotes."""

    def limited(self, query: str, rows: int, offset: int = 0) -> str:
        """Return a query with ORDER BY, limited to some of its rows."""

    def literal(self, column: DatabaseColumn, text: str) -> str:
        """Return a value of a column, given as text, as SQL."""

    def rejection(self, misfits: Sequence[FetchedColumn], columns: Sequence[DatabaseColumn]) -> str:
        """Return SQL for `REJECTED_ROW` of a row with misfits."""


@runtime_checkable
class LocalDatabase(Protocol):
    """A database in a file, whose relative path is resolved against the project's folder."""

    def within(self, folder: Path) -> SqlDatabase:
        """Return the database with the path resolved against a folder."""


class StandardSql:
    """The part of `SqlDatabase` that most systems have in common."""

    def quote(self, name: str) -> str:
        """Return a name in double quotes."""
        return quoted(name)

    def limited(self, query: str, rows: int, offset: int = 0) -> str:
        """Return a query with LIMIT and OFFSET."""
        return f"{query} limit {rows} offset {offset}"

    def literal(self, column: DatabaseColumn, text: str) -> str:
        """Return a number as it is, and another value in single quotes."""
        return text if is_number(column.type) else literal(text)


def is_integer(kind: str) -> bool:
    """Return whether a type has only integers; those of Snowflake are `DECIMAL(38,0)`."""
    decimal = decimal_of(kind)
    return kind in _INTEGERS or (decimal is not None and decimal[1] == 0)


def is_number(kind: str) -> bool:
    """Return whether a type's literals have no quotes."""
    return kind in _INTEGERS or kind in {"HUGEINT", "UBIGINT", "FLOAT", "DOUBLE"} or decimal_of(kind) is not None


def fetched_type(column: FetchedColumn) -> str:
    """Return the type under which a column arrives: a decimal is text."""
    kind = column.column.type
    return "VARCHAR" if column.is_text or decimal_of(kind) is not None else kind
