"""How many requests a caller may send: a token bucket for each."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

_MOST_CALLERS = 10_000


@dataclass(frozen=True)
class RequestRate:
    """So many requests a second over time, and so many at once."""

    per_second: float
    burst: int


@dataclass(frozen=True)
class Allowance:
    """Whether a request may pass, how many more may at once, and the seconds until the bucket is full, or has one again."""

    is_granted: bool
    remaining: int
    reset_s: float


class RateLimits:
    """The buckets of the callers of a process. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Create full buckets. `clock` returns seconds."""
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def is_empty(self, caller: str, rate: RequestRate) -> bool:
        """Return whether a caller may send nothing now, without counting anything."""
        with self._lock:
            level, at = self._buckets.get(caller, (float(rate.burst), self._clock()))
        return level + (self._clock() - at) * rate.per_second < 1

    def take(self, caller: str, rate: RequestRate) -> Allowance:
        """Take a request from the bucket of a caller."""
        now = self._clock()
        with self._lock:
            level, at = self._buckets.pop(caller, (float(rate.burst), now))
            level = min(float(rate.burst), level + (now - at) * rate.per_second)
            is_granted = level >= 1
            level -= is_granted
            self._buckets[caller] = (level, now)
            if len(self._buckets) > _MOST_CALLERS:
                self._buckets.popitem(last=False)
        missing = rate.burst - level if is_granted else 1 - level
        return Allowance(is_granted, int(level), missing / rate.per_second)
