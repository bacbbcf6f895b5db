"""The commits of a table, read from its log: the files that each added and removed, and its manifest id.

The log of a stream's table grows by one file per epoch, and every commit lists it. Therefore old entries are **folded**:
the files of an entry, without their statistics, become a line of `_headwater/log/<first>-<last>.jsonl`, and the entry is removed.
Readers that follow a table get the changes since their version from both, at a cost proportional to the changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import unquote

from pipeline.lake.log_copies import copy_of
from pipeline.lake.log_files import entry_name
from pipeline.lake.storage import Storage

APP = "headwater"
"""The Delta application whose transaction number is the id of a table's manifest."""
COMPACTED = "headwater.compacted"
"""The key of a compaction's note: for each added file, the files whose rows it contains."""
REPARTITIONED = "headwater.repartitioned"
"""The key of the note of a commit that adds all files again, without changing rows: the table lost its partition columns."""
FOLDED = "_headwater/log/"
COMBINED_FILES, COMBINED_BYTES = 16, 4 << 20
"""So many folded files are combined, unless they are larger: a stream folds its log every minute, for years."""
_TRIES = 3
"""How often folded files are listed if some vanish between the listing and their read, because they are combined."""
_FOLDED_FIELDS = {"added": "came", "removed": "went"}
"""The names of two fields of an entry in a folded line."""


@dataclass(frozen=True)
class AddedFile:
    """A file that a commit added, by its path below the table."""

    path: str
    rows: int
    size_bytes: int


@dataclass(frozen=True)
class RemovedFile:
    """A file that a commit removed, by its path below the table."""

    path: str
    size_bytes: int


@dataclass(frozen=True)
class LogEntry:
    """One commit. `moved` contains the files of a compaction, which rewrites files without changing rows."""

    number: int
    manifest_id: int | None
    added: Sequence[AddedFile] = ()
    removed: Sequence[RemovedFile] = ()
    moved: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """For each file written by a compaction, the files that it replaced."""
    is_plain: bool = True
    """Whether the entry is complete; false if another engine compacted the table."""


def entries(storage: Storage, first: int, last: int) -> tuple[LogEntry, ...] | None:
    """Return the commits from one number to another, or `None` if the log no longer has all of them."""
    by_number = dict(_read(storage, range(first, last + 1)))
    for _ in range(_TRIES):
        missing = [number for number in range(first, last + 1) if number not in by_number]
        if not missing:
            return tuple(by_number[number] for number in range(first, last + 1))
        names = _folded_names(storage, missing[0], missing[-1])
        contents = storage.read_existing(names)
        by_number |= {e.number: e for content in contents.values() for e in _unfolded(content)}
        if len(contents) == len(names) and any(number not in by_number for number in missing):
            return None
    return None


def fold(storage: Storage, first: int, last: int) -> tuple[LogEntry, ...]:
    """Copy log entries to a folded file, which `entries` reads too; return them. Only one process may do this at a time."""
    by_number = dict(_read(storage, range(first, last + 1)))
    kept = tuple(by_number[number] for number in sorted(by_number))
    if kept:
        lines = "".join(f"{json.dumps(_folded_line(entry))}\n" for entry in kept)
        storage.write_text(_folded_name(kept[0].number, kept[-1].number), lines)
        _combine(storage)
    return kept


def _combine(storage: Storage) -> None:
    """Combine small folded files if there are many."""
    small = sorted(name for name, file in storage.files(FOLDED).items() if file.size_bytes < COMBINED_BYTES)
    if len(small) < COMBINED_FILES:
        return
    contents = storage.read_existing(small)
    lines = dict.fromkeys(line for name in small for line in contents[name].splitlines(keepends=True))
    combined = _folded_name(_range_of(small[0])[0], max(_range_of(name)[1] for name in small))
    storage.write_bytes(combined, b"".join(lines))
    storage.remove([name for name in small if name != combined])


def _read(storage: Storage, numbers: Iterable[int]) -> Iterable[tuple[int, LogEntry]]:
    names = {entry_name(number): number for number in numbers}
    copy = copy_of(storage)
    contents = storage.read_existing(list(names)) if copy is None else copy.contents(list(names))
    for name, content in contents.items():
        yield names[name], _parsed(names[name], content.decode())


def _folded_names(storage: Storage, first: int, last: int) -> list[str]:
    """Return the folded files that may have entries of some numbers."""
    ranges = ((name, *_range_of(name)) for name in storage.names(FOLDED))
    return [name for name, begin, end in ranges if begin <= last and end >= first]


def _folded_name(first: int, last: int) -> str:
    return f"{FOLDED}{first:020}-{last:020}.jsonl"


def _range_of(name: str) -> tuple[int, int]:
    begin, _, end = name.removeprefix(FOLDED).removesuffix(".jsonl").partition("-")
    return int(begin), int(end)


def _folded_line(entry: LogEntry) -> dict[str, Any]:
    """Return an entry as a JSON line, in which `added` and `removed` are named `came` and `went`."""
    line = asdict(entry)
    return {_FOLDED_FIELDS.get(name, name): value for name, value in line.items()}


def _unfolded(content: bytes) -> Iterator[LogEntry]:
    for line in map(json.loads, content.decode().splitlines()):
        fields = {name: value for name, value in line.items() if name not in _FOLDED_FIELDS.values()}
        added = tuple(AddedFile(**file) for file in line["came"])
        removed = tuple(RemovedFile(**file) for file in line["went"])
        yield LogEntry(added=added, removed=removed, **fields)


def _parsed(number: int, text: str) -> LogEntry:
    manifest_id: int | None = None
    added: list[AddedFile] = []
    removed: list[RemovedFile] = []
    reshaped: set[str] = set()
    moved: dict[str, list[str]] = {}
    is_same = False
    for line in text.splitlines():
        for kind, action in json.loads(line).items():
            if kind == "txn" and action["appId"] == APP:
                manifest_id = int(action["version"])
            elif kind == "commitInfo":
                moved, is_same = json.loads(action.get(COMPACTED, "{}")), REPARTITIONED in action
            elif kind in {"add", "remove"} and not action["dataChange"]:
                reshaped |= set() if is_same else {unquote(action["path"])}
            elif kind == "add":
                stats = json.loads(action.get("stats") or "{}")
                added.append(AddedFile(unquote(action["path"]), int(stats.get("numRecords", 0)), int(action["size"])))
            elif kind == "remove":
                removed.append(RemovedFile(unquote(action["path"]), int(action.get("size") or 0)))
    named = {*moved, *(path for paths in moved.values() for path in paths)}
    return LogEntry(number, manifest_id, tuple(added), tuple(removed), moved, is_plain=named == reshaped)
