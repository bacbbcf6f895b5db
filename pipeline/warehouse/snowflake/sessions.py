"""Sessions of Snowflake: opened by Snowpark, kept for the next load, and given up after an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.core.extras import imports_of
from pipeline.warehouse.snowflake.connection import SnowflakeAddress
from pipeline.warehouse.snowflake.server_errors import translated
from pipeline.warehouse.snowflake.statements import ROLLBACK

if TYPE_CHECKING:
    import pyarrow as pa
    from snowflake.snowpark import Session

_UNUSED_S = 1800.0
"""Sessions that were unused for longer are closed: the account ends them after some hours."""


@dataclass
class SnowflakeSession:
    """A session with the account. One thread uses it at a time."""

    snowpark: Session
    location: str
    tag: str = ""
    """The query tag of the statements, which the query history and the cost of a run are grouped by."""
    reached: Callable[[str], None] = lambda _: None
    """Is called with each statement before it is sent; tests end the process there."""

    def rows(self, statement: str) -> list[dict[str, Any]]:
        """Run a statement and return its rows; raise `StorageError` if Snowflake rejects it."""
        self.reached(statement)
        with _server_errors(self.location):
            rows = self.snowpark.sql(statement).collect(statement_params={"QUERY_TAG": self.tag})
        return [row.as_dict() for row in rows]

    def arrow(self, statement: str) -> pa.Table:
        """Run a query and return its rows; raise `StorageError` if Snowflake rejects it."""
        with _server_errors(self.location):
            return self.snowpark.sql(statement).to_arrow(statement_params={"QUERY_TAG": self.tag})

    def number(self, statement: str) -> int:
        """Return the number that a statement returns."""
        ((value,),) = (tuple(row.values()) for row in self.rows(statement))
        return int(value)

    def close(self) -> None:
        """Close the session, which rolls back an open transaction."""
        with suppress(Exception):  # the connection may be broken
            self.snowpark.close()


@dataclass
class SessionPool:
    """The sessions of a process with one account."""

    address: SnowflakeAddress
    reached: Callable[[str], None] = lambda _: None
    _free: list[tuple[float, SnowflakeSession]] = field(default_factory=list, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @contextmanager
    def session(self, tag: str) -> Iterator[SnowflakeSession]:
        """Give a session to this thread. After an error, its transaction is rolled back and it is closed."""
        session = self._taken() or open_session(self.address)
        session.tag, session.reached = tag, self.reached
        try:
            yield session
        except BaseException:
            with suppress(Exception):
                session.snowpark.sql(ROLLBACK).collect()
            session.close()
            raise
        with self._lock:
            self._free.append((time.monotonic(), session))

    def close(self) -> None:
        """Close the sessions that are not in use."""
        with self._lock:
            free, self._free = self._free, []
        for _, session in free:
            session.close()

    def _taken(self) -> SnowflakeSession | None:
        with self._lock:
            while self._free:
                since, session = self._free.pop()
                if time.monotonic() - since < _UNUSED_S:
                    return session
                session.close()
        return None

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without sessions, which belong to a process."""
        return SessionPool, (self.address,)


def open_session(address: SnowflakeAddress) -> SnowflakeSession:
    """Sign in; raise `StorageError` or `SettingsError` if that is not possible."""
    with imports_of("snowflake", "Snowflake as the warehouse"):
        from snowflake.snowpark import Session as Snowpark  # noqa: PLC0415 - its import takes seconds
    parameters = address.parameters()
    with _server_errors(address.location):
        return SnowflakeSession(Snowpark.builder.configs(parameters).create(), address.location)


@contextmanager
def _server_errors(location: str) -> Iterator[None]:
    from snowflake.connector.errors import Error  # noqa: PLC0415 - as above
    from snowflake.snowpark.exceptions import SnowparkClientException  # noqa: PLC0415 - as above

    try:
        yield
    except (Error, SnowparkClientException) as error:
        raise translated(error, location) from error
