"""The embedded warehouse: a DuckDB file with the gold tables.

Delivery: exactly once; each version of a table is loaded in the same transaction as the record of the load.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pyarrow as pa

from pipeline.core.errors import RequestError, StorageError
from pipeline.kernel.engine import arrow, connect, first_line, leave, schema_of
from pipeline.kernel.pool import configure
from pipeline.kernel.scan import Scan
from pipeline.kernel.sql_text import listed, literal, quoted
from pipeline.kernel.types import inner_types
from pipeline.warehouse.load_checks import GONE, NEW, find_changed_rows, key_violation, missing_members, require_unique
from pipeline.warehouse.warehouse import LEDGER, ForeignKey, Load, LoadRecord, moment

_DATABASE = "warehouse"
LOCK_WAIT_S = 10.0
"""How long to wait while another process has locked the file. Loads take less; a dashboard that stays open keeps its lock."""
_LOCK_RETRY_S = 0.05
_ADDED = {"rows": "bigint", "committed_at": "timestamptz", "loaded_at": "timestamptz"}
"""Columns that files of earlier versions do not have."""
_READ = "rows, epoch_us(committed_at), epoch_us(loaded_at)"
"""How they are read: times in microseconds, because DuckDB needs another library for times with a zone."""


@dataclass(frozen=True)
class DuckDBWarehouse:
    """A DuckDB database file. `read` never modifies it."""

    path: str
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)
    """Allows one connection at a time, because DuckDB cannot attach a file for reading and writing simultaneously."""

    def loaded(self) -> dict[str, tuple[int, int]]:
        """Return the version and the manifest id of each table in the warehouse."""
        return {name: (record.version, record.manifest_id) for name, record in self.loads().items()}

    def loads(self) -> dict[str, LoadRecord]:
        """Return what is recorded of each table in the warehouse; the number of rows is that of the loaded version."""
        if not Path(self.path).exists():
            return {}
        with self._open(read_only=True) as con:
            return {
                str(name): LoadRecord(version, manifest_id, count, moment(committed_us), moment(loaded_us))
                for name, version, manifest_id, count, committed_us, loaded_us in _ledger(con)
            }

    def load(self, load: Load, *, filesystem: fsspec.AbstractFileSystem | None = None) -> None:
        """Load a version of a table: append the rows added since the loaded version, otherwise replace the table.

        Raises `StorageError` if the file cannot be written, or is locked by another process, and if the key is not unique or
        a foreign key does not exist; the file is then unchanged.
        """
        with self._open(read_only=False, filesystem=filesystem) as con:
            configure(con, "checkpoint_threshold", "'0b'")  # the file is written once, not first a log of the changes
            try:
                con.execute("begin")
                _load(con, load)
                con.execute("commit")
            except duckdb.IOException:
                raise  # `_open` explains it
            except duckdb.Error as error:
                raise _rejected(load, error) from error

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
                con.execute(f"delete from {LEDGER} where name = ?", [name])
                con.execute("commit")
            except duckdb.Error as error:
                raise self._unusable(error) from error

    def query(self, text: str) -> pa.Table:
        """See `Warehouse`."""
        with self.read() as con:
            try:
                return arrow(con, text)
            except duckdb.IOException:
                raise
            except duckdb.Error as error:
                raise RequestError("this query of the warehouse failed", got=first_line(error)) from error

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
                if not read_only:
                    Path(self.path).parent.mkdir(parents=True, exist_ok=True)
                self._attach(con, "read_only" if read_only else "read_write")
            except (duckdb.Error, OSError) as error:
                raise self._unusable(error) from error
            try:
                yield con
            except (duckdb.IOException, duckdb.TransactionException) as error:
                raise self._unusable(error) from error
            finally:
                leave(con, _DATABASE)

    def _attach(self, con: duckdb.DuckDBPyConnection, mode: str) -> None:
        """Attach the file; wait while another process, which may only load a table, has locked it."""
        until = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                con.execute(f"attach {literal(self.path)} as {_DATABASE} ({mode}); use {_DATABASE}")
            except duckdb.IOException as error:
                if "Could not set lock" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(_LOCK_RETRY_S)
            else:
                return

    def _unusable(self, error: Exception) -> StorageError:
        text = first_line(error)
        do = "close other processes that use it, check the free space, and run again; the lake contains all data"
        if "not a valid DuckDB database" in text:
            do = "delete the file: the next run loads all tables from the lake again"
        if not Path(self.path).exists():
            do = "load its tables: headwater run"
        return StorageError(f"the warehouse {self.path} cannot be used", got=text, do=do)


def _ledger(con: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    """Return the rows of the ledger; none if the first load was killed before its commit."""
    query = f"select name, version, mark, {{}} from {LEDGER}"
    try:
        return con.execute(query.format(_READ)).fetchall()
    except duckdb.BinderException:  # a file of an earlier version
        return con.execute(query.format("null, null, null")).fetchall()
    except duckdb.CatalogException:
        return []


def _load(con: duckdb.DuckDBPyConnection, load: Load) -> None:
    con.execute(f"create table if not exists {LEDGER} (name varchar primary key, version bigint, mark bigint)")
    for column, kind in _ADDED.items():
        con.execute(f"alter table {LEDGER} add column if not exists {column} {kind}")
    row = con.execute(f"select version, mark from {LEDGER} where name = ?", [load.name]).fetchone()
    if load.is_done(row):
        return
    table, checked = quoted(load.name), Scan(load.scan.schema, load.added).query()
    if row is None or load.since != row or not _has_columns(con, load) or not _change(con, load):
        checked = f"from {table}"
        con.execute(f"create or replace table {table} as {load.scan.query()}")
        if load.key and _is_indexed(load):
            con.execute(f"alter table {table} add primary key ({listed(load.key)})")
    if load.key and not _is_indexed(load):
        require_unique(con, load, f"from {table}")
    for foreign_key in load.foreign_keys:
        _require_keys(con, load.name, foreign_key, checked)
    if load.description:
        con.execute(f"comment on table {table} is {literal(load.description)}")
    con.execute(
        f"insert or replace into {LEDGER} (name, version, mark, rows, committed_at, loaded_at) "
        "values (?, ?, ?, ?, ?::timestamptz, now())",
        [
            load.name,
            load.version,
            load.manifest_id,
            load.scan.rows,
            load.committed_at and load.committed_at.isoformat(),
        ],
    )


def _is_indexed(load: Load) -> bool:
    """Return whether DuckDB can index the key: not if one of its columns is nested."""
    types = load.scan.schema.as_dict()
    return all(inner_types(types[name]) is None for name in load.key)


def _rejected(load: Load, error: duckdb.Error) -> StorageError:
    """Return the error for rows that DuckDB rejects, which are usually those that violate the key."""
    text = first_line(error)
    if isinstance(error, duckdb.ConstraintException) or "constraint violation" in text:
        return key_violation(load.name, text)
    return StorageError(
        f"version {load.version} of {load.name!r} cannot be loaded into the warehouse",
        got=text,
        do=f"recompute it: headwater run --full --select {load.name}; if that does not help, change the types of its columns",
    )


def _require_keys(con: duckdb.DuckDBPyConnection, name: str, foreign_key: ForeignKey, rows: str) -> None:
    """Raise `StorageError` for a value of a foreign key that the other table does not have."""
    there = f"select 1 from {LEDGER} where name = ?"
    if not con.execute(there, [foreign_key.table]).fetchall():
        return
    column, key = quoted(foreign_key.column), quoted(foreign_key.references)
    count, example = con.execute(
        f"select count(*), min({column}) from ({rows}) where {column} is not null "
        f"and {column} not in (select {key} from {quoted(foreign_key.table)} where {key} is not null)"
    ).fetchall()[0]
    if count:
        raise missing_members(name, foreign_key, count, example)


def _has_columns(con: duckdb.DuckDBPyConnection, load: Load) -> bool:
    """Return whether the table in the warehouse has the columns of the version."""
    return schema_of(con, f"from {quoted(load.name)}") == schema_of(con, load.scan.query())


def _change(con: duckdb.DuckDBPyConnection, load: Load) -> bool:
    """Add, change and remove the rows that differ; return whether that is possible: otherwise, nothing has changed."""
    table, added = quoted(load.name), Scan(load.scan.schema, load.added).query()
    if not load.removed:
        con.execute(f"insert into {table} by name {added}")
        return True
    if load.replaces_most or not find_changed_rows(con, load):
        return False
    same = " and ".join(f"t.{quoted(name)} = {GONE}.{quoted(name)}" for name in load.key)
    if same:
        con.execute(f"delete from {table} t using {GONE} where {same}")
    con.execute(f"insert into {table} by name from {NEW}")
    return True
