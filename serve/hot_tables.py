"""Local copies of tables that are asked for often, ordered by their key, as DuckDB stores tables itself.

A row of such a copy is found in about a fifth of the time that Parquet files take. A copy is of one version: it is made in the background
when a version is asked for several times, and replaced when the table has a newer one that is asked for. Until then, the files of
the lake are read. Replicas of a machine share the copies.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb

from pipeline.core.definitions import StoredDefinition
from pipeline.core.errors import HeadwaterError
from pipeline.kernel.engine import connect
from pipeline.kernel.pool import Limits
from pipeline.kernel.scan import Scan
from pipeline.kernel.sql_text import listed, literal, quoted
from pipeline.lake import Storage
from serve.queries.engine import Engine

_LOG = logging.getLogger("headwater.serve")
_ASKED, _WITHIN_S = 5, 60.0
"""How many requests within how many seconds make a table hot."""
_REST = 20.0
"""How many times as long as a copy took to make, the next of this table is not made: a table that changes all the time is not copied."""
_OUT_OF_USE_S = 90.0
"""After which time no statement reads a replaced copy: they have a time limit."""
_LEFT_OVER_S = 3600.0
_LIMITS = Limits(memory_bytes=512 << 20, threads=1)


@dataclass(frozen=True)
class _Copy:
    identity: str
    """That of the version."""
    alias: str
    path: Path
    size_bytes: int


class HotTables:
    """The copies of a replica. Thread-safe."""

    def __init__(
        self, engine: Engine, lake: Storage, folder: Path, most_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Use a folder of at most so many bytes; with 0 bytes, no copies are made. `clock` returns seconds."""
        self._engine = engine
        self._lake = lake
        self._folder = folder
        self._most_bytes = most_bytes
        self._clock = clock
        self._copies: dict[str, _Copy] = {}
        self._asked: dict[str, deque[float]] = {}
        self._not_before: dict[str, float] = {}
        self._waiting: deque[tuple[StoredDefinition, str, Scan]] = deque()
        self._replaced: deque[tuple[float, _Copy]] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def rows(self, definition: StoredDefinition, identity: str, scan: Callable[[], Scan]) -> str | None:
        """Return a SELECT of the rows of a version's copy, or `None` if there is none; then it may be made.

        `scan` returns all rows of the version.
        """
        copy = self._copies.get(definition.name)
        if copy is not None and copy.identity == identity:
            return f"select * from {quoted(copy.alias)}.main.rows"
        if self._most_bytes and self._is_hot(definition.name):
            self._order(definition, identity, scan)
        return None

    def close(self) -> None:
        """End the thread that makes copies."""
        with self._wake:
            self._is_closed = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _is_hot(self, name: str) -> bool:
        now = self._clock()
        with self._lock:
            asked = self._asked.setdefault(name, deque(maxlen=_ASKED))
            asked.append(now)
            return len(asked) == _ASKED and now - asked[0] <= _WITHIN_S and now >= self._not_before.get(name, 0.0)

    def _order(self, definition: StoredDefinition, identity: str, scan: Callable[[], Scan]) -> None:
        rows = scan()
        if rows.size_bytes > self._most_bytes:
            return
        with self._wake:
            if self._is_closed or any(each[0].name == definition.name for each in self._waiting):
                return
            self._not_before[definition.name] = self._clock() + _WITHIN_S
            self._waiting.append((definition, identity, rows))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hot tables", daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def _run(self) -> None:
        self._remove_left_over()
        while True:
            with self._wake:
                while not self._waiting and not self._is_closed:
                    self._wake.wait(_OUT_OF_USE_S / 3)
                    if not self._waiting:
                        break
                if self._is_closed:
                    return
                order = self._waiting.popleft() if self._waiting else None
            self._forget_replaced()
            if order is not None:
                self._make(*order)

    def _make(self, definition: StoredDefinition, identity: str, rows: Scan) -> None:
        begun = self._clock()
        path = self._folder / f"{definition.name}-{identity}.duckdb"
        try:
            if not path.exists():
                self._write(path, definition, rows)
            alias = f"hot {definition.name} {identity}"
            self._engine.attach(path, alias)
            copy = _Copy(identity, alias, path, path.stat().st_size)
        except (duckdb.Error, OSError, HeadwaterError) as error:
            _LOG.warning("no copy of table %r could be made: %s", definition.name, error)
            return
        with self._lock:
            self._not_before[definition.name] = self._clock() + _REST * (self._clock() - begun)
            old = self._copies.get(definition.name)
            self._copies[definition.name] = copy
            if old is not None:
                self._replaced.append((self._clock(), old))
            while sum(each.size_bytes for each in self._copies.values()) > self._most_bytes:
                least = min(self._copies, key=lambda name: self._asked[name][-1])
                self._replaced.append((self._clock(), self._copies.pop(least)))

    def _write(self, path: Path, definition: StoredDefinition, rows: Scan) -> None:
        """Write a copy under another name first, so that a reader sees it whole or not at all."""
        self._folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        order = f" order by {listed(definition.key)}" if definition.key else ""
        try:
            with connect(_LIMITS, filesystem=self._lake.filesystem(), keep=False) as con:
                con.execute(f"attach {literal(str(part))} as copy")
                con.execute(f"create table copy.main.rows as {rows.query()}{order}")
                con.execute("detach copy")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _forget_replaced(self) -> None:
        while True:
            with self._lock:
                if not self._replaced or self._clock() - self._replaced[0][0] < _OUT_OF_USE_S:
                    return
                _, copy = self._replaced.popleft()
            self._engine.detach(copy.alias)
            copy.path.unlink(missing_ok=True)  # other replicas that still read it have it open

    def _remove_left_over(self) -> None:
        """Remove what killed servers left behind."""
        for path in self._folder.glob("*.duckdb*") if self._folder.is_dir() else ():
            if time.time() - path.stat().st_mtime > _LEFT_OVER_S:
                path.unlink(missing_ok=True)
