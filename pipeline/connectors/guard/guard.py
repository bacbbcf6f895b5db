"""The guard: the rate limit and the circuit breaker of each system, shared by all callers of a process or a cluster.

`decide` and `reported` are pure. `Guard` holds their states under a lock; on Ray, one actor holds a `Guard` for all workers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from pipeline.connectors.guard.breaker import Breaker, BreakerState
from pipeline.connectors.guard.rates import Rate, TokenBucket

_UNLIMITED_S = 1.0
"""How long a lease is valid if no rate was declared."""


@dataclass(frozen=True)
class GuardedSystem:
    """What a guard knows about a system."""

    breaker: Breaker = field(default_factory=Breaker)
    bucket: TokenBucket | None = None
    """None if no limit was declared."""
    paused_until: float = float("-inf")
    """The system asked for no calls before this time."""
    calls: int = 0
    failures: int = 0
    """The number of calls that failed temporarily, which are tried again."""
    why: str = ""
    """The message of the last failure."""

    def paused(self, now: float, pause_s: float) -> GuardedSystem:
        """Return the system after it asked for no calls for some time; zero changes nothing."""
        return replace(self, paused_until=max(self.paused_until, now + pause_s)) if pause_s > 0 else self


@dataclass(frozen=True)
class TokenLease:
    """The permission for `tokens` calls, which may begin after `wait_s`, within `valid_s` from then on.

    Without tokens, no call may be made; try again after `wait_s`. `probe` is the number to report with the result.
    """

    tokens: int
    wait_s: float
    valid_s: float = 0.0
    probe: int = 0
    reason: str = ""
    """Why there are no tokens."""


@dataclass(frozen=True)
class GuardReport:
    """The state of a system, as shown to users."""

    state: BreakerState
    paused_s: float
    """How long no calls will be made, because the system asked for it."""
    calls: int = 0
    failures: int = 0
    """The number of calls that failed temporarily."""


def decide(
    system: GuardedSystem, now: float, rate: Rate | None, tokens: int, most_wait_s: float
) -> tuple[GuardedSystem, TokenLease]:
    """Return the system after a request for tokens, and the lease. A refused request changes nothing.

    The lowest rate that was declared for a system applies to all its callers.
    """
    breaker, open_s, probe = system.breaker.admit(now)
    if open_s:
        last = f", the last one: {system.why}" if system.why else ""
        return system, TokenLease(0, open_s, reason=f"the circuit breaker is open after repeated failures{last}")
    begin, bucket = max(now, system.paused_until), _bucket(system.bucket, rate, now)
    wanted, valid_s, ready = (1 if probe else tokens), _UNLIMITED_S, begin
    if bucket is not None:
        wanted = max(1, min(wanted, int(bucket.rate.at_once)))
        valid_s = bucket.rate.lease_s
        bucket, ready = bucket.reserve(begin, wanted)
    if ready - now > most_wait_s:
        why = "the system asked for a pause" if begin > now else "the rate limit is used up by other calls"
        return system, TokenLease(0, ready - now, reason=why)
    return replace(system, breaker=breaker, bucket=bucket), TokenLease(wanted, ready - now, valid_s, probe)


def _bucket(bucket: TokenBucket | None, rate: Rate | None, now: float) -> TokenBucket | None:
    if bucket is None or rate is None:
        return TokenBucket(rate, now) if bucket is None and rate is not None else bucket
    return bucket.limited(rate) if rate.per_s < bucket.rate.per_s else bucket


class Guard:
    """The guard of a process, or of a cluster as an actor. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, starts_empty: bool = False) -> None:
        """Start without knowledge; `starts_empty` if earlier calls are unknown: the first tokens then come with time."""
        self._clock, self._starts_empty = clock, starts_empty
        self._lock = threading.Lock()
        self._systems: dict[str, GuardedSystem] = {}

    def reserve(self, name: str, rate: Rate | None, tokens: int, most_wait_s: float) -> TokenLease:
        """Return a lease of up to `tokens` calls, or one without tokens if they could not begin within `most_wait_s`."""
        with self._lock:
            now = self._clock()
            system = self._systems.get(name, GuardedSystem())
            if system.bucket is None and rate is not None and self._starts_empty:
                system = replace(system, bucket=TokenBucket.empty(rate, now))
            self._systems[name], lease = decide(system, now, rate, tokens, most_wait_s)
            return lease

    def report(self, name: str, *, failed: bool, probe: int = 0, pause_s: float = 0.0, why: str = "") -> None:
        """Record the result of a call, why it failed, and for how long the system asked for no calls."""
        with self._lock:
            now = self._clock()
            system = self._systems.get(name, GuardedSystem())
            self._systems[name] = replace(
                system.paused(now, pause_s),
                breaker=system.breaker.report(now, failed=failed, probe=probe),
                calls=system.calls + 1,
                failures=system.failures + failed,
                why=why if failed else system.why,
            )

    def pause(self, name: str, pause_s: float) -> None:
        """Record for how long a system asked for no calls, beside the result of a call."""
        with self._lock:
            self._systems[name] = self._systems.get(name, GuardedSystem()).paused(self._clock(), pause_s)

    def reports(self) -> Mapping[str, GuardReport]:
        """Return the state of each system."""
        with self._lock:
            now = self._clock()
            return {
                name: GuardReport(
                    system.breaker.state(now), max(0.0, system.paused_until - now), system.calls, system.failures
                )
                for name, system in sorted(self._systems.items())
            }
