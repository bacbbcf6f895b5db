"""DuckDB as the engine on Arrow tables: connections, names and types."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
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
_INTERRUPT_EVERY_S = 0.05
_BATCH_ROWS = 1 << 17
_ERROR_KIND = re.compile(r"([A-Za-z][A-Za-z /]*) Error: ")
_ERRORS = {
    name.removesuffix("Exception").lower(): each
    for name, each in vars(duckdb).items()
    if name.endswith("Exception") and issubclass(each, duckdb.Error)
}
"""DuckDB's errors by their names in texts."""
WIDE = 256
"""The number of columns above which some optimizers are disabled."""


class Stop:
    """Interrupts the current and all later statements of several connections, from another thread."""

    def __init__(self, within: Stop | None = None) -> None:
        """Create an unset stop; `within` is an outer stop, which also interrupts these connections."""
        self._within = within
        self._open: set[duckdb.DuckDBPyConnection] = set()
        self._lock = threading.Lock()
        self._is_set = False

    @property
    def is_set(self) -> bool:
        """Whether this stop, or an outer one, has been set."""
        return self._is_set or (self._within is not None and self._within.is_set)

    def now(self) -> None:
        """Interrupt all watched connections, and every connection that is watched later."""
        with self._lock:
            self._is_set = True
            for con in self._open:
                con.interrupt()

    @contextmanager
    def watching(self, con: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Make a connection interruptible within the context."""
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
    """Let `stop` interrupt all connections that this thread opens inside the context."""
    token = _STOP.set(stop)
    try:
        yield
    finally:
        _STOP.reset(token)


def current_stop() -> Stop | None:
    """Return the stop of this thread, or `None`."""
    return _STOP.get()


@contextmanager
def connect(
    limits: Limits | None = None,
    *,
    filesystem: fsspec.AbstractFileSystem | None = None,
    stop: Stop | None = None,
    keep: bool = True,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory DuckDB connection in UTC with its own spill folder, and close it at the end of the context.

    `filesystem` gives `read_parquet` and `COPY` access to a remote lake. `stop` interrupts statements; the default is the
    stop of the current thread. The instance is reused by later connections, unless `keep` is false: for an instance that
    lives as long as a stream, or whose settings are locked.
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
    """Detach a database that is in use by a connection, rolling back an open transaction."""
    with suppress(duckdb.Error):  # there is no transaction
        con.execute("rollback")
    con.execute(f"use {DATABASE}; detach {database}")


def expect_columns(con: duckdb.DuckDBPyConnection, count: int) -> None:
    """Prepare a connection for statements over this many columns.

    Common subexpression elimination and statistics propagation take quadratic time in the number of columns: for 2,000
    columns, the first took 5 s of 8 s, the second half of the rest.
    """
    if count > WIDE:
        configure(con, "disabled_optimizers", "'common_subexpressions,statistics_propagation'")


@contextmanager
def watched(con: duckdb.DuckDBPyConnection, on_progress: Callable[[float], None]) -> Iterator[None]:
    """Report the progress of a running statement every half second, as a fraction; short statements report nothing."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_WATCH_EVERY_S):
            percent = con.query_progress()
            if 0 < percent < 100:  # noqa: PLR2004 - other values mean unknown
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
    """Interrupt a connection's statements after this many seconds; the event is set if the timeout was reached."""
    is_up, ended = threading.Event(), threading.Event()

    def watch() -> None:
        if ended.wait(seconds):
            return
        is_up.set()
        con.interrupt()
        while not ended.wait(_INTERRUPT_EVERY_S):  # an interrupt before the statement runs is lost
            con.interrupt()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield is_up
    finally:
        ended.set()
        watcher.join()


def exceeded_limit(error: duckdb.OutOfMemoryException) -> tuple[str, str]:
    """Return which limit a statement exceeded, and the setting to raise."""
    if "max_temp_directory_size" in str(error):
        place = f"free space at {scratch.base()}, or set {scratch.VARIABLE} to a folder on a larger disk"
        return "exceeds the limit for spilling to disk", f"raise spill_bytes in headwater.toml, {place}"
    return "exceeds the memory limit", "raise memory_bytes in headwater.toml"


def first_line(error: BaseException) -> str:
    """Return the first line of an engine's error message."""
    return str(error).strip().partition("\n")[0]


def is_file_error(error: BaseException) -> bool:
    """Return whether DuckDB's error comes from a file system; Python file systems raise a plain `duckdb.Error`."""
    return isinstance(error, duckdb.IOException) or (
        isinstance(error, duckdb.Error) and not isinstance(error, duckdb.DatabaseError)
    )


def arrow(con: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    """Return a query's rows as an Arrow table."""
    return con.sql(query).to_arrow_table()


def arrow_reader(
    con: duckdb.DuckDBPyConnection, query: str, rows: int, values: Sequence[object] = ()
) -> pa.RecordBatchReader:
    """Return a query's rows in batches of at most so many rows, computed as they are read; raises DuckDB's errors then too.

    `values` are those of the query's placeholders.
    """
    import pyarrow as pa  # noqa: PLC0415 - a process that only plans does not import Arrow

    reader = con.sql(query, params=list(values)).to_arrow_reader(rows)

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            yield from reader
        except (OSError, pa.ArrowException) as error:  # Arrow knows only the text of DuckDB's error
            raise _own_error(error) from error

    return pa.RecordBatchReader.from_batches(reader.schema, batches())


def _own_error(error: Exception) -> Exception:
    """Return DuckDB's error with a text, for example "Conversion Error: ..."; the error itself if it is another."""
    kind = _ERROR_KIND.match(str(error))
    if kind is None:
        return error
    found: type[Exception] = _ERRORS.get(kind[1].replace(" ", "").lower(), duckdb.Error)
    return found(str(error))


def arrow_within(con: duckdb.DuckDBPyConnection, query: str, most_bytes: int) -> pa.Table | None:
    """Return a query's rows, or `None` if they exceed `most_bytes`."""
    import pyarrow as pa  # noqa: PLC0415 - a process that only plans does not import Arrow

    reader = arrow_reader(con, query, _BATCH_ROWS)
    batches, remaining = [], most_bytes
    for batch in reader:
        batches.append(batch)
        remaining -= batch.nbytes
        if remaining < 0:
            return None
    return pa.Table.from_batches(batches, reader.schema)


def schema_of(con: duckdb.DuckDBPyConnection, query: str, values: Sequence[object] = ()) -> Schema:
    """Return the schema of a query with these values for its placeholders, without running it."""
    rows = con.execute(f"describe {query}", list(values)).fetchall()
    return Schema(tuple(Column(str(row[0]), plain_type(str(row[1]))) for row in rows))


def plain_type(name: str) -> str:
    """Return a DuckDB type name in its short form."""
    return "TIMESTAMPTZ" if name == "TIMESTAMP WITH TIME ZONE" else name


def empty(con: duckdb.DuckDBPyConnection, schema: Schema) -> pa.Table:
    """Return an empty table with a schema."""
    return arrow(con, no_rows(schema))


def no_rows(schema: Schema) -> str:
    """Return a query with a schema's columns and no rows."""
    columns = ", ".join(f"null::{column.type} as {quoted(column.name)}" for column in schema.columns)
    return f"select {columns} limit 0"


def one(con: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    """Return the row of a query that always returns exactly one."""
    rows = con.execute(query).fetchall()  # a result that is not fetched completely blocks the connection
    if len(rows) != 1:
        raise AssertionError(f"{len(rows)} rows from {query!r}")
    row: tuple[Any, ...] = rows[0]
    return row
