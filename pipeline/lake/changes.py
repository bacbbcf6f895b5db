"""The changes between two versions of a table: added and removed files, without rows that only moved to other files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    it is vacuumed.
    """

    added: tuple[AddedFile, ...]
    removed: tuple[RemovedFile, ...]


def net_change(entries: Sequence[LogEntry]) -> NetChange | None:
    """Return the combined changes of several commits, or `None` if they cannot be expressed as entire files.

    If a compacted file is removed, the files it was compacted from count as removed; files added in between cancel out.
    """
    added: dict[str, AddedFile] = {}
    removed: dict[str, RemovedFile] = {}
    parts: dict[str, tuple[str, ...]] = {}  # compacted file -> files that the reader knows or that were added since
    for entry in entries:
        if not entry.is_plain:
            return None
        for new, old in entry.moved.items():
            parts[new] = tuple(part for path in old for part in parts.get(path, (path,)))
        for file in entry.removed:
            for path in parts.get(file.path, (file.path,)):
                if added.pop(path, None) is None:
                    removed[path] = RemovedFile(path, file.size_bytes if path == file.path else 0)
        added |= {file.path: file for file in entry.added}
    return NetChange(tuple(added.values()), tuple(removed.values()))
