"""A tail of a log whose ranges can be read at any time: it fetches nothing ahead, and looks now and then for more."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from pipeline.core.errors import SourceError
from pipeline.core.sources import Extent, Log, PartReader, ReadyOffsets
from pipeline.core.splits import SourceSplit

MAX_ROWS = 1 << 18
"""The most offsets of a partition that are offered at a time, so that an epoch is bounded however much is behind."""
_POLL_INTERVAL_S = 0.02


@dataclass
class DirectTail:
    """A `Tail` over `extents`; `ended` says whether a log that ends has come to where it does."""

    log: Log
    offsets: dict[str, int]
    max_rows: int = MAX_ROWS
    ends_at: Mapping[str, int] | None = None
    """For a log that ends: the offset of each partition after which nothing comes."""
    taken: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        """Begin at the offsets; raise `SourceError` for one that is not held any more."""
        self.taken = dict(self.offsets)
        require_available(self.offsets, self.log.extents())

    def ready(self, timeout_s: float) -> ReadyOffsets:
        """Return what is there beyond what was read; wait for it if there is nothing."""
        give_up = time.monotonic() + timeout_s
        while True:
            extents = self.log.extents()
            until = {
                uri: min(extents[uri].end, offset + self.max_rows) if uri in extents else offset
                for uri, offset in self.taken.items()
            }
            rows = sum(until[uri] - offset for uri, offset in self.taken.items())
            ended = self.ends_at is not None and all(until[u] >= self.ends_at.get(u, 0) for u in until)
            if rows or ended or time.monotonic() >= give_up:
                return ReadyOffsets(until, rows, ended)
            time.sleep(min(_POLL_INTERVAL_S, max(give_up - time.monotonic(), 0)))

    def reader(self, parts: Sequence[SourceSplit]) -> PartReader:
        """Return the log, the parts noted as taken."""
        ends = {part.piece.uri: part.end for part in parts if part.end is not None}
        self.taken.update({uri: max(self.taken.get(uri, 0), end) for uri, end in ends.items()})
        return cast("PartReader", self.log)

    def add(self, offsets: Mapping[str, int]) -> None:
        """Read more partitions from now on."""
        self.taken.update(offsets)


def require_available(offsets: Mapping[str, int], extents: Mapping[str, Extent]) -> None:
    """Raise `SourceError` when an offset is no longer held, or a partition has fewer than were read of it."""
    for uri, offset in offsets.items():
        extent = extents.get(uri)
        if extent is None:
            raise SourceError("there is no such partition", got=uri, do="start again with --from earliest")
        if offset < extent.begin:
            raise SourceError(
                f"{uri} no longer holds what comes next: retention overtook the reader",
                got=f"offset {offset}, of which the log begins at {extent.begin}",
                do="raise the retention; go on with what is left: headwater stream --accept-gaps",
            )
        if offset > extent.end:
            raise SourceError(
                f"{uri} holds less than was read of it: it was made anew or cut",
                got=f"offset {offset}, of which the log ends at {extent.end}",
                do="start again with --from earliest",
            )
