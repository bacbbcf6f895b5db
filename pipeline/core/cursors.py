"""How far a source is consumed, and what of it is to be read next.

A **cursor** is a small JSON value that only its reader understands: locations and stamps of files, offsets of
partitions, a column's value, a token. It is stored in the manifest of the commit that has its rows, never before, so a
run that dies between reading and commit reads the same again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipeline.core.errors import StorageError
from pipeline.core.splits import SourceSplit


@dataclass(frozen=True)
class Cursor:
    """How far a source is consumed. `value` is JSON; its form belongs to the kind of cursor and its version."""

    kind: str
    """Whose form the value has, for example `files` or `offsets`."""
    value: Mapping[str, Any]
    format_version: int = 1

    def of_kind(self, kind: str, newest: int = 1) -> Mapping[str, Any]:
        """Return the value of a cursor of this kind.

        Raises `StorageError` for a cursor of another kind, and for a version that is newer than `newest`.
        """
        if self.kind != kind or not 1 <= self.format_version <= newest:
            raise StorageError(
                "this version of Headwater cannot read the cursor of a source",
                got=f"kind {self.kind!r}, version {self.format_version}; it reads {kind!r}, up to version {newest}",
                do="use the version of Headwater that wrote it, or read the source again: headwater run --full",
            )
        return self.value


@dataclass(frozen=True)
class Bound:
    """The most that one plan takes; at least one split is taken where there is one."""

    rows: int | None = None
    """Rows, where the reader can tell how many a split has."""
    size_bytes: int | None = None
    until: datetime | None = None
    """Only what was there at this time: files by their time stamp, records by the time at which they were written."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for a bound below 1."""
        if any(most is not None and most < 1 for most in (self.rows, self.size_bytes)):
            raise ValueError("a bound must be at least 1")


UNBOUNDED = Bound()


@dataclass(frozen=True)
class Gap:
    """Offsets of a partition that were lost before they were read; `end` is exclusive."""

    uri: str
    begin: int
    end: int

    def __str__(self) -> str:
        """Return it as an error names it."""
        return f"offsets {self.begin} to {self.end - 1} of {self.uri}"


@dataclass(frozen=True)
class ReadPlan:
    """What of a source is to be read next, and the cursor that stands for having read it."""

    parts: tuple[SourceSplit, ...]
    """In a stable order; empty when nothing is new."""
    cursor: Cursor
    """How far the source is consumed once the rows of all parts are committed."""
    new: str = ""
    """What is new, in words: `2 new files`."""
    changed: str = ""
    """Why the rows that were read before no longer stand, so that all has to be read again; empty when they do."""
    lost: tuple[str, ...] = ()
    """What was read before and could not be read again: its rows would be lost if all were read again."""
    gaps: tuple[Gap, ...] = ()
    """What can never be read: it went before it was consumed."""
    is_later: bool = True
    """Whether what is new comes after all that was read, in the order in which all would be read at once."""
    has_more: bool = False
    """Whether a bound left something for the next plan."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What the user should know, a sentence each."""

    @property
    def size_bytes(self) -> int:
        """The bytes to be read."""
        return sum(part.size_bytes for part in self.parts)
