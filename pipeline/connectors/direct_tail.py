"""A tail of a log whose ranges can be read at any time. It prefetches nothing and polls for new records."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from pipeline.core.errors import SourceError, SourceUnavailableError
from pipeline.core.sources import Extent, Log, ReadyOffsets, SplitReader
from pipeline.core.splits import SourceSplit

MAX_ROWS = 1 << 18
"""Maximum number of offsets per partition returned by one poll, so that an epoch is bounded for any backlog."""
_POLL_INTERVAL_S = 0.02


@dataclass
class DirectTail:
    """A `Tail` over `extents`; `ended` says whether a finite log has been read to its end."""

    log: Log
    offsets: dict[str, int]
    max_rows: int = MAX_ROWS
    ends_at: Mapping[str, int] | None = None
    """For a finite log: the end offset of each partition."""
    reuse_s: float = 0.0
    """How long the offsets that the log's system returned are used again, because each request costs."""
    taken: dict[str, int] = field(init=False)
    _polled: tuple[float, Mapping[str, Extent]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Start at the offsets; raise `SourceError` for one that is no longer available."""
        self.taken = dict(self.offsets)
        self._polled = (time.monotonic(), self.log.extents())
        require_available(self.offsets, self._polled[1])

    def ready(self, timeout_s: float) -> ReadyOffsets:
        """Return new ranges beyond those already read; wait if there are none."""
        give_up = time.monotonic() + timeout_s
        while True:
            try:
                extents = self._extents()
            except SourceUnavailableError:
                return ReadyOffsets(dict(self.taken), 0, is_unanswered=True)
            until = {
                uri: min(extents[uri].end, offset + self.max_rows) if uri in extents else offset
                for uri, offset in self.taken.items()
            }
            rows = sum(until[uri] - offset for uri, offset in self.taken.items())
            ended = self.ends_at is not None and all(until[u] >= self.ends_at.get(u, 0) for u in until)
            if rows or ended or time.monotonic() >= give_up:
                return ReadyOffsets(until, rows, ended)
            time.sleep(min(_POLL_INTERVAL_S, max(give_up - time.monotonic(), 0)))

    def _extents(self) -> Mapping[str, Extent]:
        at, extents = self._polled
        if time.monotonic() < at + self.reuse_s:
            return extents
        extents = self.log.extents()
        self._polled = (time.monotonic(), extents)
        return extents

    def reader(self, splits: Sequence[SourceSplit]) -> SplitReader:
        """Return the log, and record the splits as taken."""
        ends = {split.source_object.uri: split.end for split in splits if split.end is not None}
        self.taken.update({uri: max(self.taken.get(uri, 0), end) for uri, end in ends.items()})
        return cast("SplitReader", self.log)

    def add(self, offsets: Mapping[str, int]) -> None:
        """Add partitions to read."""
        self.taken.update(offsets)


def require_available(offsets: Mapping[str, int], extents: Mapping[str, Extent]) -> None:
    """Raise `SourceError` if an offset is no longer available, or a partition has fewer records than were read."""
    for uri, offset in offsets.items():
        extent = extents.get(uri)
        if extent is None:
            raise SourceError("the partition does not exist", got=uri, do="restart with --from earliest")
        if offset < extent.begin:
            raise SourceError(
                f"retention deleted records of {uri} before they were read",
                got=f"offset {offset}, but the log begins at {extent.begin}",
                do="increase the retention; to continue with the remaining records: headwater stream --accept-gaps",
            )
        if offset > extent.end:
            raise SourceError(
                f"{uri} has fewer records than were read: it was recreated or truncated",
                got=f"offset {offset}, but the log ends at {extent.end}",
                do="restart with --from earliest",
            )
