"""Division of a split whose workers crash, to find the smallest part of its input that crashes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from pipeline.batch.work import Split
from pipeline.core.sources import Divisible, Reader
from pipeline.core.splits import SourceSplit

WAYS = 8
"""The number of parts of a division; they run concurrently."""
T = TypeVar("T")
_MOST_CUTS = 100_000
"""The maximum number of places in a source object between which it is divided."""


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
        if reader is not None and isinstance(reader, Divisible) and len(split.source_splits) == 1:
            source_splits = divided(split.source_splits[0], reader)
        return tuple(replace(split, source_splits=part) for part in _groups(source_splits)) or (split,)


def divided(source_split: SourceSplit, reader: Divisible) -> tuple[SourceSplit, ...]:
    """Return up to `WAYS` parts of a source split, between the places at which the reader can divide its source object.

    Returns the source split if there is no such place in it. In large objects, places are at least a hundred-thousandth of the
    object apart, because all of them are determined.
    """
    least = source_split.source_object.size_bytes // _MOST_CUTS + 1
    target = source_split.size_bytes
    while target > least:
        target = max(target // WAYS, least)
        cuts = _cuts(source_split, reader.splits(source_split.source_object, target))
        if cuts:
            break
    else:
        return (source_split,)
    chosen = [group[0] for group in _groups((source_split, *cuts))]
    size_bytes = max(1, source_split.size_bytes // len(chosen))
    ends = [(cut.begin, cut.first) for cut in chosen[1:]]
    return tuple(
        replace(
            source_split,
            begin=cut.begin,
            first=cut.first,
            end=end,
            planned_bytes=size_bytes,
            lines=None if until is None else until - cut.first,
        )
        for cut, (end, until) in zip(chosen, [*ends, (source_split.end, _last(source_split))], strict=True)
    )


def _cuts(source_split: SourceSplit, finer: Sequence[SourceSplit]) -> tuple[SourceSplit, ...]:
    """Return those of finer splits that begin inside a source split."""
    end = source_split.end
    return tuple(s for s in finer if s.begin > source_split.begin and (end is None or s.begin < end))


def _last(source_split: SourceSplit) -> int | None:
    return None if source_split.lines is None else source_split.first + source_split.lines


def _groups(items: Sequence[T]) -> list[tuple[T, ...]]:
    """Return up to `WAYS` consecutive groups of items."""
    size = max(1, -(-len(items) // WAYS))
    return [tuple(items[begin : begin + size]) for begin in range(0, len(items), size)]
