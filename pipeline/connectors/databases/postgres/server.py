"""Queries of PostgreSQL, which are read by a cursor column or in full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from pipeline.connectors.databases.address import DatabaseAddress
from pipeline.connectors.databases.columns import DatabaseColumn, FetchedColumn
from pipeline.connectors.databases.postgres.session import PostgresSession, session
from pipeline.connectors.databases.postgres.types import rejection
from pipeline.connectors.databases.sessions import StandardSql
from pipeline.kernel.sql_text import quoted

_PRIMARY_KEY = """
select a.attname::text as name from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
where i.indrelid = $1::regclass and i.indisprimary order by array_position(i.indkey::int2[], a.attnum)"""


@dataclass(frozen=True)
class PostgresServer(StandardSql):
    """See `SqlDatabase`."""

    address: DatabaseAddress

    @property
    def system(self) -> str:
        """The name of the system."""
        return "PostgreSQL"

    @property
    def uri(self) -> str:
        """The address without user and password."""
        return self.address.public()

    @contextmanager
    def connected(self) -> Iterator[_QuerySession]:
        """Connect, and begin a transaction with a snapshot."""
        with session(self.address) as (opened, _):
            yield _QuerySession(opened)

    def rejection(self, misfits: Sequence[FetchedColumn], columns: Sequence[DatabaseColumn]) -> str:
        """Return SQL for a row with misfits: the row as JSON, and the reasons."""
        return rejection(misfits, columns)


@dataclass(frozen=True)
class _QuerySession:
    """See `SqlSession`."""

    session: PostgresSession

    def columns(self, relation: str) -> tuple[DatabaseColumn, ...]:
        return self.session.columns(f"{relation} t", "*")

    def key(self, table: str) -> tuple[str, ...]:
        rows = self.session.table(_PRIMARY_KEY, (".".join(map(quoted, table.split("."))),))
        return tuple(map(str, rows.column("name").to_pylist()))

    def table(self, query: str) -> pa.Table:
        return self.session.table(query)

    def rows(self, query: str, columns: Sequence[FetchedColumn], texts: Sequence[str]) -> pa.Table:
        del columns, texts
        return self.session.table(query)

    def stamp(self) -> str | None:
        return None
