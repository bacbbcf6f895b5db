"""How much a caller may ask for: token buckets, and quotas of a day. Counted in the process here; see `shared_limits`."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_MOST_CALLERS = 10_000
_MOST_DAYS = 100_000
DAY_S = 86_400.0


@dataclass(frozen=True)
class Limit:
    """A bucket that refills over time, or a quota that is new each day of UTC."""

    name: str
    """As `RateLimit` in responses names it."""
    of: str
    """Whose it is: each caller has its own."""
    capacity: int
    """How much it has when it is full."""
    per_second: float = 0.0
    """How much it gets each second; 0 for a quota, which is full again at midnight."""

    @property
    def is_daily(self) -> bool:
        """Whether it is a quota of a day."""
        return not self.per_second


@dataclass(frozen=True)
class Charge:
    """How much a request takes from a limit."""

    limit: Limit
    amount: int
    is_cost: bool = True
    """Whether it takes more if the request turns out to cost more; otherwise it counts requests."""


@dataclass(frozen=True)
class LimitState:
    """How much a limit has left, and the seconds until it is full again, or has enough for the request that was refused."""

    name: str
    remaining: int
    reset_s: float


@dataclass(frozen=True)
class Allowance:
    """Whether a request may pass, what its limits have left, and otherwise after how many seconds it may."""

    is_granted: bool
    states: tuple[LimitState, ...]
    retry_after_s: float = 0.0


class RateLimits:
    """The limits of the callers of a process. A request takes from all of its limits, or from none. Thread-safe."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, wall_clock: Callable[[], float] = time.time
    ) -> None:
        """Create full limits. `clock` returns seconds, `wall_clock` those since 1970, which decide when a day begins."""
        self._clock = clock
        self._wall_clock = wall_clock
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()
        self._days: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def is_empty(self, limit: Limit) -> bool:
        """Return whether a limit has nothing left now, without counting anything."""
        with self._lock:
            return self._level(limit) < 1

    def take(self, charges: Sequence[Charge]) -> Allowance:
        """Take what a request costs."""
        with self._lock:
            levels = [self._level(charge.limit) - charge.amount for charge in charges]
            is_granted = min(levels) >= 0
            if is_granted:
                for charge, level in zip(charges, levels, strict=True):
                    self._put(charge.limit, level)
            else:
                levels = [self._level(charge.limit) for charge in charges]
            day_s = DAY_S - self._wall_clock() % DAY_S
        return allowance(charges, levels, day_s, is_granted=is_granted)

    def charge(self, charges: Sequence[Charge]) -> None:
        """Take what a request that was answered has cost more, also if there is not so much: later requests wait for it."""
        with self._lock:
            for charge in charges:
                self._put(charge.limit, self._level(charge.limit) - charge.amount)

    def _level(self, limit: Limit) -> float:
        if limit.is_daily:
            level, day = self._days.get((limit.name, limit.of), (float(limit.capacity), self._day()))
            return min(level, float(limit.capacity)) if day == self._day() else float(limit.capacity)
        now = self._clock()
        level, at = self._buckets.get((limit.name, limit.of), (float(limit.capacity), now))
        return min(float(limit.capacity), level + (now - at) * limit.per_second)

    def _put(self, limit: Limit, level: float) -> None:
        if limit.is_daily:
            levels, most, at = self._days, _MOST_DAYS, self._day()
        else:
            levels, most, at = self._buckets, _MOST_CALLERS, self._clock()
        key = (limit.name, limit.of)
        levels[key] = (level, at)
        levels.move_to_end(key)
        if len(levels) > most:
            levels.popitem(last=False)

    def _day(self) -> float:
        return self._wall_clock() // DAY_S


def allowance(charges: Sequence[Charge], levels: Sequence[float], day_s: float, *, is_granted: bool) -> Allowance:
    """Return the allowance of a request whose limits have these levels; the day ends in `day_s` seconds."""
    states, waits = [], [0.0]
    for charge, level in zip(charges, levels, strict=True):
        limit, is_short = charge.limit, not is_granted and level < charge.amount
        missing = charge.amount - level if is_short else limit.capacity - level
        reset_s = day_s if limit.is_daily else missing / limit.per_second
        states.append(LimitState(limit.name, max(0, math.floor(level)), reset_s))
        if is_short:
            waits.append(reset_s)
    return Allowance(is_granted, tuple(states), max(waits))
