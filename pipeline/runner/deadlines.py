"""When each step of a run should end, so that the run ends within its deadline."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from statistics import fmean


class Deadlines:
    """The deadline of a run, divided between the steps that have not ended, by the time that each took last.

    A step that has never run is assumed to take as long as the others on average. Concurrent steps are divided as if they
    ran one after the other, so each asks for more cores than it may need. What a step does not use is left to the others.
    """

    def __init__(self, ends_at: float | None, last_s: Mapping[str, float | None]) -> None:
        """Create the deadlines of a run that should end at `ends_at`, in seconds since 1970, or as soon as possible."""
        self._ends_at = ends_at
        known = [seconds for seconds in last_s.values() if seconds]
        mean = fmean(known) if known else 1.0
        self._left = {name: seconds or mean for name, seconds in last_s.items()}

    def of(self, name: str, now: float, own: timedelta | None = None) -> float | None:
        """Return when a step that begins now should end; `own` is the deadline of its table."""
        ends = [] if own is None else [now + own.total_seconds()]
        if self._ends_at is not None:
            mine = self._left.get(name, 0.0)
            others = sum(seconds for other, seconds in self._left.items() if other != name)
            share = mine / (mine + others) if mine else 1.0
            ends.append(now + max(0.0, self._ends_at - now) * share)
        return min(ends, default=None)

    def ended(self, name: str) -> None:
        """Leave the time of a step to the others."""
        self._left.pop(name, None)
