"""The queries in the background and their results, in a folder that all servers of the machine share.

A query is a folder with its id. The server that runs it holds a lock on a file in it, which the system releases when the process ends,
however it does: whoever finds an active query without the lock knows that its server has stopped. A server that ends in order
hands its queries over: it leaves what another one needs to run them.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from serve.access.caller import Caller
from serve.background.cancellation import MARKER
from serve.background.records import (
    ACTIVE,
    STOPPED,
    UNREADABLE,
    WORK,
    BackgroundQuery,
    BackgroundWork,
    QueryStatus,
    read_query,
    read_status,
    read_work,
    write,
)
from serve.http_errors import BusyError, OverloadError, TooManyError, UnknownError

MOST_OF_A_CALLER, MOST_QUERIES = 10, 200
"""How many queries of a caller, and of all callers, are queued, run or are kept on a machine."""
_LOCK = "lock"
_LEFT_OVER_S = 60.0
"""After which time a folder without a query is what a killed server has left."""
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True)
class HeldQuery:
    """A query that this process queues or runs, until `release`."""

    query: BackgroundQuery
    folder: Path
    lock: int
    """The descriptor of the locked file."""

    def release(self) -> None:
        """Let go of the query: it has ended."""
        os.close(self.lock)


class QueryStore:
    """The queries in a folder. Thread-safe."""

    def __init__(self, folder: Path, most_bytes: int, kept_s: float, clock: Callable[[], float] = time.time) -> None:
        """Use a folder of at most so many bytes; results are kept for so many seconds. `clock` returns seconds since 1970."""
        self._folder = folder
        self._most_bytes = most_bytes
        self._kept_s = kept_s
        self._clock = clock
        self._creating = threading.Lock()

    @property
    def folder(self) -> Path:
        """The folder."""
        return self._folder

    def create(self, query: BackgroundQuery) -> HeldQuery:
        """Add a query, which is queued, and hold it.

        Raises `TooManyError` and `BusyError` if there are too many, or too little space.
        """
        with self._creating:
            self.sweep()
            kept = [found for _, found, _ in self._all()]
            if sum(found.owner == query.owner for found in kept) >= MOST_OF_A_CALLER:
                do = "DELETE those that are not needed any more, or wait until they expire"
                raise TooManyError("there are too many queries of this caller in the background", do=do)
            if len(kept) >= MOST_QUERIES or self._used().total() >= self._most_bytes:
                raise BusyError("there is no space for another query in the background", do="try again later")
            return self._created(query)

    def find(self, query_id: str, caller: Caller) -> tuple[BackgroundQuery, QueryStatus]:
        """Return a query of a caller and its status; raise `UnknownError` if there is none, or it is that of another."""
        folder = self.path(query_id)
        if folder is not None:
            with suppress(*UNREADABLE):
                query = read_query(folder)
                if query.owner == (caller.kind, caller.id):
                    status = self._settled(folder)
                    if status.expires_at is None or status.expires_at > self._clock():
                        return query, status
        raise UnknownError("there is no such query", do="submit it again: results are kept for a while only")

    def of(self, caller: Caller) -> list[tuple[BackgroundQuery, QueryStatus]]:
        """Return the queries of a caller, the newest first."""
        found = []
        for folder in self._folders():
            with suppress(UnknownError):  # it is that of another caller, or was removed meanwhile
                found.append(self.find(folder.name, caller))
        return sorted(found, key=lambda each: each[0].submitted_at, reverse=True)

    def path(self, query_id: str) -> Path | None:
        """Return the folder of a query; `None` for a text that is no id."""
        return self._folder / query_id if _ID.fullmatch(query_id) else None

    def cancel(self, query_id: str) -> None:
        """Let the server that runs a query end it."""
        folder = self.path(query_id)
        if folder is not None:
            with suppress(FileNotFoundError):
                os.close(os.open(folder / MARKER, os.O_WRONLY | os.O_CREAT, 0o600))

    def remove(self, query_id: str) -> None:
        """Remove a query that has ended; raise `UnknownError` if it was removed already."""
        folder = self.path(query_id)
        if folder is None or not self._removed(folder):
            raise UnknownError("there is no such query", do="it was removed already")

    def end(self, held: HeldQuery, status: QueryStatus) -> None:
        """Write the last status of a query that this process holds, and let go of it."""
        now = self._clock()
        try:
            with suppress(FileNotFoundError):  # the folder was removed
                if status.state != "done":
                    _remove_rows(held.folder)
                (held.folder / WORK).unlink(missing_ok=True)
                write(held.folder, replace(status, ended_at=now, expires_at=now + self._kept_s))
        finally:
            held.release()

    def hand_over(self, held: HeldQuery, work: BackgroundWork) -> None:
        """Let another server run a query that this process holds, from its beginning."""
        try:
            with suppress(FileNotFoundError):  # the folder was removed
                _remove_rows(held.folder)
                write(held.folder, work)
                write(held.folder, QueryStatus())
        finally:
            held.release()

    def take_over(self) -> tuple[HeldQuery, BackgroundWork] | None:
        """Hold the oldest query that a server has handed over, and return what is to be done; `None` if there is none."""
        waiting = [(query.submitted_at, folder) for folder, query, status in self._all() if status.state == "queued"]
        for _, folder in sorted(waiting):
            with suppress(*UNREADABLE):
                query, work, lock = read_query(folder), read_work(folder), _lock_of(folder)
                if lock is not None:
                    if _is_queued(folder):
                        return HeldQuery(query, folder, lock), work
                    os.close(lock)
        return None

    def require_space(self, held: HeldQuery, size: int) -> None:
        """Raise `OverloadError` or `BusyError` if the result of a query, of so many bytes so far, takes too much space."""
        if size > self._most_bytes // 4:
            got = f"more than {self._most_bytes // 4} bytes"
            raise OverloadError("the result is too large", got=got, do="select fewer columns or rows")
        used = self._used()
        if used[held.query.owner] > self._most_bytes // 2:
            do = "DELETE those that are not needed any more"
            raise OverloadError("the results of this caller are too large together", do=do)
        if used.total() > self._most_bytes:
            raise BusyError("there is no space for the result", do="try again later")

    def sweep(self) -> None:
        """Remove what has expired and what killed servers have left, and fail queries whose server has stopped."""
        now = self._clock()
        for folder in self._folders():
            try:
                expires_at = self._settled(folder).expires_at
                if expires_at is not None and expires_at <= now:
                    self._removed(folder)
            except UNREADABLE:  # it is being removed, or is none
                self._remove_left_over(folder, now)
        with suppress(FileNotFoundError):
            for each in self._folder.iterdir():
                if each.name.startswith("."):
                    self._remove_left_over(each, now)

    def _created(self, query: BackgroundQuery) -> HeldQuery:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = self._folder / f".{uuid.uuid4().hex}"
        made.mkdir(mode=0o700)
        lock = os.open(made / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            write(made, query)
            write(made, QueryStatus())
            made.rename(self._folder / query.id)
        except OSError:
            os.close(lock)
            shutil.rmtree(made, ignore_errors=True)
            raise
        return HeldQuery(query, self._folder / query.id, lock)

    def _settled(self, folder: Path) -> QueryStatus:
        """Return the status of a query; if its server has stopped, it has failed."""
        status = read_status(folder)
        if status.state not in ACTIVE:
            return status
        with _locked(folder) as is_left:
            if is_left:
                status = read_status(folder)  # it may have ended meanwhile
                if status.state in ACTIVE and not self._is_handed_over(folder, status):
                    now = self._clock()
                    until = now + self._kept_s
                    status = replace(status, state="failed", problem=STOPPED, ended_at=now, expires_at=until)
                    _remove_rows(folder)
                    write(folder, status)
        if status.state == "queued" and (folder / MARKER).exists():
            return replace(status, state="cancelled")
        return status

    def _is_handed_over(self, folder: Path, status: QueryStatus) -> bool:
        """Return whether another server may still run a query that none holds."""
        waited = self._clock() - read_query(folder).submitted_at
        return status.state == "queued" and (folder / WORK).exists() and waited < self._kept_s

    def _removed(self, folder: Path) -> bool:
        """Remove a folder at once for all readers; return whether it was there."""
        away = self._folder / f".{uuid.uuid4().hex}"
        try:
            folder.rename(away)
        except FileNotFoundError:
            return False
        shutil.rmtree(away, ignore_errors=True)
        return True

    def _remove_left_over(self, folder: Path, now: float) -> None:
        with suppress(OSError):
            if now - folder.stat().st_mtime > _LEFT_OVER_S:
                shutil.rmtree(folder, ignore_errors=True)

    def _folders(self) -> list[Path]:
        try:
            return [each for each in self._folder.iterdir() if _ID.fullmatch(each.name)]
        except FileNotFoundError:
            return []

    def _all(self) -> Iterator[tuple[Path, BackgroundQuery, QueryStatus]]:
        for folder in self._folders():
            with suppress(*UNREADABLE):
                yield folder, read_query(folder), read_status(folder)

    def _used(self) -> Counter[tuple[str, str]]:
        """Return the bytes of the results of each caller."""
        used = Counter[tuple[str, str]]()
        for folder, query, _ in self._all():
            with suppress(FileNotFoundError):
                used[query.owner] += sum(each.stat().st_size for each in folder.iterdir())
        return used


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a query, if no process does; the value says whether that is so."""
    lock = _lock_of(folder)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


def _lock_of(folder: Path) -> int | None:
    """Return the descriptor of the file of a query, which is locked by it now; `None` if a process holds it."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _is_queued(folder: Path) -> bool:
    with suppress(*UNREADABLE):
        return read_status(folder).state == "queued"
    return False


def _remove_rows(folder: Path) -> None:
    for file in folder.glob("*.parquet"):
        file.unlink(missing_ok=True)
