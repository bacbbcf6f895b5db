"""DuckDB instances that are kept and used again: opening one takes 15 ms, a connection to one that is there 2 ms.

An instance has one user at a time. A user works in a database of its own, which goes when it is done, so nothing that it
created is there for the next one; settings of the instance that it changed are put back.
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
"""The share of the free disk that engines may spill to, without a setting."""
MAX_IDLE = 8
"""How many instances are kept for the next user."""
DATABASE = "_headwater"
_SESSION = (
    "set TimeZone = 'UTC'; set enable_progress_bar = true; set enable_progress_bar_print = false; "
    "set python_scan_all_frames = false; set python_enable_replacements = false"
)
Setting = Literal["disabled_optimizers", "partitioned_write_max_open_files", "preserve_insertion_order"]


@dataclass(frozen=True)
class Limits:
    """What one connection may take; `None` leaves DuckDB's default (all cores, 80 % of memory)."""

    memory_bytes: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class _Key:
    """What an instance is opened with: users with the same key may use it one after the other."""

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
"""By the `id` of the connection that uses it."""
_lock = threading.Lock()


@contextmanager
def connection(
    limits: Limits, filesystem: fsspec.AbstractFileSystem | None = None, *, keep: bool = True
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a connection to an instance that nobody else uses, and close it; it spills to a folder of its own.

    With `keep=False` the instance is a new one and is closed with it: for what works long, or locks its settings.
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
    """Change a setting for as long as a connection is open."""
    if id(con) in _used:
        _used[id(con)].changed.add(setting)
    con.execute(f"set {setting} = {value}")


def _limit_spill(con: duckdb.DuckDBPyConnection, folder: str, engines: int) -> None:
    """Bound what an instance spills to a folder: its part of what all engines that work side by side may spill."""
    total = scratch.spill_bytes() or int(SPILL_SHARE * shutil.disk_usage(folder).free)
    con.execute(f"set max_temp_directory_size = '{total // engines}B'")


def _reused(key: _Key, folder: str) -> _Instance | None:
    """Return an idle instance that spills to a folder, or `None` where there is none."""
    while True:
        with _lock:
            instance = next((idle for idle in reversed(_idle) if idle.key == key), None)
            if instance is None:
                return None
            _idle.remove(instance)
        try:
            instance.root.execute(f"set temp_directory = {literal(folder)}")
        except duckdb.NotImplementedException:  # it has spilled to another one, and cannot leave it
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
        root.execute("set parquet_metadata_cache = true")  # a statement is looked at more than once
        if filesystem is not None:
            root.register_filesystem(filesystem)
    except BaseException:
        root.close()
        raise
    return _Instance(key, root, filesystem)


def _is_clean(instance: _Instance) -> bool:
    """Remove what a user left in an instance, and return whether that went well."""
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
    """Close the instances that nobody uses."""
    with _lock:
        idle = [instance for instance in _idle if instance.key.process == os.getpid()]
        _idle.clear()
    for instance in idle:
        instance.root.close()


atexit.register(close_idle)
