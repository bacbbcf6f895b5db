"""Source objects, and the splits of them that tasks read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceObject:
    """A unit of a source: a file, a partition, a page. `stamp` changes whenever its content changes."""

    uri: str
    size_bytes: int
    stamp: str


@dataclass(frozen=True)
class SourceSplit:
    """A part of a source object that one task reads: bytes between line ends, or rows of complete row groups."""

    source_object: SourceObject
    begin: int = 0
    """The 0-based first byte (CSV, NDJSON) or first row (Parquet)."""
    end: int | None = None
    """Exclusive end; `None` for the end of the source object."""
    first: int = 1
    """The `_position` (1-based line or row) at which the split begins; that of the header line if it starts with one."""
    planned_bytes: int | None = None
    """The size used for planning; `None` for the size of the source object."""
    lines: int | None = None
    """The number of text lines, if they were counted when the split was created."""

    @property
    def size_bytes(self) -> int:
        """The size in bytes (for splits of Parquet files: uncompressed), as an estimate of work, not of memory."""
        return self.source_object.size_bytes if self.planned_bytes is None else self.planned_bytes

    @property
    def is_whole(self) -> bool:
        """Whether the split covers its entire source object."""
        return self.begin == 0 and self.end is None

    def __str__(self) -> str:
        """Return the URI and the 0-based range of bytes (for Parquet: rows), with an exclusive end."""
        end = "its end" if self.end is None else f"{self.end}"
        return self.source_object.uri if self.is_whole else f"{self.source_object.uri} from {self.begin} to {end}"
