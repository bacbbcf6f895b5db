"""Division of a split whose workers crash, to find the smallest part of its input that crashes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from pipeline.batch.work import Split
from pipeline.core.sources import Divisible, DivisibleSplits, Reader, SplitReader
from pipeline.core.splits import SourceSplit

WAYS = 8
"""The number of parts of a division; they run concurrently."""
T = TypeVar("T")


@dataclass(frozen=True)
class DivisionPolicy:
    """How splits of a step may be divided, and whether the smallest part may be quarantined without reading it."""

    reader: Reader | None = None
    may_quarantine: bool = False

    def parts(self, split: Split) -> tuple[Split, ...]:
        """Return up to `WAYS` parts of a split, in order: groups of its files, or parts of its only file.

        Returns one part if the split cannot be divided: for a single file of the lake, and a bucket of a join.
        """
        if split.beside:
            return (split,)
        if split.scan is not None and not split.source_splits:
            scan, files = split.scan, split.scan.files
            return tuple(replace(split, scan=replace(scan, files=part)) for part in _groups(files)) or (split,)
        source_splits, reader = split.source_splits, self.reader
        if reader is not None and len(split.source_splits) == 1:
            source_splits = divided(split.source_splits[0], reader)
        return tuple(replace(split, source_splits=part) for part in _groups(source_splits)) or (split,)


def divided(source_split: SourceSplit, reader: SplitReader) -> tuple[SourceSplit, ...]:
    """Return up to `WAYS` parts of a source split, in order; the split itself if it is one row, or if nothing divides it."""
    target = source_split.size_bytes
    while target > 1:
        target = max(1, target // WAYS)
        if isinstance(reader, DivisibleSplits):
            parts = reader.parts(source_split, target)
        elif isinstance(reader, Divisible) and source_split.is_whole:
            parts = reader.splits(source_split.source_object, target)
        else:
            break
        if len(parts) > 1:
            return tuple(map(_joined, _groups(parts)))
    return (source_split,)


def _joined(parts: Sequence[SourceSplit]) -> SourceSplit:
    """Return adjacent splits as one."""
    lines = [part.lines for part in parts if part.lines is not None]
    return replace(
        parts[0],
        end=parts[-1].end,
        planned_bytes=sum(part.size_bytes for part in parts),
        lines=sum(lines) if len(lines) == len(parts) else None,
    )


def _groups(items: Sequence[T]) -> list[tuple[T, ...]]:
    """Return up to `WAYS` consecutive groups of items."""
    size = max(1, -(-len(items) // WAYS))
    return [tuple(items[begin : begin + size]) for begin in range(0, len(items), size)]
