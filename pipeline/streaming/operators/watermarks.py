"""Watermarks: pure functions of the latest event time of each partition and of arrival times.

partition 0   ──●──●────●──────●            latest 12:09
partition 1   ──●───●─────●                 latest 12:06   ← holds the watermark back
partition 2   ──●                           idle           ← is excluded if idle_after= is set
                           ╵
                watermark 12:06 - lateness
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from pipeline.core.epochs import END, InputProgress, PartitionProgress
from pipeline.core.event_time import EventTime

_MICRO = timedelta(microseconds=1)
_ALL = "*"
"""Stands for all partitions of an input whose partitions are read in sequence."""


@dataclass(frozen=True)
class InputArrivals:
    """What a micro-batch read of an input: the next offsets, and the latest event time of each partition with rows."""

    offsets: Mapping[str, int]
    latest: Mapping[str, int]
    behind: frozenset[str] = frozenset()
    """Partitions with more records than were read. They are never idle."""
    has_ended: bool = False
    is_one: bool = False
    """Whether the partitions are read in sequence and share one watermark, like the files of a folder."""


def advanced(before: InputProgress, arrived: InputArrivals, how: EventTime, now: int) -> InputProgress:
    """Return an input's progress after a micro-batch. `now` is in microseconds since 1970.

    The watermark is the minimum over the partitions of the latest event time, minus the lateness, so that it never
    passes a row that a partition may still deliver. With `idle_after`, partitions without rows for that long are
    excluded, including those that never had a row. If all partitions are idle and the last rows arrived close to their
    event time, the watermark advances with the clock, so that windows close. For rows that are read long after their
    event time, it does not. The watermark never decreases. When the log has ended, it is `END`.
    """
    partitions = _seen(before, arrived, now, how.ahead // _MICRO)
    offsets = {**before.offsets, **arrived.offsets}
    behind = frozenset({_ALL}) if arrived.is_one and arrived.behind else arrived.behind
    active = _active(partitions, behind, how, now)
    watermark = END if arrived.has_ended else max(before.watermark, _watermark(partitions, active, how, now))
    is_idle = not active and not arrived.has_ended
    return replace(before, offsets=offsets, partitions=partitions, watermark=watermark, is_idle=is_idle)


def of_all(inputs: Iterable[InputProgress]) -> int:
    """Return the watermark of several inputs: the minimum over those that are not idle.

    If all are idle, it is the minimum over those that ever had a row.
    """
    progresses = list(inputs)
    counted = [reached for reached in progresses if not reached.is_idle] or [r for r in progresses if _has_rows(r)]
    return min((reached.watermark for reached in counted), default=-END)


def holding_back(reached: InputProgress, behind: frozenset[str], how: EventTime, now: int) -> tuple[str, ...]:
    """Return the partitions that hold back the watermark of an input: those without a row, otherwise the slowest."""
    active = _active(reached.partitions, behind, how, now)
    empty = tuple(sorted(uri for uri, seen in active.items() if seen.latest is None))
    if empty or not active:
        return empty
    least = min(seen.latest for seen in active.values() if seen.latest is not None)
    return tuple(sorted(uri for uri, seen in active.items() if seen.latest == least))


def _has_rows(reached: InputProgress) -> bool:
    return any(seen.latest is not None for seen in reached.partitions.values())


def _seen(before: InputProgress, arrived: InputArrivals, now: int, about: int) -> dict[str, PartitionProgress]:
    partitions = dict(before.partitions)
    latest_by_partition = {_ALL: max(arrived.latest.values(), default=None)} if arrived.is_one else arrived.latest
    for uri in (_ALL,) if arrived.is_one else (*arrived.offsets, *arrived.latest):
        latest = latest_by_partition.get(uri)
        known = partitions.get(uri)
        if known is None:
            partitions[uri] = PartitionProgress(latest, now, _is_live(latest, now, about))
        elif latest is not None:
            latest = latest if known.latest is None else max(latest, known.latest)
            partitions[uri] = PartitionProgress(latest, now, _is_live(latest, now, about))
    return partitions


def _is_live(latest: int | None, now: int, about: int) -> bool:
    return latest is not None and abs(now - latest) <= about


def _active(
    partitions: Mapping[str, PartitionProgress], behind: frozenset[str], how: EventTime, now: int
) -> dict[str, PartitionProgress]:
    """Return the partitions that hold the watermark back."""
    if how.idle_after is None:
        return dict(partitions)
    patience = how.idle_after // _MICRO
    return {uri: seen for uri, seen in partitions.items() if uri in behind or now - seen.at < patience}


def _watermark(
    partitions: Mapping[str, PartitionProgress], active: Mapping[str, PartitionProgress], how: EventTime, now: int
) -> int:
    lateness = how.lateness // _MICRO
    if active:
        return _least(seen.latest for seen in active.values()) - lateness
    known = [seen for seen in partitions.values() if seen.latest is not None]
    if not known or how.idle_after is None:
        return -END
    latest = max(seen.latest for seen in known if seen.latest is not None)
    silent = now - max(seen.at for seen in known) - how.idle_after // _MICRO
    is_live = any(seen.is_live for seen in known if seen.latest == latest)
    return latest - lateness + (silent if is_live else 0)


def _least(values: Iterable[int | None]) -> int:
    """Return the minimum; a partition without a known time makes it `-END`, because it may hold rows of any time."""
    known = list(values)
    return -END if None in known else min(value for value in known if value is not None)
