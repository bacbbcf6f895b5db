"""Units of a source, and stretches of them that are read by themselves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceObject:
    """An object of a source: a file, a partition, a page. `stamp` changes when its content does."""

    uri: str
    size_bytes: int
    stamp: str


@dataclass(frozen=True)
class SourceSplit:
    """A stretch of a piece that can be read by itself: bytes from line end to line end, or rows of whole row groups."""

    piece: SourceObject
    begin: int = 0
    """The first byte (CSV, NDJSON) or the first row (Parquet), from 0."""
    end: int | None = None
    """Exclusive; None: to the end of the piece."""
    first: int = 1
    """The line or row, from 1, at which the part begins, as `_position` counts; in front of a header, the header's."""
    planned_bytes: int | None = None
    """What the part weighs, for planning; None: as much as the piece."""
    lines: int | None = None
    """How many lines of text it has, where they were counted when it was cut."""

    @property
    def size_bytes(self) -> int:
        """The bytes of the part, for Parquet before compression when it is cut: an estimate of work, not of memory."""
        return self.piece.size_bytes if self.planned_bytes is None else self.planned_bytes

    @property
    def is_whole(self) -> bool:
        """Whether the part is all of its piece."""
        return self.begin == 0 and self.end is None

    def __str__(self) -> str:
        """Return the file, and which stretch of it: bytes, or rows of Parquet, from 0, the end not included."""
        end = "its end" if self.end is None else f"{self.end}"
        return self.piece.uri if self.is_whole else f"{self.piece.uri} from {self.begin} to {end}"
