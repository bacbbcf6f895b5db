"""Reads a log in batch: plans ranges of each partition beyond the consumed offsets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from pipeline.core.cursors import Bound, Cursor, Gap, ReadPlan
from pipeline.core.errors import SourceError, quantity
from pipeline.core.sources import Extent
from pipeline.core.splits import SourceObject, SourceSplit

KIND = "offsets"
_PART_BYTES = 128 << 20
_ENDLESS_ROWS = 1 << 60


class _Log(Protocol):
    def extents(self) -> Mapping[str, Extent]: ...

    def offsets_at(self, time: datetime) -> Mapping[str, int]: ...


@dataclass(frozen=True)
class _ConsumedOffsets:
    """A partition in a cursor: read from `begin`, to be continued at `next`."""

    begin: int
    next: int
    stamp: str


def plan_log(log: _Log, cursor: Cursor | None, bound: Bound, *, row_bytes: int) -> ReadPlan:
    """Plan the records of a log beyond a cursor: ranges of offsets, alternating between partitions.

    A partition that was recreated, or has fewer records than were read, has changed, and everything is read again.
    Raises `SourceError` for an infinite log, unless the number of rows is limited.
    """
    extents = log.extents()
    known = {} if cursor is None else _known(cursor)
    begins = {uri: max(known[uri].next, e.begin) if uri in known else e.begin for uri, e in extents.items()}
    ends = _ends(log, extents, begins, bound, row_bytes)
    consumed = {
        uri: _ConsumedOffsets(known[uri].begin if uri in known else begins[uri], end, extents[uri].stamp)
        for uri, end in ends.items()
    }
    count = sum(ends[uri] - begins[uri] for uri in extents)
    has_more = any(ends[uri] < extents[uri].end for uri in extents)
    return ReadPlan(
        splits=tuple(_parts(extents, begins, ends, row_bytes)),
        cursor=_cursor({**known, **consumed}),
        new=f"{quantity(count, 'new offset')}{', more are left' * has_more}" if count else "",
        changed=next(
            (text for uri in known if uri in extents and (text := _change(uri, known[uri], extents[uri]))), ""
        ),
        lost=tuple(text for uri, before in known.items() if (text := _lost_offsets(uri, before, extents.get(uri)))),
        gaps=tuple(
            Gap(u, k.next, extents[u].begin) for u, k in known.items() if u in extents and k.next < extents[u].begin
        ),
        has_more=has_more,
    )


def _ends(
    log: _Log, extents: Mapping[str, Extent], begins: Mapping[str, int], bound: Bound, row_bytes: int
) -> dict[str, int]:
    """Return the offset at which each partition's ranges end; a row limit is divided among the partitions."""
    ends = {uri: max(extent.end, begins[uri]) for uri, extent in extents.items()}
    if bound.until is not None:
        at = log.offsets_at(bound.until)
        ends = {uri: max(min(end, at.get(uri, end)), begins[uri]) for uri, end in ends.items()}
    most = _most_rows(bound, row_bytes)
    if most is None:
        endless = next((uri for uri, end in ends.items() if end - begins[uri] >= _ENDLESS_ROWS), None)
        if endless is not None:
            raise SourceError(
                "this log has no end, so a run would never finish reading it",
                got=endless,
                do="give it an end (count=), limit the rows of a run (most_rows=), or use `headwater stream`",
            )
        return ends
    left = max(most, 1)
    by_size = sorted(ends, key=lambda uri: (ends[uri] - begins[uri], uri))
    for number, uri in enumerate(by_size):
        share = -(-left // (len(by_size) - number))
        ends[uri] = min(ends[uri], begins[uri] + share)
        left -= ends[uri] - begins[uri]
    return ends


def _most_rows(bound: Bound, row_bytes: int) -> int | None:
    bounds = [bound.rows, None if bound.size_bytes is None else bound.size_bytes // row_bytes]
    return min((most for most in bounds if most is not None), default=None)


def _parts(
    extents: Mapping[str, Extent], begins: Mapping[str, int], ends: Mapping[str, int], row_bytes: int
) -> Iterator[SourceSplit]:
    step = _PART_BYTES // row_bytes
    ranges = [
        [
            range_of(uri, extents[uri].stamp, a, min(a + step, ends[uri]), row_bytes)
            for a in range(begins[uri], ends[uri], step)
        ]
        for uri in sorted(extents)
    ]
    return (split for round_ in itertools.zip_longest(*ranges) for split in round_ if split is not None)


def range_of(uri: str, stamp: str, begin: int, end: int, row_bytes: int) -> SourceSplit:
    """Return a range of a partition's offsets as a split; the end is exclusive."""
    size = (end - begin) * row_bytes
    return SourceSplit(SourceObject(uri, size, stamp), begin, end, first=begin, planned_bytes=size)


def _change(uri: str, before: _ConsumedOffsets, now: Extent) -> str:
    if now.stamp != before.stamp:
        return f"{uri} was deleted and recreated"
    return f"{uri} has fewer records than were read" if now.end < before.next else ""


def _lost_offsets(uri: str, before: _ConsumedOffsets, now: Extent | None) -> str:
    """Return the consumed offsets that are no longer available; empty if all are."""
    if before.begin == before.next:
        return ""
    if now is None or now.stamp != before.stamp:
        return str(Gap(uri, before.begin, before.next))
    return str(Gap(uri, before.begin, min(now.begin, before.next))) if now.begin > before.begin else ""


def _known(cursor: Cursor) -> dict[str, _ConsumedOffsets]:
    partitions: Mapping[str, Any] = cursor.of_kind(KIND)["partitions"]
    return {uri: _ConsumedOffsets(*fields) for uri, fields in partitions.items()}


def _cursor(consumed: Mapping[str, _ConsumedOffsets]) -> Cursor:
    return Cursor(KIND, {"partitions": {uri: [c.begin, c.next, c.stamp] for uri, c in sorted(consumed.items())}})
