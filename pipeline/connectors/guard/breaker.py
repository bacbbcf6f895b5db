"""The circuit breaker of a system: pure decisions, with the time passed in.

closed     calls are made; `failures` of the last `of` calls open it
open       no calls are made until a time, which doubles with each opening
half open  one call, the probe, is made: it closes the breaker, or opens it again
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

BreakerState = Literal["closed", "open", "half open"]


@dataclass(frozen=True)
class BreakerRule:
    """When a breaker opens, and for how long."""

    failures: int = 5
    of: int = 10
    open_s: float = 5.0
    most_open_s: float = 120.0
    probe_s: float = 60.0
    """After this time without a result, the caller of a probe is assumed dead."""


@dataclass(frozen=True)
class Breaker:
    """The last results of calls to a system, and until when no calls are made."""

    rule: BreakerRule = BreakerRule()
    failed: tuple[bool, ...] = ()
    """Whether each of the last calls failed, oldest first."""
    open_until: float | None = None
    openings: int = 0
    """How often it opened without being closed."""
    probes: int = 0
    """The number of probes so far: a result counts only with the number of the current one."""
    probe_until: float | None = None

    def state(self, now: float) -> BreakerState:
        """Return the state at a time."""
        if self.open_until is None:
            return "closed"
        return "open" if now < self.open_until else "half open"

    def admit(self, now: float) -> tuple[Breaker, float, int]:
        """Return the breaker after a request, how long to wait (0: call now), and the number of the probe, otherwise 0."""
        if self.open_until is None:
            return self, 0.0, 0
        if now < self.open_until:
            return self, self.open_until - now, 0
        if self.probe_until is not None and now < self.probe_until:
            return self, self.probe_until - now, 0
        probing = replace(self, probes=self.probes + 1, probe_until=now + self.rule.probe_s)
        return probing, 0.0, probing.probes

    def report(self, now: float, *, failed: bool, probe: int = 0) -> Breaker:
        """Return the breaker after the result of a call; while it is not closed, only the current probe's result counts."""
        if self.open_until is not None:
            if probe != self.probes or self.probe_until is None:
                return self
            return self._opened(now) if failed else Breaker(self.rule, probes=self.probes)
        last = (*self.failed, failed)[-self.rule.of :]
        return self._opened(now) if sum(last) >= self.rule.failures else replace(self, failed=last)

    def _opened(self, now: float) -> Breaker:
        open_s = min(self.rule.open_s * 2.0**self.openings, self.rule.most_open_s)
        return replace(self, failed=(), open_until=now + open_s, openings=self.openings + 1, probe_until=None)
