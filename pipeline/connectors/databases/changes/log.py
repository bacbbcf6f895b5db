"""A durable log of changes in a local folder: immutable segments of Arrow, and a state that says how far they are valid.

    <folder>/state.json                     written last, at once: what is in the log, and how far the database was read
    <folder>/<table's id>/<first>-<end>.arrow    the changes of a table from number `first` on

Changes are in the log when the state that counts them is on disk. What a killed process wrote beyond the state is
ignored, and written again. Delivery: each transaction once, because the state contains the position of the last one.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.connectors.databases.changes.columns import COMMITTED_AT
from pipeline.core.clients import message_of
from pipeline.core.durable import sync
from pipeline.core.errors import Place, SourceError

_SUFFIX = ".arrow"
_JOINED_BYTES = 4 << 20
"""A segment smaller than this is replaced by one that contains also the changes after it."""
_FORMAT = 1
_KEPT_S = 60.0
"""How long a segment that was replaced is kept for those who still read it."""


@dataclass(frozen=True)
class LoggedColumn:
    """A column of a table, whose values are logged as text: the name and the modifier of its type in the database."""

    name: str
    kind: str
    modifier: int = -1


@dataclass(frozen=True)
class LoggedTable:
    """A table in the log. Its columns are all those that it ever had; the latest type of each counts."""

    id: str
    begins_at: int
    """The position of its snapshot: changes of earlier transactions are in it."""
    columns: tuple[LoggedColumn, ...]
    rows: int = 0
    first: int = 0
    """The number of its first change in the log; earlier ones were removed."""

    def with_columns(self, columns: tuple[LoggedColumn, ...]) -> LoggedTable:
        """Return the table with the columns of a later change."""
        latest = {column.name: column for column in columns}
        known = {column.name for column in self.columns}
        kept = (latest.get(column.name, column) for column in self.columns)
        return replace(self, columns=(*kept, *(column for column in columns if column.name not in known)))


@dataclass(frozen=True)
class LogState:
    """What is in a log: all changes of transactions before the position `through`, of these tables."""

    id: str
    system: str
    """Identifies the server, because the positions of another one mean nothing."""
    through: int = 0
    is_complete: bool = False
    """Whether the snapshot is complete."""
    tables: Mapping[str, LoggedTable] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the state as text."""
        return json.dumps({"format": _FORMAT, **asdict(self)})

    @classmethod
    def of_json(cls, text: str) -> LogState:
        """Return the state from its text."""
        value: dict[str, Any] = json.loads(text)
        value.pop("format")
        tables = {
            name: LoggedTable(**{**table, "columns": tuple(LoggedColumn(**each) for each in table["columns"])})
            for name, table in value.pop("tables").items()
        }
        return cls(**value, tables=tables)


def new_id() -> str:
    """Return an id for a log or for a table in it."""
    return secrets.token_hex(8)


@dataclass(frozen=True)
class ChangeLog:
    """The log in a folder."""

    folder: Path
    kept_s: float | None = None
    """How long changes are kept; `None`: always."""

    def state(self) -> LogState | None:
        """Return the state on disk; `None` if there is no log."""
        with self._errors("read"):
            try:
                return LogState.of_json((self.folder / "state.json").read_text(encoding="utf-8"))
            except FileNotFoundError:
                return None

    def store(self, state: LogState) -> None:
        """Replace the state; what it counts must be on disk."""
        with self._errors("written"):
            draft = self.folder / f".state-{secrets.token_hex(4)}"
            with draft.open("w", encoding="utf-8") as file:
                file.write(state.to_json())
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.folder / "state.json")
            sync(self.folder)

    @contextmanager
    def locked(self, *, waits: bool = True) -> Iterator[bool]:
        """Exclude all other writers; yield whether that succeeded, which it always does if it `waits`."""
        with self._errors("written"):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("ab")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True

    def tidy(self, state: LogState) -> LogState:
        """Remove what the state does not count, and changes that are too old; return the new state.

        Call it before the first `append` after the state was read, within `locked`.
        """
        with self._errors("written"):
            tables = {name: self._without_old(table) for name, table in state.tables.items()}
        if tables != state.tables:
            state = replace(state, tables=tables)
            self.store(state)
        with self._errors("written"):
            for table in tables.values():
                _remove_uncounted(self.folder / table.id, table)
            _remove_unknown(self.folder, {table.id for table in tables.values()})
        return state

    def _without_old(self, table: LoggedTable) -> LoggedTable:
        """Return a table without the segments whose last change is too old; the last segment remains."""
        if self.kept_s is None:
            return table
        before = time.time() - self.kept_s
        for _, end, path in _segments(self.folder / table.id, table.rows)[:-1]:
            if path.stat().st_mtime >= before:
                break
            table = replace(table, first=max(table.first, end))
        return table

    def append(self, table: LoggedTable, changes: pa.Table) -> LoggedTable:
        """Write changes after those that the state counts, and return the table that a new state must have."""
        if not changes.num_rows:
            return table
        with self._errors("written"):
            folder = self.folder / table.id
            folder.mkdir(parents=True, exist_ok=True)
            segments = _segments(folder, table.rows)
            first = table.rows
            if segments and segments[-1][2].stat().st_size < _JOINED_BYTES:
                first, _, last = segments[-1]
                changes = pa.concat_tables([_read(last), changes], promote_options="default")
            end = first + changes.num_rows
            _write(folder / f"{first:020d}-{end:020d}{_SUFFIX}", changes)
        return replace(table, rows=end)

    def changes(self, table: LoggedTable, begin: int, end: int) -> pa.Table:
        """Return the changes of a table with these numbers; raise `SourceError` if they are not in the log."""
        folder, parts = self.folder / table.id, []
        with self._errors("read"):
            for first, after, path in _segments(folder, table.rows):
                if first < end and after > begin:
                    low = max(0, begin - first)
                    parts.append(_read(path).slice(low, min(end, after) - first - low))
        found = pa.concat_tables(parts, promote_options="default") if parts else pa.table({})
        if parts and found.num_rows == end - begin:
            return found
        if begin == end:
            return found.slice(0, 0)
        raise SourceError(
            "changes are no longer in the log",
            got=f"{found.num_rows} of the changes {begin} to {end - 1}",
            do="headwater run --full begins again with a new snapshot; a stream then starts with --from earliest",
            place=Place(str(folder)),
        )

    def number_at(self, table: LoggedTable, moment_us: int) -> int:
        """Return the number of the first change that was committed at or after a time; the end if there is none."""
        with self._errors("read"):
            for first, _, path in _segments(self.folder / table.id, table.rows):
                times = _read(path).column(COMMITTED_AT).cast(pa.int64())
                at = pc.index(pc.greater_equal(times, moment_us), True).as_py()
                if at >= 0:
                    return first + int(at)
        return table.rows

    @contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            place = Place(str(self.folder))
            raise SourceError(f"the log of changes cannot be {verb}", got=message_of(error), place=place) from error


def _segments(folder: Path, rows: int) -> list[tuple[int, int, Path]]:
    """Return the segments that contain the first `rows` changes, in order: of those that begin alike, the longest one."""
    longest: dict[int, tuple[int, int, Path]] = {}
    for path in folder.glob(f"*{_SUFFIX}") if folder.is_dir() else ():
        first, end = (int(part) for part in path.stem.split("-"))
        if end <= rows and end > longest.get(first, (0, 0, path))[1]:
            longest[first] = (first, end, path)
    return [longest[first] for first in sorted(longest)]


def _read(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def _write(path: Path, changes: pa.Table) -> None:
    draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with draft.open("wb") as file:
        with pa.ipc.new_file(file, changes.schema, options=options) as writer:
            writer.write_table(changes)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync(path.parent)


def _remove_uncounted(folder: Path, table: LoggedTable) -> None:
    """Remove what a killed process wrote beyond the state at once, and what longer segments replaced after some time.

    Segments before the first change that is kept are removed too.
    """
    kept = {path for _, end, path in _segments(folder, table.rows) if end > table.first}
    before = time.time() - _KEPT_S
    for path in folder.iterdir() if folder.is_dir() else ():
        is_beyond = (
            path.suffix == _SUFFIX and not path.name.startswith(".") and int(path.stem.split("-")[1]) > table.rows
        )
        with suppress(FileNotFoundError):
            if path not in kept and (is_beyond or path.stat().st_mtime < before):
                path.unlink()


def _remove_unknown(folder: Path, ids: set[str]) -> None:
    """Remove the changes of earlier snapshots, of tables that are no longer read, and of snapshots that were interrupted."""
    before = time.time() - _KEPT_S
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            if path.is_dir() and path.name not in ids and path.stat().st_mtime < before:
                shutil.rmtree(path)
