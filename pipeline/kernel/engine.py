"""DuckDB as the engine on Arrow blocks: connections, names and types."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import duckdb

from pipeline.core import scratch
from pipeline.core.schema import Column, Schema
from pipeline.kernel.pool import DATABASE, Limits, configure, connection
from pipeline.kernel.sql_text import quoted

if TYPE_CHECKING:
    import fsspec
    import pyarrow as pa


_WATCH_EVERY_S = 0.5
_BATCH_ROWS = 1 << 17
WIDE = 256
"""A table of more columns is wide: its statements are planned with less care."""


class Stop:
    """Ends the statements of several connections from another thread, and every one that comes after."""

    def __init__(self, within: Stop | None = None) -> None:
        """Stop nothing yet; `within` is a wider one, which stops these connections too."""
        self._within = within
        self._open: set[duckdb.DuckDBPyConnection] = set()
        self._lock = threading.Lock()
        self._is_set = False

    def now(self) -> None:
        """Interrupt what runs; a connection that is watched from now on is interrupted at once."""
        with self._lock:
            self._is_set = True
            for con in self._open:
                con.interrupt()

    @contextmanager
    def watching(self, con: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Let a connection be interrupted for the time of the context."""
        with self._lock:
            if self._is_set:
                raise KeyboardInterrupt
            self._open.add(con)
        try:
            with nullcontext() if self._within is None else self._within.watching(con):
                yield
        finally:
            with self._lock:
                self._open.discard(con)


_STOP: ContextVar[Stop | None] = ContextVar("stop", default=None)


@contextmanager
def stopped_by(stop: Stop) -> Iterator[None]:
    """Let `stop` end the statements of all connections that this thread opens inside the context."""
    token = _STOP.set(stop)
    try:
        yield
    finally:
        _STOP.reset(token)


def current_stop() -> Stop | None:
    """Return what ends the statements of this thread, if anything does."""
    return _STOP.get()


@contextmanager
def connect(
    limits: Limits | None = None,
    *,
    filesystem: fsspec.AbstractFileSystem | None = None,
    stop: Stop | None = None,
    keep: bool = True,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory DuckDB in UTC that spills to a folder of its own, up to a bound, and close it.

    `filesystem` lets `read_parquet` and `COPY` reach a lake that is not local; `stop` ends its statements, by default
    what ends those of the thread. The engine behind it is used again after that, unless `keep` is false: for one that
    works as long as a stream, or whose settings are locked.
    """
    stop = current_stop() if stop is None else stop
    try:
        with (
            connection(Limits() if limits is None else limits, filesystem, keep=keep) as con,
            nullcontext() if stop is None else stop.watching(con),
        ):
            yield con
    except (duckdb.InterruptException, RuntimeError) as error:
        if "interrupt" not in str(error).lower():
            raise
        raise KeyboardInterrupt from error  # Ctrl-C while a statement runs


def leave(con: duckdb.DuckDBPyConnection, database: str) -> None:
    """Detach a database that a connection attached and used, whatever transaction it is in."""
    with suppress(duckdb.Error):  # it is in none
        con.execute("rollback")
    con.execute(f"use {DATABASE}; detach {database}")


def expect_columns(con: duckdb.DuckDBPyConnection, count: int) -> None:
    """Prepare a connection for statements over so many columns.

    The search for common subexpressions, and the range of each expression from those of its columns, take time that is
    quadratic in their number: of 2,000 columns, the first took 5 s of 8, the second half of what was left.
    """
    if count > WIDE:
        configure(con, "disabled_optimizers", "'common_subexpressions,statistics_propagation'")


@contextmanager
def watched(con: duckdb.DuckDBPyConnection, on_progress: Callable[[float], None]) -> Iterator[None]:
    """While a statement runs, tell every half second which share of it is done; nothing for a short one."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_WATCH_EVERY_S):
            percent = con.query_progress()
            if 0 < percent < 100:  # noqa: PLR2004 - outside, it knows nothing
                on_progress(percent / 100)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


@contextmanager
def interrupted_after(con: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[threading.Event]:
    """Interrupt a connection's statements after so many seconds; the event says whether time was up."""
    is_up, ended = threading.Event(), threading.Event()

    def watch() -> None:
        if ended.wait(seconds):
            return
        is_up.set()
        con.interrupt()
        while not ended.wait(_WATCH_EVERY_S):  # an interrupt between two statements is lost
            con.interrupt()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield is_up
    finally:
        ended.set()
        watcher.join()


def exceeded_limit(error: duckdb.OutOfMemoryException) -> tuple[str, str]:
    """Return in words which bound a statement goes beyond, and what to raise."""
    if "max_temp_directory_size" in str(error):
        place = f"free space at {scratch.base()}, or name a larger disk in {scratch.VARIABLE}"
        return "spills more to disk than it may", f"raise spill_bytes in headwater.toml, {place}"
    return "needs more memory than it may take", "raise memory_bytes in headwater.toml"


def first_line(error: BaseException) -> str:
    """Return an engine's message without what it draws below it."""
    return str(error).strip().partition("\n")[0]


def is_file_error(error: BaseException) -> bool:
    """Return whether an error of DuckDB is one of its file systems; those in Python raise a plain `duckdb.Error`."""
    return isinstance(error, duckdb.IOException) or (
        isinstance(error, duckdb.Error) and not isinstance(error, duckdb.DatabaseError)
    )


def arrow(con: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    """Return a query's rows as an Arrow table."""
    return con.sql(query).to_arrow_table()


def arrow_within(con: duckdb.DuckDBPyConnection, query: str, most_bytes: int) -> pa.Table | None:
    """Return a query's rows, or `None` once they are more bytes than that; the engine spills until then."""
    import pyarrow as pa  # noqa: PLC0415 - a process that only plans needs no Arrow

    reader = con.sql(query).to_arrow_reader(_BATCH_ROWS)
    batches, room = [], most_bytes
    for batch in reader:
        batches.append(batch)
        room -= batch.nbytes
        if room < 0:
            return None
    return pa.Table.from_batches(batches, reader.schema)


def schema_of(con: duckdb.DuckDBPyConnection, query: str) -> Schema:
    """Return a query's columns without running it."""
    rows = con.execute(f"describe {query}").fetchall()
    return Schema(tuple(Column(str(row[0]), plain_type(str(row[1]))) for row in rows))


def plain_type(name: str) -> str:
    """Return a DuckDB type name in its short form."""
    return "TIMESTAMPTZ" if name == "TIMESTAMP WITH TIME ZONE" else name


def empty(con: duckdb.DuckDBPyConnection, schema: Schema) -> pa.Table:
    """Return a table of a schema without rows."""
    return arrow(con, no_rows(schema))


def no_rows(schema: Schema) -> str:
    """Return a query of a schema's columns that gives no row."""
    columns = ", ".join(f"null::{column.type} as {quoted(column.name)}" for column in schema.columns)
    return f"select {columns} limit 0"


def one(con: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    """Return the single row of a query that always has one."""
    rows = con.execute(query).fetchall()  # a result that is not fetched to its end blocks the connection
    if len(rows) != 1:
        raise AssertionError(f"{len(rows)} rows from {query!r}")
    row: tuple[Any, ...] = rows[0]
    return row
