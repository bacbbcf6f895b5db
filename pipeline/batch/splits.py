"""Division of a step's input into splits: few and large, in input order, with equal work for each slot."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from pipeline.batch.work import Split
from pipeline.core.processes import cores
from pipeline.core.sources import Divisible, Reader
from pipeline.core.splits import SourceSplit
from pipeline.kernel.scan import Scan

SPLIT_BYTES = 128 << 20
"""The target size of the splits of a large source file."""
LEAST_TASK_BYTES = 64 << 20
"""The minimum input of a task of a cluster."""
LEAST_TASK_BYTES_HERE = 16 << 20
"""The minimum input of a task in this process, which begins within milliseconds."""
MOST_BYTES = 512 << 20
"""The maximum input of a task, which then writes a file of 128 MB or more, and is cheap to retry."""
MOST_BYTES_PARTITIONED = 768 << 20
"""The same for partitioned tables, for which each task writes one file per partition and buffers its rows."""
OPENING_BYTES = 128 << 10
"""The cost of opening a file, as the number of bytes that can be read in the same time."""
T = TypeVar("T")


@dataclass(frozen=True)
class Slots:
    """The number of concurrent tasks, and the limits for the input of each."""

    count: int
    most_bytes: int = MOST_BYTES
    least_bytes: int = LEAST_TASK_BYTES

    def target(self, total_bytes: int) -> int:
        """Return the target input of a task, such that all slots stay busy, in as few rounds as the maximum allows."""
        rounds = max(1, -(-total_bytes // (self.count * self.most_bytes)))
        return max(self.least_bytes, -(-total_bytes // (self.count * rounds)))


def splits_of_scan(scan: Scan, slots: Slots) -> tuple[Split, ...]:
    """Return splits of complete files; at least one."""
    groups = _even(scan.files, lambda file: file.size_bytes, slots.target(scan.size_bytes))
    return tuple(Split(n, replace(scan, files=tuple(files))) for n, files in enumerate(groups)) or (Split(0, scan),)


def splits_of_source(source_splits: Sequence[SourceSplit], slots: Slots) -> tuple[Split, ...]:
    """Group source splits into splits for tasks; at least one."""
    total = sum(map(_weight, source_splits))
    groups = _even(source_splits, _weight, slots.target(total))
    return tuple(Split(n, source_splits=tuple(group)) for n, group in enumerate(groups)) or (Split(0),)


def _weight(source_split: SourceSplit) -> int:
    """Return the work of a source split in bytes, including the cost of opening it."""
    return source_split.size_bytes + OPENING_BYTES


def divided(reader: Reader, source_splits: Sequence[SourceSplit], target_bytes: int) -> list[SourceSplit]:
    """Divide planned splits that are larger than `target_bytes`, if the reader supports it; files are read concurrently."""
    if not isinstance(reader, Divisible):
        return list(source_splits)
    with ThreadPoolExecutor(cores()) as pool:
        cut = pool.map(
            lambda each: reader.splits(each.source_object, target_bytes) if each.is_whole else [each], source_splits
        )
        return list(itertools.chain.from_iterable(cut))


def _even(items: Sequence[T], size: Callable[[T], int], target: int) -> list[list[T]]:
    """Return consecutive groups of items of about `target` in size; an item belongs to the group of its midpoint."""
    groups: dict[int, list[T]] = {}
    before = 0
    for item in items:
        groups.setdefault(int((before + size(item) / 2) // target), []).append(item)
        before += size(item)
    return list(groups.values())
