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
from typing import TYPE_CHECKING, Literal

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
Setting = Literal["disabled_optimizers", "partitioned_write_max_open_files", "preserve_insertion_order"]


@dataclass(frozen=True)
class Limits:
    """The limits of a connection; `None` for DuckDB's default (all cores, 80 % of memory)."""

    memory_bytes: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class _Key:
    """The configuration of an instance; it can be reused by users with the same key."""

    limits: Limits
    filesystem: int | None
    process: int


@dataclass
class _Instance:
    key: _Key
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
    key = _Key(limits, None if filesystem is None else id(filesystem), os.getpid())
    with scratch.folder("spill") as folder:
        instance = (_reused(key, folder) if keep else None) or _opened(key, filesystem, folder)
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


def _reused(key: _Key, folder: str) -> _Instance | None:
    """Return an idle instance, configured to spill to a folder, or `None` if there is none."""
    while True:
        with _lock:
            instance = next((idle for idle in reversed(_idle) if idle.key == key), None)
            if instance is None:
                return None
            _idle.remove(instance)
        try:
            instance.root.execute(f"set temp_directory = {literal(folder)}")
        except duckdb.NotImplementedException:  # it has already spilled to another folder
            instance.root.close()
        else:
            return instance


def _opened(key: _Key, filesystem: fsspec.AbstractFileSystem | None, folder: str) -> _Instance:
    config: dict[str, str | bool | int | float | list[str]] = {"temp_directory": folder}
    if key.limits.memory_bytes is not None:
        config["memory_limit"] = f"{key.limits.memory_bytes}B"
    if key.limits.threads is not None:
        config["threads"] = key.limits.threads
    root = duckdb.connect(config=config)
    try:
        root.execute("set parquet_metadata_cache = true")  # the same files are often read by several statements
        if filesystem is not None:
            root.register_filesystem(filesystem)
    except BaseException:
        root.close()
        raise
    return _Instance(key, root, filesystem)


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
