"""Cursors and read plans: how far a source is consumed, and what to read next.

A **cursor** is a small JSON value that only its reader understands: locations and stamps of files, offsets of
partitions, a column value, a token. It is stored in the manifest of the commit that contains the rows, never earlier,
so a run that is killed between reading and committing reads the same rows again.
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
    """How far a source is consumed. `value` is JSON whose format depends on `kind` and `format_version`."""

    kind: str
    """The format of the value, for example `files` or `offsets`."""
    value: Mapping[str, Any]
    format_version: int = 1

    def of_kind(self, kind: str, newest: int = 1) -> Mapping[str, Any]:
        """Return the value if the cursor is of this kind.

        Raises `StorageError` for a cursor of another kind, and for a version later than `newest`.
        """
        if self.kind != kind or not 1 <= self.format_version <= newest:
            raise StorageError(
                "this version of Headwater cannot read the cursor of a source",
                got=f"kind {self.kind!r}, version {self.format_version}; it reads {kind!r}, up to version {newest}",
                do="use the version of Headwater that wrote it, or reread the source: headwater run --full",
            )
        return self.value


@dataclass(frozen=True)
class Bound:
    """Upper limits for one read plan. A plan contains at least one split if any data is new."""

    rows: int | None = None
    """Maximum number of rows; applies to readers that know the row count of a split."""
    size_bytes: int | None = None
    until: datetime | None = None
    """Read only data that existed at this time: files by modification time, records by write time."""

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
        """Return the gap as shown in error messages."""
        return f"offsets {self.begin} to {self.end - 1} of {self.uri}"


@dataclass(frozen=True)
class ReadPlan:
    """The splits of a source to read next, and the cursor to store once they are committed."""

    splits: tuple[SourceSplit, ...]
    """The splits in a stable order; empty if nothing is new."""
    cursor: Cursor
    """The cursor that is valid once the rows of all parts are committed."""
    new: str = ""
    """A description of the new data, for example `2 new files`."""
    changed: str = ""
    """Why the rows read so far are no longer valid and the entire source must be reread; empty if they are valid."""
    lost: tuple[str, ...] = ()
    """Data that was read before and no longer exists; rereading the entire source would lose its rows."""
    gaps: tuple[Gap, ...] = ()
    """Offsets that were deleted before they were consumed."""
    is_later: bool = True
    """Whether the new data follows all data read before, in the order of a full read."""
    has_more: bool = False
    """Whether a bound left data for the next plan."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """Notices for the user, one sentence each."""

    @property
    def size_bytes(self) -> int:
        """The number of bytes to read."""
        return sum(split.size_bytes for split in self.splits)
