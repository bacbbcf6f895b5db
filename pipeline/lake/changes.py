"""The changes between two versions of a table: added and removed files, without rows that only moved to other files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.kernel.scan import DataFile
from pipeline.lake.log import AddedFile, LogEntry, RemovedFile


@dataclass(frozen=True)
class VersionChange:
    """How the files of a table differ from those of an earlier version."""

    added: tuple[DataFile, ...]
    removed: tuple[DataFile, ...] = ()


@dataclass(frozen=True)
class NetChange:
    """Added files, and removed files of the earlier version, by their paths below the table.

    A file that was added and then compacted is itself among the added files: it contains the new rows, and exists until
    it is vacuumed. The size and rows of an added file are 0 if the log does not say them.
    """

    added: tuple[AddedFile, ...]
    removed: tuple[RemovedFile, ...]


def net_change(entries: Sequence[LogEntry]) -> NetChange | None:
    """Return the combined changes of several commits, or `None` if they cannot be expressed as entire files.

    If a compacted file is removed, the files it was compacted from count as removed, and the other files that have rows of
    these as added; files added in between cancel out.
    """
    if not all(entry.is_plain for entry in entries):
        return None
    changes = _Changes()
    for entry in entries:
        changes.move(entry)
        for file in entry.removed:
            changes.remove(file)
        changes.added |= {file.path: file for file in entry.added}
    return NetChange(tuple(changes.added.values()), tuple(changes.removed.values()))


@dataclass
class _Changes:
    """The changes of the commits so far."""

    added: dict[str, AddedFile] = field(default_factory=dict)
    removed: dict[str, RemovedFile] = field(default_factory=dict)
    parts: dict[str, frozenset[str]] = field(default_factory=dict)
    """For each compacted file, the files with its rows that the reader knows or that were added since."""

    def move(self, entry: LogEntry) -> None:
        parts = {
            new: frozenset(part for path in old for part in self.parts.get(path, (path,)))
            for new, old in entry.moved.items()
        }
        for path in {path for old in entry.moved.values() for path in old}:
            self.parts.pop(path, None)
        self.parts |= parts

    def remove(self, file: RemovedFile) -> None:
        gone = self.parts.pop(file.path, None)
        if gone is None:
            self._forget(file)
            return
        # rows of a part may be in several compacted files: those that stay are what is left of their parts
        while others := [path for path, parts in self.parts.items() if not gone.isdisjoint(parts)]:
            for path in others:
                gone |= self.parts.pop(path)
                self.added[path] = AddedFile(path, 0, 0)
        for path in sorted(gone):
            self._forget(RemovedFile(path, 0))

    def _forget(self, file: RemovedFile) -> None:
        if self.added.pop(file.path, None) is None:
            self.removed[file.path] = file
