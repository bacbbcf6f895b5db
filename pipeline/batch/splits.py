"""How a step's input becomes splits: few and large, in the input's order, and the same work for each slot."""

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

PART_BYTES = 128 << 20
"""The size of the parts into which a large file of a source is cut."""
LEAST_BYTES = 64 << 20
"""Less than this is not worth a task of its own."""
MOST_BYTES = 512 << 20
"""The most input of a task: its output is a file of 128 MB or more, and little is lost when it must be done again."""
MOST_BYTES_PARTITIONED = 768 << 20
"""The same where each task writes a file for each partition, whose rows the engine holds until the end."""
OPENING_BYTES = 128 << 10
"""As much as can be read in the time that it takes to open a file."""
T = TypeVar("T")


@dataclass(frozen=True)
class Slots:
    """How many tasks work at once, and how much of the input each may take."""

    count: int
    most_bytes: int = MOST_BYTES
    least_bytes: int = LEAST_BYTES

    def target(self, total_bytes: int) -> int:
        """Return the input of one task: all slots are busy to the end, in as few rounds as the most allows."""
        rounds = max(1, -(-total_bytes // (self.count * self.most_bytes)))
        return max(self.least_bytes, -(-total_bytes // (self.count * rounds)))


def splits_of_scan(scan: Scan, slots: Slots) -> tuple[Split, ...]:
    """Return splits of whole files; always at least one."""
    groups = _even(scan.files, lambda file: file.size_bytes, slots.target(scan.size_bytes))
    return tuple(Split(n, replace(scan, files=tuple(files))) for n, files in enumerate(groups)) or (Split(0, scan),)


def splits_of_parts(parts: Sequence[SourceSplit], slots: Slots) -> tuple[Split, ...]:
    """Return splits of a source's parts; always at least one."""
    total = sum(map(_weight, parts))
    groups = _even(parts, _weight, slots.target(total))
    return tuple(Split(n, parts=tuple(group)) for n, group in enumerate(groups)) or (Split(0),)


def _weight(part: SourceSplit) -> int:
    """Return the work of a part in bytes: to open it is work, too."""
    return part.size_bytes + OPENING_BYTES


def divided(reader: Reader, parts: Sequence[SourceSplit], target_bytes: int) -> list[SourceSplit]:
    """Cut planned parts where they are larger than that and the reader can; files are looked at side by side."""
    if not isinstance(reader, Divisible):
        return list(parts)
    with ThreadPoolExecutor(cores()) as pool:
        cut = pool.map(lambda part: reader.parts(part.piece, target_bytes) if part.is_whole else [part], parts)
        return list(itertools.chain.from_iterable(cut))


def _even(items: Sequence[T], size: Callable[[T], int], target: int) -> list[list[T]]:
    """Return runs of items of about `target` in size: an item belongs where its middle lies."""
    groups: dict[int, list[T]] = {}
    before = 0
    for item in items:
        groups.setdefault(int((before + size(item) / 2) // target), []).append(item)
        before += size(item)
    return list(groups.values())
