"""How far event time is: pure decisions on what came of each partition, and when.

partition 0   ──●──●────●──────●            latest 12:09
partition 1   ──●───●─────●                 latest 12:06   ← holds the others back
partition 2   ──●                           idle           ← does not, where idle_after= says so
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
"""All partitions of an input whose event time is one."""


@dataclass(frozen=True)
class InputArrivals:
    """What an epoch brought of an input: the next offsets, and the latest event time of each partition that had rows."""

    offsets: Mapping[str, int]
    latest: Mapping[str, int]
    behind: frozenset[str] = frozenset()
    """Partitions that hold more than was taken: they are not idle, whatever the clock says."""
    has_ended: bool = False
    is_one: bool = False
    """Whether event time goes through all partitions one after the other, as through the files of a folder."""


def advanced(before: InputProgress, arrived: InputArrivals, how: EventTime, now: int) -> InputProgress:
    """Return an input's progress after an epoch; `now` is in microseconds since 1970.

    The watermark is the least of the latest event times of the partitions, less the lateness: it never passes what a
    partition may still deliver. With `idle_after`, partitions from which nothing came for so long do not count, nor does
    one that never had a row after that time. When all are idle and what came last happened about when it came, time goes
    on by the clock from there, so that windows close; of rows that are read long after they happened, it stands. It
    never goes back; at the end of a log that ends it is `END`.
    """
    partitions = _seen(before, arrived, now, how.ahead // _MICRO)
    offsets = {**before.offsets, **arrived.offsets}
    behind = frozenset({_ALL}) if arrived.is_one and arrived.behind else arrived.behind
    active = _active(partitions, behind, how, now)
    watermark = END if arrived.has_ended else max(before.watermark, _watermark(partitions, active, how, now))
    is_idle = not active and not arrived.has_ended
    return replace(before, offsets=offsets, partitions=partitions, watermark=watermark, is_idle=is_idle)


def of_all(inputs: Iterable[InputProgress]) -> int:
    """Return the watermark of several inputs together: the least of those that are not idle.

    When all are, it is the least of those that ever had a row.
    """
    progresses = list(inputs)
    counted = [reached for reached in progresses if not reached.is_idle] or [r for r in progresses if _has_rows(r)]
    return min((reached.watermark for reached in counted), default=-END)


def holding_back(reached: InputProgress, behind: frozenset[str], how: EventTime, now: int) -> tuple[str, ...]:
    """Return the partitions of an input for which its watermark waits: those without a row, else the slowest."""
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
    """Return the least value; a partition of which nothing is known yet could hold anything."""
    known = list(values)
    return -END if None in known else min(value for value in known if value is not None)
