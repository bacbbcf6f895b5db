"""How far the versions of a table are read: which version, and how many of its data files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Generic, Protocol, TypeVar

from pipeline.core.cursors import Bound, Cursor


class VersionFile(Protocol):
    """A data file of a version."""

    @property
    def size_bytes(self) -> int:
        """Its size."""

    @property
    def rows(self) -> int | None:
        """The number of its rows, if it is known."""


_F = TypeVar("_F", bound=VersionFile)


@dataclass(frozen=True)
class VersionFiles(Generic[_F]):
    """The data files that a version added, in a stable order; for a snapshot, all of them."""

    version: int
    files: Sequence[_F]
    is_snapshot: bool = False


@dataclass(frozen=True)
class VersionProgress:
    """What was read of a table: all versions up to `version`, of which the first `files` files."""

    table: str
    """The identity of the table, which changes if it is created again."""
    version: int
    files: int | None = None
    """`None` for all."""
    is_snapshot: bool = False
    """Whether the files are those of a snapshot."""

    @classmethod
    def of(cls, cursor: Cursor, kind: str) -> VersionProgress:
        """Return the progress in a cursor."""
        return cls(**cursor.of_kind(kind))

    def cursor(self, kind: str) -> Cursor:
        """Return the progress as a cursor."""
        return Cursor(kind, asdict(self))


@dataclass(frozen=True)
class TakenFiles(Generic[_F]):
    """The files of a plan, and the progress after them."""

    files: tuple[tuple[VersionFiles[_F], _F], ...]
    """Each with the version that it belongs to."""
    progress: VersionProgress
    has_more: bool


def take(listed: Sequence[VersionFiles[_F]], before: VersionProgress, bound: Bound) -> TakenFiles[_F]:
    """Return the files to read next within a bound: at least one, if there are any.

    `listed` begins with the version of which `before` has read some files, if there is one.
    """
    taken: list[tuple[VersionFiles[_F], _F]] = []
    rows = size_bytes = 0
    progress = before
    for each in listed:
        done = before.files or 0 if each.version == before.version and each.is_snapshot == before.is_snapshot else 0
        for number, file in enumerate(each.files[done:], done):
            rows += file.rows or 1
            size_bytes += file.size_bytes
            is_over = _over(rows, bound.rows) or _over(size_bytes, bound.size_bytes)
            if taken and is_over:
                partly = VersionProgress(before.table, each.version, number, each.is_snapshot)
                return TakenFiles(tuple(taken), partly, has_more=True)
            taken.append((each, file))
        progress = VersionProgress(before.table, each.version, None, is_snapshot=False)
    return TakenFiles(tuple(taken), progress, has_more=False)


def _over(value: int, most: int | None) -> bool:
    return most is not None and value > most
