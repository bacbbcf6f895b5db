"""The base class of streams whose system does not tell whether a stream was created again: the last record that was read is checked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pipeline.connectors.log_batches import KIND, plan_log
from pipeline.connectors.streams.record_stream import RecordStream
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.sources import Extent

_RECORD_BYTES = 300
"""Assumed size of a record for planning."""
_AGAIN = "created again"
_LAST = "last"
"""In a cursor: what identifies the last record of each stream that was read."""


@dataclass(frozen=True, kw_only=True)
class CheckedStream(RecordStream):
    """Streams whose cursor has the identity of the last record that was read of each."""

    @abstractmethod
    def identity(self, name: str, position: int) -> str | None:
        """Return what identifies a record; `None` if it is not known, or if it was removed."""

    @abstractmethod
    def has_record(self, name: str, position: int, identity: str) -> bool:
        """Return whether a stream, which begins before the position, has this record there."""

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Return the ranges of each stream beyond the cursor; a stream without the last record that was read has changed."""
        before = {} if cursor is None else _read(cursor)
        plan = plan_log(_CheckedLog(self, before), cursor, bound, row_bytes=_RECORD_BYTES)
        partitions: Mapping[str, Any] = plan.cursor.value["partitions"]
        last: dict[str, str] = {}
        for name in self.streams:
            uri = self.uri(name)
            begin, end, _ = partitions[uri]
            position, identity = before.get(uri, (-1, None))
            if position != end - 1:
                identity = self.identity(name, end - 1) if end > begin else None
            if identity is not None:
                last[uri] = identity
        return replace(plan, cursor=Cursor(KIND, {**plan.cursor.value, _LAST: last}))


def _read(cursor: Cursor) -> Mapping[str, tuple[int, str | None]]:
    """Return for each stream the position of the last record that was read, and what identifies it."""
    value = cursor.of_kind(KIND)
    return {uri: (after - 1, value.get(_LAST, {}).get(uri)) for uri, (_, after, _) in value["partitions"].items()}


@dataclass(frozen=True)
class _CheckedLog:
    """Streams as a log; the stamp of a stream that is no longer the one that was read differs."""

    streams: CheckedStream
    before: Mapping[str, tuple[int, str | None]]

    def extents(self) -> Mapping[str, Extent]:
        extents = self.streams.extents()
        return {
            uri: self._checked(name, extents[uri]) for name in self.streams.streams if (uri := self.streams.uri(name))
        }

    def _checked(self, name: str, extent: Extent) -> Extent:
        position, identity = self.before.get(self.streams.uri(name), (-1, None))
        if identity is None or position < extent.begin:
            return extent
        is_same = position < extent.end and self.streams.has_record(name, position, identity)
        return extent if is_same else replace(extent, stamp=_AGAIN)

    def offsets_at(self, time: datetime) -> Mapping[str, int]:
        return self.streams.offsets_at(time)
