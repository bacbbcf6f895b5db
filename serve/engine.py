"""The DuckDB instance for requests: with limits, and without access to anything but the lake."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from datetime import timedelta

import duckdb
import pyarrow as pa

from pipeline.core.errors import StorageError
from pipeline.kernel.engine import connect, interrupted_after
from pipeline.kernel.pool import Limits
from pipeline.kernel.sql_text import literal
from pipeline.lake import Storage
from serve.http_errors import OverloadError
from serve.select import Statement


class Engine:
    """One in-memory DuckDB instance for all requests, so that its limits apply to all of them together.

    `enable_external_access=false` alone would forbid `read_parquet`; `allowed_directories` permits files of the lake
    and no others. No extension is loaded and the configuration is locked. It opens at the first request. Thread-safe;
    each statement has its own cursor.
    """

    def __init__(self, lake: Storage, limits: Limits, patience: timedelta) -> None:
        """Create the engine without opening it; `patience` is the time limit of one statement."""
        self._lake = lake
        self._limits = limits
        self._patience = patience
        self._open = ExitStack()
        self._lock = threading.Lock()
        self._con: duckdb.DuckDBPyConnection | None = None

    def rows(self, statement: Statement) -> pa.Table:
        """Return a statement's rows.

        Raises `OverloadError` if it exceeds the time or memory limit, `StorageError` if a file of the lake cannot be
        read.
        """
        cursor = self._connection().cursor()
        try:
            with interrupted_after(cursor, self._patience.total_seconds()):
                return cursor.sql(statement.sql, params=list(statement.values)).to_arrow_table()
        except duckdb.InterruptException as error:
            raise _too_much(f"more than {self._patience.total_seconds():g} s") from error
        except duckdb.OutOfMemoryException as error:
            raise _too_much("more memory than the limit for all requests") from error
        except (duckdb.IOException, duckdb.HTTPException, OSError) as error:
            raise StorageError("the table's files cannot be read", got=str(error).partition("\n")[0]) from error
        finally:
            cursor.close()

    def close(self) -> None:
        """Close the instance; another request would open it again."""
        with self._lock:
            self._con = None
            self._open.close()

    def _connection(self) -> duckdb.DuckDBPyConnection:
        with self._lock:
            if self._con is None:
                con = self._open.enter_context(connect(self._limits, filesystem=self._lake.filesystem(), keep=False))
                if self._limits.memory_bytes is not None:
                    con.execute(f"set max_temp_directory_size = '{4 * self._limits.memory_bytes}B'")
                con.execute(f"set allowed_directories = [{literal(self._lake.uri.rstrip('/') + '/')}]")
                con.execute("set enable_external_access = false; set lock_configuration = true")
                self._con = con
            return self._con


def _too_much(got: str) -> OverloadError:
    return OverloadError("the request exceeds a limit", got=got, do="use filters, fewer columns, or a smaller offset")
