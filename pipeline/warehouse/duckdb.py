"""The embedded warehouse: a DuckDB file with the gold tables.

Delivery: exactly once; each version of a table is loaded in the same transaction as the record of the load.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import fsspec

from pipeline.core.errors import StorageError
from pipeline.kernel.engine import connect, first_line, leave
from pipeline.kernel.scan import Scan
from pipeline.kernel.sql_text import listed, literal, quoted
from pipeline.warehouse.warehouse import Load

_LOADS = "headwater_loads"
_DATABASE = "warehouse"


@dataclass(frozen=True)
class DuckDBWarehouse:
    """A DuckDB database file. `read` never modifies it."""

    path: str
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)
    """Allows one connection at a time, because DuckDB cannot attach a file for reading and writing simultaneously."""

    def loaded(self) -> dict[str, tuple[int, int]]:
        """Return the version and the manifest id of each table in the warehouse."""
        if not Path(self.path).exists():
            return {}
        with self._open(read_only=True) as con:
            # the file exists but is empty if the first load was killed before its commit
            if not con.execute("select 1 from duckdb_tables() where table_name = ?", [_LOADS]).fetchall():
                return {}
            rows = con.execute(f"select name, version, mark from {_LOADS}").fetchall()
            return {str(name): (int(version), int(manifest_id)) for name, version, manifest_id in rows}

    def load(self, load: Load, *, filesystem: fsspec.AbstractFileSystem | None = None) -> None:
        """Load a version of a table: append the rows added since the loaded version, otherwise replace the table.

        Raises `StorageError` if the file cannot be written, or is locked by another process; the file is then unchanged.
        """
        with self._open(read_only=False, filesystem=filesystem) as con:
            try:
                con.execute("begin")
                _load(con, load)
                con.execute("commit")
            except duckdb.Error as error:
                raise self._unusable(error) from error

    def require_writable(self) -> None:
        """Raise `StorageError` if the folder of the file cannot be written to."""
        folder = Path(self.path).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"ok")
        except OSError as error:
            raise StorageError(
                f"the folder of the warehouse {self.path} cannot be written to",
                got=error.strerror or str(error),
                do="set `warehouse` to a file in another folder",
            ) from error

    def drop(self, name: str) -> None:
        """Drop a table; raise `StorageError` if the file cannot be written, or is locked by another process."""
        if name not in self.loaded():
            return
        with self._open(read_only=False) as con:
            try:
                con.execute(f"begin; drop table if exists {quoted(name)}")
                con.execute(f"delete from {_LOADS} where name = ?", [name])
                con.execute("commit")
            except duckdb.Error as error:
                raise self._unusable(error) from error

    @contextmanager
    def read(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the warehouse for reading."""
        with self._open(read_only=True) as con:
            yield con

    @contextmanager
    def _open(
        self, *, read_only: bool, filesystem: fsspec.AbstractFileSystem | None = None
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._lock, connect(filesystem=filesystem) as con:
            try:
                Path(self.path).parent.mkdir(parents=True, exist_ok=True)
                mode = "read_only" if read_only else "read_write"
                con.execute(f"attach {literal(self.path)} as {_DATABASE} ({mode}); use {_DATABASE}")
            except (duckdb.Error, OSError) as error:
                raise self._unusable(error) from error
            try:
                yield con
            except (duckdb.IOException, duckdb.TransactionException) as error:
                raise self._unusable(error) from error
            finally:
                leave(con, _DATABASE)

    def _unusable(self, error: Exception) -> StorageError:
        text = first_line(error)
        do = "close other processes that use it, check the free space, and run again; the lake contains all data"
        if "not a valid DuckDB database" in text:
            do = "delete the file: the next run loads all tables from the lake again"
        return StorageError(f"the warehouse {self.path} cannot be used", got=text, do=do)


def _load(con: duckdb.DuckDBPyConnection, load: Load) -> None:
    con.execute(f"create table if not exists {_LOADS} (name varchar primary key, version bigint, mark bigint)")
    row = con.execute(f"select version, mark from {_LOADS} where name = ?", [load.name]).fetchone()
    if row is not None and row == (load.version, load.manifest_id):
        return
    table = quoted(load.name)
    if row is not None and load.since == row:
        con.execute(f"insert into {table} by name {Scan(load.scan.schema, load.added).query()}")
    else:
        con.execute(f"create or replace table {table} as {load.scan.query()}")
        if load.key:
            con.execute(f"alter table {table} add primary key ({listed(load.key)})")
    if load.description:
        con.execute(f"comment on table {table} is {literal(load.description)}")
    con.execute(f"insert or replace into {_LOADS} values (?, ?, ?)", [load.name, load.version, load.manifest_id])
