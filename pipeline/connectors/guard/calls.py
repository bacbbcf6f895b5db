"""Calls of a system under its guard: the rate limit, the circuit breaker, and retries of temporary failures.

    orders = guarded("postgres://db.example.com").call(lambda: driver.read(query), what="the table 'orders'")

Switch the retries of a driver off before its calls are guarded, because the two multiply.
"""

from __future__ import annotations

import functools
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pipeline.connectors.guard.guard import Guard, GuardReport, TokenLease
from pipeline.connectors.guard.rates import Rate
from pipeline.core.clients import is_unavailable, message_of
from pipeline.core.errors import HeadwaterError, SourceUnavailableError, UnavailableError
from pipeline.core.logs import logger

log = logger(__name__)
R = TypeVar("R")


@dataclass(frozen=True)
class Temporary:
    """A failure after which the same call may succeed."""

    after_s: float = 0.0
    """How long the system asked to wait, for all callers."""
    is_failure: bool = True
    """Whether the system is failing; one that only asks to wait is not, and does not open the circuit breaker."""


def temporary_of(error: Exception) -> Temporary | None:
    """Return how an error is retried, None if it is permanent: errors of this package by type, others by their text."""
    if isinstance(error, HeadwaterError):
        return Temporary() if isinstance(error, UnavailableError) else None
    return Temporary() if is_unavailable(error) else None


@dataclass(frozen=True)
class RetryRule:
    """How often a call is tried, and for how long: `deadline_s` includes all waiting, but not the last try itself."""

    attempts: int = 6
    deadline_s: float = 120.0
    first_s: float = 0.25
    most_s: float = 15.0

    def wait_s(self, attempt: int, chance: float) -> float:
        """Return the time before the next try: doubled with each attempt, and shortened by up to half at random."""
        return float(min(self.first_s * 2.0 ** (attempt - 1), self.most_s) * (1 - chance / 2))


class SystemGuard(Protocol):
    """A guard in this process, or the proxy of one in an actor."""

    def reserve(self, name: str, rate: Rate | None, tokens: int, most_wait_s: float) -> TokenLease:
        """Return a lease, or one without tokens."""

    def report(self, name: str, *, failed: bool, probe: int = 0, pause_s: float = 0.0, why: str = "") -> None:
        """Record the result of a call."""

    def pause(self, name: str, pause_s: float) -> None:
        """Record for how long a system asked for no calls."""

    def reports(self) -> Mapping[str, GuardReport]:
        """Return the state of each system."""


def _chance() -> float:
    return random.random()  # noqa: S311 - spreads retries


@dataclass(frozen=True)
class CallClock:
    """Time and chance, passed in so that tests can control them."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = _chance


@dataclass(frozen=True)
class Guarded:
    """The calls of one system. Create it with `guarded`; it can be pickled, and its guard is that of the process."""

    system: str
    rate: Rate | None = None
    retries: RetryRule = RetryRule()
    guard: SystemGuard | None = None
    """None for the guard of this process, or of its Ray cluster."""
    clock: CallClock = CallClock()

    def call(
        self,
        function: Callable[[], R],
        what: str,
        temporary: Callable[[Exception], Temporary | None] = temporary_of,
    ) -> R:
        """Call a function, which may be called several times, and return its result; `what` it reads is shown in errors.

        Waits for the rate limit. Errors that are temporary are retried; other errors are raised unchanged at once.
        Raises `SourceUnavailableError` after the last attempt, or if the next one could not begin before the deadline.
        """
        give_up = self.clock.monotonic() + self.retries.deadline_s
        attempt = 0
        while True:
            attempt += 1
            probe = self._admit(give_up, what)
            try:
                result = function()
            except Exception as error:
                again = temporary(error)
                has_failed, pause_s = again is not None and again.is_failure, 0.0 if again is None else again.after_s
                self._guard().report(
                    self.system, failed=has_failed, probe=probe, pause_s=pause_s, why=message_of(error)
                )
                if again is None:
                    raise
                wait_s = max(again.after_s, self.retries.wait_s(attempt, self.clock.chance()))
                if attempt >= self.retries.attempts or self.clock.monotonic() + wait_s > give_up:
                    raise _gave_up(what, error, attempt) from error
                log.info("call will be tried again", system=self.system, attempt=attempt, error=message_of(error))
                self.clock.sleep(wait_s)
            else:
                self._guard().report(self.system, failed=False, probe=probe)
                return result

    def pause(self, seconds: float) -> None:
        """Make no calls for some time, because a successful response said that the limit is used up."""
        self._guard().pause(self.system, seconds)

    def _admit(self, give_up: float, what: str) -> int:
        """Wait until a call may be made, and return the number of the probe, if it is one."""
        while True:
            left_s = max(0.0, give_up - self.clock.monotonic())
            lease = self._guard().reserve(self.system, self.rate, 1, left_s)
            if lease.tokens:
                if lease.wait_s > 0:
                    self.clock.sleep(lease.wait_s)
                return lease.probe
            if lease.wait_s > left_s:
                raise SourceUnavailableError(
                    f"{what} was not called: {lease.reason}",
                    got=f"{self.system}, for another {lease.wait_s:,.0f} s",
                    do="try again later",
                )
            self.clock.sleep(lease.wait_s)

    def _guard(self) -> SystemGuard:
        return self.guard or guard_here()


def guarded(system: str, rate: Rate | str | None = None, retries: RetryRule | None = None) -> Guarded:
    """Return the guarded calls of a system, which is named by its address without credentials.

    All callers of a system in a process, or on a Ray cluster, share its rate limit (`10/s`, `100/min`) and its circuit
    breaker, which opens after 5 temporary failures of the last 10 calls. Raises `DefinitionError` for an invalid rate.
    """
    limit = Rate.of(rate) if isinstance(rate, str) else rate
    return Guarded(system, limit, retries or RetryRule())


@functools.cache
def local_guard() -> Guard:
    """Return the guard of this process."""
    return Guard()


_CONNECTING = threading.Lock()


def guard_here() -> SystemGuard:
    """Return the guard of the Ray cluster if this process is connected to one, otherwise of this process."""
    ray = sys.modules.get("ray")  # importing Ray takes seconds, and without it this process has no cluster
    if ray is None or not ray.is_initialized():
        return local_guard()
    from pipeline.connectors.guard.actor import cluster_guard  # noqa: PLC0415 - imports Ray

    with _CONNECTING:
        return cluster_guard()


def _gave_up(what: str, error: Exception, attempts: int) -> SourceUnavailableError:
    tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    return SourceUnavailableError(f"{what} could not be read in {tries}", got=message_of(error), do="try again later")
