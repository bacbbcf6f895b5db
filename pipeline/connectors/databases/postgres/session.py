"""Connections to PostgreSQL: one read-only transaction each, in one snapshot, by ADBC."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.connectors.databases.address import DatabaseAddress
from pipeline.connectors.databases.columns import DatabaseColumn
from pipeline.connectors.databases.connecting import connecting, libpq_url
from pipeline.connectors.databases.postgres.types import column_of
from pipeline.core.clients import is_unavailable, message_of
from pipeline.core.errors import Place, SourceError, SourceUnavailableError
from pipeline.core.extras import imports_of

_SETTINGS = {
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "synchronize_seqscans": "off",
    "max_parallel_workers_per_gather": "0",
    "idle_in_transaction_session_timeout": "3600000",
}
"""Settings that determine how values are written, and in which order a range of a table is read.

The server ends a connection whose snapshot is no longer used after an hour, so that it does not hold back its vacuum.
"""
_BATCHES = {"adbc.postgresql.batch_size_hint_bytes": str(64 << 20)}
"""Batches as large as a range of a table; a tenth faster than the driver's default."""
_PERMANENT = (
    "authentication failed",
    "does not exist",
    "no pg_hba.conf entry",
    "permission denied",
    "no password supplied",
)
_RETRIED_STATES = ("08", "53", "57P", "40001", "40P01", "55P03", "25P03")
"""SQLSTATEs that pass: connections, resources, shutdown, serialization, deadlock, lock, idle time."""
BEGIN = "begin isolation level repeatable read, read only"


@dataclass(frozen=True)
class PostgresSession:
    """A connection inside a transaction."""

    connection: Any
    address: DatabaseAddress

    def table(self, query: str, parameters: Sequence[object] = ()) -> pa.Table:
        """Return the rows of a query; raise `SourceError` if the server refuses it."""
        with self._errors(), self.connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**_BATCHES)
            cursor.execute(query, tuple(parameters) or None)
            return cursor.fetch_arrow_table()

    def row(self, query: str, parameters: Sequence[object] = ()) -> Mapping[str, Any]:
        """Return the only row of a query."""
        return dict(self.table(query, parameters).to_pylist()[0])

    def columns(self, relation: str, names: str) -> tuple[DatabaseColumn, ...]:
        """Return the columns of a relation, from the description of a result without rows."""
        return tuple(column_of(*described) for described in self.described(relation, names))

    def described(self, relation: str, names: str) -> Iterator[tuple[str, str, int]]:
        """Yield name, type and modifier of the columns of a relation."""
        for field in self.table(f"select {names} from {relation} limit 0").schema:
            facts = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
            yield field.name, facts.get("POSTGRESQL:type", ""), int(facts.get("POSTGRESQL:typmod", -1))

    def execute(self, statement: str) -> None:
        """Run a statement without a result."""
        with self._errors(), self.connection.cursor() as cursor:
            cursor.execute(statement)

    def close(self) -> None:
        """End the transaction and the connection; a server that is gone has ended both."""
        with suppress(Exception):
            self.connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except _driver_errors() as error:
            raise translated(error, self.address) from error


def _driver_errors() -> tuple[type[Exception], ...]:
    from adbc_driver_manager import Error  # noqa: PLC0415 - optional dependency

    return (Error, OSError, pa.ArrowException)


def translated(error: Exception, address: DatabaseAddress) -> SourceError:
    """Return an error of the driver as one of ours: unavailable if it passes by itself."""
    text = address.redacted(message_of(error)).partition(" Query was: ")[0]
    state = str(getattr(error, "sqlstate", None) or "")
    place = Place(address.public())
    if state:
        passes = state.startswith(_RETRIED_STATES)
    else:
        passes = is_unavailable(error) and not any(words in text for words in _PERMANENT)
    if passes:
        return SourceUnavailableError("PostgreSQL is unavailable", got=text, place=place)
    return SourceError(
        "PostgreSQL refuses to be read", got=text, do="check the address, the user and its rights", place=place
    )


@contextmanager
def session(address: DatabaseAddress, snapshot: str | None = None) -> Iterator[tuple[PostgresSession, bool]]:
    """Open a connection for reading, and return whether it reads in the exported snapshot.

    If the snapshot no longer exists, it reads in one of its own.
    """
    opened = connected(address)
    try:
        yield opened, snapshot is not None and _adopt(opened, snapshot)
    finally:
        opened.close()


def connected(address: DatabaseAddress) -> PostgresSession:
    """Return a connection inside a transaction; raise `SourceUnavailableError` if no server answers."""
    with imports_of("postgres", "a PostgreSQL source"):
        from adbc_driver_postgresql import dbapi  # noqa: PLC0415 - optional dependency
    url = libpq_url(address)

    def connect() -> Any:
        try:
            return dbapi.connect(url, autocommit=True)
        except _driver_errors() as error:
            raise translated(error, address) from error

    opened = PostgresSession(connecting(address, connect), address)
    set_all = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in _SETTINGS.items())
    opened.table(f"select {set_all}")
    opened.execute(BEGIN)
    return opened


def _adopt(opened: PostgresSession, snapshot: str) -> bool:
    try:
        opened.execute(f"set transaction snapshot '{snapshot}'")
    except SourceUnavailableError:
        raise
    except SourceError:
        opened.execute("rollback")
        opened.execute(BEGIN)
        return False
    return True


class _Exported:
    """Connections that keep an exported snapshot alive, one for each source that is planned in this process."""

    def __init__(self) -> None:
        self._sessions: dict[object, PostgresSession] = {}
        self._lock = threading.Lock()

    def keep(self, key: object, opened: PostgresSession | None) -> None:
        """Keep a connection instead of the previous one of this source."""
        with self._lock:
            before = self._sessions.pop(key, None)
            if opened is not None:
                self._sessions[key] = opened
        if before is not None:
            before.close()

    def close(self) -> None:
        """Close all connections."""
        for key in list(self._sessions):
            self.keep(key, None)


EXPORTED = _Exported()
atexit.register(EXPORTED.close)
