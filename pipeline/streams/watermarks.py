"""How far event time is: pure decisions on what came of each partition, and when.

partition 0   ──●──●────●──────●            latest 12:09
partition 1   ──●───●─────●                 latest 12:06   ← holds the others back
partition 2   ──●                           idle           ← does not
                           ╵
                watermark 12:06 - lateness
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from pipeline.core.epochs import END, Reached, Seen
from pipeline.core.eventtime import EventTime

_MICRO = timedelta(microseconds=1)
_ALL = "*"
"""All partitions of an input whose event time is one."""


@dataclass(frozen=True)
class Arrived:
    """What an epoch brought of an input: the next offsets, and the latest event time of each partition that had rows."""

    offsets: Mapping[str, int]
    latest: Mapping[str, int]
    behind: frozenset[str] = frozenset()
    """Partitions that hold more than was taken: they are not idle, whatever the clock says."""
    has_ended: bool = False
    is_one: bool = False
    """Whether event time goes through all partitions one after the other, as through the files of a folder."""


def advanced(before: Reached, arrived: Arrived, how: EventTime, now: int) -> Reached:
    """Return an input's progress after an epoch; `now` is in microseconds since 1970.

    The watermark is the least of the latest event times of the partitions, less the lateness. Those from which
    nothing came for `idle_after` do not count, nor does one that never had a row after that time. When all are idle and
    what came last happened about when it came, time goes on by the clock from there, so that windows close; of rows that
    are told again long after they happened, it stands. It never goes back; at the end of a log that ends it is `END`.
    """
    partitions = _seen(before, arrived, now, how.ahead // _MICRO)
    offsets = {**before.offsets, **arrived.offsets}
    behind = frozenset({_ALL}) if arrived.is_one and arrived.behind else arrived.behind
    watermark = END if arrived.has_ended else max(before.watermark, _watermark(partitions, behind, how, now))
    return replace(before, offsets=offsets, partitions=partitions, watermark=watermark)


def _seen(before: Reached, arrived: Arrived, now: int, about: int) -> dict[str, Seen]:
    found = dict(before.partitions)
    came = {_ALL: max(arrived.latest.values(), default=None)} if arrived.is_one else arrived.latest
    for uri in (_ALL,) if arrived.is_one else (*arrived.offsets, *arrived.latest):
        latest = came.get(uri)
        known = found.get(uri)
        if known is None:
            found[uri] = Seen(latest, now, _is_live(latest, now, about))
        elif latest is not None:
            latest = latest if known.latest is None else max(latest, known.latest)
            found[uri] = Seen(latest, now, _is_live(latest, now, about))
    return found


def _is_live(latest: int | None, now: int, about: int) -> bool:
    return latest is not None and abs(now - latest) <= about


def _watermark(partitions: Mapping[str, Seen], behind: frozenset[str], how: EventTime, now: int) -> int:
    lateness, patience = how.lateness // _MICRO, how.idle_after // _MICRO
    active = [seen for uri, seen in partitions.items() if uri in behind or now - seen.at < patience]
    if active:
        return _least(seen.latest for seen in active) - lateness
    known = [seen for seen in partitions.values() if seen.latest is not None]
    if not known:
        return -END
    latest = max(seen.latest for seen in known if seen.latest is not None)
    silent = now - max(seen.at for seen in known) - patience
    is_live = any(seen.is_live for seen in known if seen.latest == latest)
    return latest - lateness + (silent if is_live else 0)


def _least(values: Iterable[int | None]) -> int:
    """Return the least value; a partition of which nothing is known yet could hold anything."""
    found = list(values)
    return -END if None in found else min(value for value in found if value is not None)
