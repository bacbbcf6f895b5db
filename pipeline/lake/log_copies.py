"""Copies of table logs that are in an object store, from which delta-rs opens the tables.

delta-rs asks a store for everything about ten times when it opens a table and commits to it. A copy needs one listing,
which names each file with its ETag, and one read for each file that is new, all at the same time. The files are in a
folder of this process; a file whose ETag has changed, because the table was recreated, is copied again.

A writer has a copy of its own, in which delta-rs writes the next entry. `WritableLog.send` creates this entry in the
store with a conditional request, which the store grants to one writer.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import shutil
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deltalake.exceptions import CommitFailedError

from pipeline.core import scratch
from pipeline.core.errors import OutcomeUnknownError, StorageError, StorageUnavailableError
from pipeline.lake.log_files import LOG, LogFiles, entry_name, number_of
from pipeline.lake.storage import Storage, StoredFile

_PLAIN = re.compile(r"_delta_log/\d{20}\.(json|checkpoint\.parquet)")
"""The log files that Headwater and delta-rs write, besides the hint of the last checkpoint."""
_HINT = f"{LOG}_last_checkpoint"
_NEVER = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_TRIES = 3
"""How often a log is listed if files vanish between the listing and their read, because it is being shortened."""


class LogCopies:
    """The copies that this process has for reading, one for each table. Thread-safe."""

    def __init__(self) -> None:
        """Start without copies."""
        self._copies: dict[object, LogCopy] = {}
        self._lock = threading.Lock()

    def of(self, storage: Storage) -> LogCopy:
        """Return the copy of the log of the table at a location."""
        key = (os.getpid(), storage.uri, *sorted(storage.options.items()))
        with self._lock:
            return self._copies.setdefault(key, LogCopy(storage))


_copies = LogCopies()


def copy_of(storage: Storage) -> LogCopy | None:
    """Return this process's copy of the log of the table at a location; `None` if delta-rs reads the log there."""
    return _copies.of(storage) if storage.is_s3 else None


@dataclass(frozen=True)
class _Copied:
    """The copied files of a log by ETag, and their folder."""

    folder: Path
    etags: dict[str, str]


class LogCopy:
    """A copy of the files with which delta-rs opens a table, for all readers of this process. Thread-safe."""

    def __init__(self, storage: Storage) -> None:
        """Copy nothing yet."""
        self._storage = storage
        self._lock = threading.Lock()
        self._copied: _Copied | None = None
        self._left: Path | None = None
        """The folder before the current one: tables that were opened from it may still read it."""

    def at(self, number: int | None = None, *, is_known: bool = False) -> tuple[Path, int] | None:
        """Return a folder from which a version can be opened, and its number; by default, the newest version.

        `None` if the log has no files that belong to it. The folder may have later entries too, and gaps between them.
        With `is_known`, the log is not listed again for a version that was opened before. Raises `StorageError` if the
        store cannot be read.
        """
        with self._lock:
            if is_known and number is not None and self._has(number):
                return None if self._copied is None else (self._copied.folder, number)
            last = max(map(number_of, self._update(number)), default=None)
            if last is None or self._copied is None or number not in {None, last}:
                return None
            return self._copied.folder, last

    def newest(self) -> int | None:
        """Return the number of the newest version; `None` if there is no table."""
        with self._lock:
            return max(LogFiles(tuple(self._listed(None))).entries, default=None)

    def apart(self, number: int | None = None) -> Path:
        """Return a new folder with the files of a version, empty if there is no table; the caller removes it."""
        with self._lock:
            needed, folder = self._update(number), scratch.new_folder("log")
            if self._copied is not None:
                _link(self._copied.folder, folder, needed)
            return folder

    def contents(self, names: Sequence[str]) -> dict[str, bytes]:
        """Return those of the given files that exist; the store is asked for the ones that are not copied."""
        with self._lock:
            copied = self._copied
            known = {} if copied is None else {n: (copied.folder / n).read_bytes() for n in names if n in copied.etags}
        return known | self._storage.read_existing([name for name in names if name not in known])

    def note_sent(self, name: str, content: bytes, etag: str) -> None:
        """Note a file that this process has written, so that it is not read again."""
        with self._lock:
            if etag and self._copied is not None and self._copied.folder.is_dir():
                _write(self._copied.folder / name, content)
                self._copied.etags[name] = etag
        if etag:
            self._storage.keep(name, etag, content)

    def _has(self, number: int) -> bool:
        """Return whether all that a version needs is copied."""
        if self._copied is None or not self._copied.folder.is_dir():
            return False
        needed = needed_files(LogFiles(tuple(sorted(self._copied.etags))), number)
        entries = [number_of(name) for name in needed if name == entry_name(number_of(name))]
        begins = bool(entries) and (entries[0] == 0 or len(entries) < len(needed))
        return begins and entries == list(range(entries[0], number + 1))

    def _update(self, number: int | None) -> tuple[str, ...]:
        """Copy what a version needs, and return the names; empty if there is nothing."""
        for left in reversed(range(_TRIES)):
            listed = self._listed(number)
            copied = self._copied = self._without_replaced(listed)
            needed = needed_files(LogFiles(tuple(sorted(listed))), number)
            missing = [name for name in needed if name not in copied.etags]
            contents = self._storage.read_cached({name: listed[name].etag for name in missing})
            for name in missing:  # in this order, so that each file follows those it builds on
                if name in contents:
                    _write(copied.folder / name, contents[name])
                    copied.etags[name] = listed[name].etag
            if len(contents) == len(missing) or not left:
                return tuple(name for name in needed if name in copied.etags)
        raise AssertionError("the last try has returned")

    def _listed(self, number: int | None) -> Mapping[str, StoredFile]:
        """List the log: only from its last checkpoint on, if that is copied; the files before it are not needed."""
        etags = {} if self._copied is None else self._copied.etags
        base = max(LogFiles(tuple(etags)).checkpoints, default=-1)
        if base >= 0 and (number is None or number >= base):
            listed = self._storage.files(LOG, after=f"{LOG}{base:020}")
            is_plain = all(_PLAIN.fullmatch(name) for name in listed if number_of(name) >= 0)
            if is_plain and LogFiles(tuple(listed)).checkpoints == (base,):
                name = f"{LOG}{base:020}.checkpoint.parquet"
                if etags.get(name) == listed[name].etag:  # otherwise, the table was recreated
                    earlier = {each: StoredFile(0, _NEVER, etag) for each, etag in etags.items()}
                    return {each: file for each, file in earlier.items() if number_of(each) < base} | listed
        return self._storage.files(LOG)

    def _without_replaced(self, listed: Mapping[str, StoredFile]) -> _Copied:
        """Return a folder whose files are all in the store; the last one stays, because open tables may still read it."""
        copied = self._copied
        if copied is None or not copied.folder.is_dir():  # removed with other temporary files
            return _Copied(scratch.new_folder("log"), {})
        kept = {name: etag for name, etag in copied.etags.items() if name in listed and listed[name].etag == etag}
        if len(kept) == len(copied.etags):
            return copied
        folder = scratch.new_folder("log")
        _link(copied.folder, folder, sorted(kept))
        if self._left is not None:
            shutil.rmtree(self._left, ignore_errors=True)
        self._left = copied.folder
        return _Copied(folder, kept)


def needed_files(files: LogFiles, number: int | None) -> tuple[str, ...]:
    """Return the files with which a version can be opened (default: the newest), so that each follows those it builds on.

    Of the log of another engine, whose checkpoints may have several files, these are all.
    """
    if not all(_PLAIN.fullmatch(name) for name in files.names if number_of(name) >= 0 and not name.endswith(".crc")):
        return tuple(sorted(files.names, key=lambda name: (name.endswith(".json"), name)))
    base = max((each for each in files.checkpoints if number is None or each <= number), default=-1)
    checkpoint = [name for name in files.names if number_of(name) == base and ".checkpoint" in name]
    entries = [each for each in files.entries if each >= base and (number is None or each <= number)]
    return (*checkpoint, *(entry_name(each) for each in entries))


class WritableLog:
    """The log of a table as its writer opens it: where it is, or for an object store a copy that only the writer has."""

    def __init__(self, storage: Storage, number: int | None = None) -> None:
        """Open the log at a version (default: the newest); raise `StorageError` if the store cannot be read."""
        self._storage = storage
        self._copy = copy_of(storage)
        self._folder = None if self._copy is None else self._copy.apart(number)
        if self._folder is not None:
            weakref.finalize(self, _remove, os.getpid(), self._folder)

    @property
    def uri(self) -> str:
        """Where delta-rs opens the table and writes to its log."""
        return self._storage.uri if self._folder is None else str(self._folder)

    @property
    def options(self) -> dict[str, str] | None:
        """The options of the store for delta-rs."""
        return self._storage.delta_options() if self._folder is None else None

    def send(self, first: int) -> None:
        """Send the entries that delta-rs has written to the copy, from this number on.

        Raises `CommitFailedError` if the store did not take one, also because another writer has one of this number,
        `OutcomeUnknownError` if that is not known, and `StorageUnavailableError`. The copy then differs from the log.
        """
        if self._folder is None or self._copy is None:
            return
        while (path := self._folder / (name := entry_name(first))).exists():
            content = path.read_bytes()
            try:
                etag = self._storage.created(name, content)
            except (OutcomeUnknownError, StorageUnavailableError):
                raise
            except StorageError as error:
                raise CommitFailedError(error.got) from error.__cause__
            if etag is None:
                raise CommitFailedError(f"another writer has committed version {first}")
            self._copy.note_sent(name, content, etag)
            first += 1

    def send_checkpoint(self, number: int) -> None:
        """Send a checkpoint that delta-rs has written to the copy, unless the log had it already."""
        if self._folder is None or not (self._folder / _HINT).exists():
            return
        for name in (f"{LOG}{number:020}.checkpoint.parquet", _HINT):
            self._storage.write_bytes(name, (self._folder / name).read_bytes())


def _remove(pid: int, folder: Path) -> None:
    if os.getpid() == pid:  # a forked child does not remove what its parent uses
        shutil.rmtree(folder, ignore_errors=True)


def _link(source: Path, target: Path, names: Sequence[str]) -> None:
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(source / name, target / name)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    draft.write_bytes(content)
    draft.replace(path)
