"""A pool of DuckDB instances: opening an instance takes 15 ms, a connection to an existing one 2 ms.

An instance has one user at a time. Each user works in its own in-memory database, which is detached afterwards, so the
next user does not see its objects; changed settings are reset.
"""

from __future__ import annotations

import atexit
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import duckdb

from pipeline.core import scratch
from pipeline.core.processes import cores
from pipeline.kernel.sql_text import literal

if TYPE_CHECKING:
    import fsspec

SPILL_SHARE = 0.5
"""The default share of the free disk space that engines may use for spilling."""
MAX_IDLE = 8
"""The maximum number of idle instances."""
DATABASE = "_headwater"
_SESSION = (
    "set TimeZone = 'UTC'; set enable_progress_bar = true; set enable_progress_bar_print = false; "
    "set python_scan_all_frames = false; set python_enable_replacements = false"
)
Setting = Literal[
    "checkpoint_threshold", "disabled_optimizers", "partitioned_write_max_open_files", "preserve_insertion_order"
]


@dataclass(frozen=True)
class Limits:
    """The limits of a connection; `None` for DuckDB's default (all cores, 80 % of memory)."""

    memory_bytes: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class _Key:
    """What cannot be changed of an instance; it can be reused by users with the same key."""

    filesystem: int | None
    process: int


@dataclass
class _Instance:
    key: _Key
    limits: Limits
    root: duckdb.DuckDBPyConnection
    filesystem: fsspec.AbstractFileSystem | None = None
    changed: set[Setting] = field(default_factory=set)


_idle: list[_Instance] = []
_used: dict[int, _Instance] = {}
"""Instances in use, by the `id` of their connection."""
_lock = threading.Lock()


@contextmanager
def connection(
    limits: Limits, filesystem: fsspec.AbstractFileSystem | None = None, *, keep: bool = True
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a connection to an unused instance with its own spill folder, and close it at the end of the context.

    With `keep=False`, the instance is new and closed with the connection: for long-lived users, or locked settings.
    """
    key = _Key(None if filesystem is None else id(filesystem), os.getpid())
    with scratch.folder("spill") as folder:
        instance = (_reused(key, limits, folder) if keep else None) or _opened(key, limits, filesystem, folder)
        try:
            con = instance.root
            if keep:
                con = con.cursor()
                con.execute(f"attach ':memory:' as {DATABASE}; use {DATABASE}")
            con.execute(_SESSION)
            _limit_spill(con, folder, cores() if limits.threads == 1 else 1)
        except BaseException:
            instance.root.close()
            raise
        _used[id(con)] = instance
        try:
            yield con
        finally:
            del _used[id(con)]
            con.close()
            if keep and _is_clean(instance):
                _give_back(instance)
            else:
                instance.root.close()


def configure(con: duckdb.DuckDBPyConnection, setting: Setting, value: str | int) -> None:
    """Change a setting until the connection is closed."""
    if id(con) in _used:
        _used[id(con)].changed.add(setting)
    con.execute(f"set {setting} = {value}")


def _limit_spill(con: duckdb.DuckDBPyConnection, folder: str, engines: int) -> None:
    """Limit the spilled bytes of an instance to its share of the limit of all concurrent engines."""
    total = scratch.spill_bytes() or int(SPILL_SHARE * shutil.disk_usage(folder).free)
    con.execute(f"set max_temp_directory_size = '{total // engines}B'")


def catalog_rows(query: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query of DuckDB's own catalog, on an idle or a new instance; no folder is created."""
    key = _Key(None, os.getpid())
    instance = _taken(key, Limits()) or _opened(key, Limits(), None, "")
    rows: list[tuple[Any, ...]] = instance.root.execute(query).fetchall()
    _give_back(instance)
    return rows


def _taken(key: _Key, limits: Limits) -> _Instance | None:
    """Take an idle instance out of the pool, if possible one with these limits."""
    with _lock:
        usable = [idle for idle in reversed(_idle) if idle.key == key]
        instance = next((idle for idle in usable if idle.limits == limits), usable[0] if usable else None)
        if instance is not None:
            _idle.remove(instance)
        return instance


def _reused(key: _Key, limits: Limits, folder: str) -> _Instance | None:
    """Return an idle instance, configured to these limits and to spill to a folder, or `None` if there is none."""
    while True:
        instance = _taken(key, limits)
        if instance is None:
            return None
        try:
            instance.root.execute(
                "; ".join([f"set temp_directory = {literal(folder)}", *_changed_limits(instance, limits)])
            )
        except (duckdb.NotImplementedException, duckdb.OutOfMemoryException):
            instance.root.close()  # it has already spilled to another folder, or holds more than the memory limit
        else:
            instance.limits = limits
            return instance


def _changed_limits(instance: _Instance, limits: Limits) -> list[str]:
    """Return the statements that change the limits of an instance, which take 0.2 ms."""
    statements = []
    if limits.memory_bytes != instance.limits.memory_bytes:
        most = limits.memory_bytes
        statements.append("reset memory_limit" if most is None else f"set memory_limit = '{most}B'")
    if limits.threads != instance.limits.threads:
        statements.append("reset threads" if limits.threads is None else f"set threads = {limits.threads}")
    return statements


def _opened(key: _Key, limits: Limits, filesystem: fsspec.AbstractFileSystem | None, folder: str) -> _Instance:
    config: dict[str, str | bool | int | float | list[str]] = {"temp_directory": folder}
    if limits.memory_bytes is not None:
        config["memory_limit"] = f"{limits.memory_bytes}B"
    if limits.threads is not None:
        config["threads"] = limits.threads
    root = duckdb.connect(config=config)
    try:
        root.execute("set parquet_metadata_cache = true")  # the same files are often read by several statements
        if filesystem is not None:
            root.register_filesystem(filesystem)
    except BaseException:
        root.close()
        raise
    return _Instance(key, limits, root, filesystem)


def _is_clean(instance: _Instance) -> bool:
    """Remove the objects and settings of the last user, and return whether that succeeded."""
    try:
        instance.root.execute("; ".join([f"detach {DATABASE}", *(f"reset {name}" for name in instance.changed)]))
    except duckdb.Error:
        return False
    instance.changed.clear()
    return True


def _give_back(instance: _Instance) -> None:
    with _lock:
        _idle.append(instance)
        over = _idle[:-MAX_IDLE]
        del _idle[:-MAX_IDLE]
    for other in over:
        other.root.close()


def close_idle() -> None:
    """Close all idle instances."""
    with _lock:
        idle = [instance for instance in _idle if instance.key.process == os.getpid()]
        _idle.clear()
    for instance in idle:
        instance.root.close()


atexit.register(close_idle)
