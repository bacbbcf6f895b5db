"""A PostgreSQL server on loopback, from the installed programs; tests are skipped if these or a driver are missing."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest

from benchmarks.postgres import postgres_server
from pipeline.core.errors import UnavailableError


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The SQLAlchemy URL of an empty database."""
    pytest.importorskip("psycopg", reason="no driver for PostgreSQL: pip install psycopg[binary]")
    with ExitStack() as stack:
        try:
            url = stack.enter_context(postgres_server())
        except UnavailableError as error:
            pytest.skip(str(error))
        yield url.replace("postgresql:", "postgresql+psycopg:")


class PostgresDatabase:
    """A database of its own on the server, for tests of sources."""

    def __init__(self, server: str) -> None:
        self.name = f"hw_{uuid.uuid4().hex[:12]}"
        self._server = server.replace("+psycopg", "")
        with self._connected(self._server) as con:
            con.execute(f"create database {self.name}")
        self.url = f"{self._server.rpartition('/')[0]}/{self.name}"

    def connected(self) -> AbstractContextManager[Any]:
        """A connection that commits each statement."""
        return self._connected(self.url)

    def run(self, *statements: str) -> None:
        """Run statements, each in a transaction of its own."""
        with self.connected() as con:
            for statement in statements:
                con.execute(statement)

    def as_user(self, user: str) -> str:
        """The URL for another user."""
        return self.url.replace("headwater@", f"{user}@")

    def _connected(self, url: str) -> AbstractContextManager[Any]:
        import psycopg  # noqa: PLC0415 - the fixture skips without it

        return psycopg.connect(url, autocommit=True)


@pytest.fixture(scope="session")
def pg_database(postgres: str) -> PostgresDatabase:
    """A database for tests of sources, which they share: to create one takes longer than most of them."""
    return PostgresDatabase(postgres)


@pytest.fixture
def pg(pg_database: PostgresDatabase) -> PostgresDatabase:
    """An empty database."""
    pg_database.run(
        "drop schema if exists public cascade",
        "create schema public",
        "grant usage on schema public to public",
        f"alter database {pg_database.name} reset all",
    )
    return pg_database
