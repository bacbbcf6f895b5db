"""The DuckDB instance for requests: with limits, and without access to anything but the lake."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.core.errors import StorageError
from pipeline.core.schema import Schema
from pipeline.kernel.engine import arrow_reader, connect, schema_of
from pipeline.kernel.pool import Limits
from pipeline.kernel.sql_text import literal, quoted
from pipeline.lake import Storage
from serve.http_errors import AbandonedError, BusyError, HttpError, OverloadError
from serve.queries.cancellation import CURRENT, Cancellation
from serve.queries.deadlines import StatementDeadlines
from serve.queries.query import Condition, comparisons
from serve.queries.select import Statement
from serve.queries.values import shown

_LOG = logging.getLogger("headwater.serve")
_BATCH_ROWS = 8_192
DIVISION = (
    "create macro pg_div(a integer, b integer) as a // b, (a bigint, b bigint) as a // b, (a hugeint, b hugeint) as a // b, "
    "(a double, b double) as a / b"
)
"""The division of PostgreSQL's dialect: that of integers is an integer."""
_MOST_EXPORTS = 16
"""How many exports of a replica are sent at once."""


class Engine:
    """One in-memory DuckDB instance for all requests, so that its limits apply to all of them together.

    `enable_external_access=false` alone would forbid `read_parquet`; `allowed_directories` permits files of the lake
    and no others. No extension is loaded and the configuration is locked. It opens at the first request. Thread-safe;
    each statement has its own cursor.
    """

    def __init__(self, lake: Storage, limits: Limits, patience: timedelta, folders: Sequence[Path] = ()) -> None:
        """Create the engine without opening it; `patience` is the time limit of one statement.

        `folders` are others than the lake that statements may read: of copies of tables, and of results.
        """
        self._lake = lake
        self._folders = folders
        self._limits = limits
        self._patience = patience
        self._deadlines = StatementDeadlines()
        self._exports = threading.BoundedSemaphore(_MOST_EXPORTS)
        self._open = ExitStack()
        self._lock = threading.Lock()
        self._con: duckdb.DuckDBPyConnection | None = None

    def rows(self, statement: Statement, within_s: float | None = None) -> pa.Table:
        """Return a statement's rows, within the time limit or a shorter one in seconds.

        Raises `OverloadError` if it exceeds the time or memory limit, `AbandonedError` if its request is cancelled, `StorageError` if a file of the lake cannot be
        read, and `HttpError` for a text that is no regular expression.
        """
        patience = self._patience.total_seconds()
        with self._running(patience if within_s is None else min(patience, within_s)) as cursor:
            return cursor.sql(statement.sql, params=list(statement.values)).to_arrow_table()

    def tuples(self, statement: Statement) -> list[tuple[Any, ...]]:
        """Return a statement's rows as tuples, which is quicker than Arrow for few rows; raises as `rows` does."""
        with self._running(self._patience.total_seconds()) as cursor:
            return cursor.execute(statement.sql, list(statement.values)).fetchall()

    def batches(self, statement: Statement) -> Generator[pa.RecordBatch, None, None]:
        """Yield a statement's rows, of which only some are in memory. Raises as `rows` does, and `BusyError` if too many are sent.

        The time limit is for each batch, so that a slow client ends no export, and an expensive statement does.
        """
        if not self._exports.acquire(blocking=False):
            raise BusyError("too many exports are sent", do="try again later")
        try:
            yield from self._batches(statement)
        finally:
            self._exports.release()

    def _batches(self, statement: Statement) -> Iterator[pa.RecordBatch]:
        with self._running(None) as cursor:
            with self._deadlines.within(cursor, self._patience.total_seconds()):
                reader = arrow_reader(cursor, statement.sql, _BATCH_ROWS, statement.values)
            while True:
                try:
                    with self._deadlines.within(cursor, self._patience.total_seconds()):
                        batch = reader.read_next_batch()
                except StopIteration:
                    return
                yield batch

    def attach(self, file: Path, name: str) -> None:
        """Let statements read the tables of a DuckDB file in one of the folders."""
        with self._running(self._patience.total_seconds()) as cursor:
            cursor.execute(f"attach if not exists {literal(str(file))} as {quoted(name)} (read_only)")

    def detach(self, name: str) -> None:
        """Forget a DuckDB file."""
        with self._running(self._patience.total_seconds()) as cursor:
            cursor.execute(f"detach database if exists {quoted(name)}")

    def schema(self, query: str, values: Sequence[Any] = ()) -> Schema:
        """Return the columns of a SELECT with these values for its placeholders, without running it."""
        with self._running(self._patience.total_seconds()) as cursor:
            return schema_of(cursor, query, values)

    def require_patterns(self, where: Condition | None) -> None:
        """Raise `HttpError` if a condition has a regular expression that is none, whatever rows there are."""
        for each in comparisons(where):
            for pattern in each.values if each.operator in {"match", "imatch"} else ():
                try:
                    with closing(self._connection().cursor()) as cursor:
                        cursor.execute("select regexp_matches('', cast(? as varchar))", [pattern])
                except duckdb.InvalidInputException as error:
                    raise HttpError("the regular expression is not valid", got=shown(pattern)) from error

    def close(self) -> None:
        """Close the instance; another request would open it again."""
        self._deadlines.close()
        with self._lock:
            self._con = None
            self._open.close()

    @contextmanager
    def _running(self, seconds: float | None) -> Iterator[duckdb.DuckDBPyConnection]:
        cancellation = CURRENT.get() or Cancellation()
        if cancellation.is_cancelled:
            raise AbandonedError("the query was cancelled")
        cursor = self._connection().cursor()
        try:
            if seconds is None:
                yield cursor
            else:
                with self._deadlines.within(cursor, seconds):
                    yield cursor
        except duckdb.InterruptException as error:
            if cancellation.is_cancelled:
                raise AbandonedError("the query was cancelled") from error
            raise _too_much(f"more than {self._patience.total_seconds():g} s") from error
        except duckdb.OutOfMemoryException as error:
            raise _too_much("more memory than the limit for all requests") from error
        except (duckdb.ConversionException, duckdb.OutOfRangeException, duckdb.InvalidInputException) as error:
            _LOG.warning("a statement failed: %s", error)  # its text may contain values, and is not for the caller
            raise HttpError(
                "the query cannot be computed",
                do="a value is out of range or not valid: use other functions or filters",
            ) from error
        except (duckdb.IOException, duckdb.HTTPException, OSError) as error:
            raise StorageError("the table's files cannot be read", got=str(error).partition("\n")[0]) from error
        finally:
            cursor.close()

    def _connection(self) -> duckdb.DuckDBPyConnection:
        with self._lock:
            if self._con is None:
                con = self._open.enter_context(connect(self._limits, filesystem=self._lake.filesystem(), keep=False))
                if self._limits.memory_bytes is not None:
                    con.execute(f"set max_temp_directory_size = '{4 * self._limits.memory_bytes}B'")
                folders = [self._lake.uri.rstrip("/"), *map(str, self._folders)]
                con.execute(f"set allowed_directories = [{', '.join(literal(folder + '/') for folder in folders)}]")
                con.execute(DIVISION)
                con.execute("set python_enable_replacements = false")  # a name is never a variable of this process
                con.execute("set enable_external_access = false; set lock_configuration = true")
                self._con = con
            return self._con


def _too_much(got: str) -> OverloadError:
    return OverloadError("the request exceeds a limit", got=got, do="use filters, fewer columns, or a smaller offset")
