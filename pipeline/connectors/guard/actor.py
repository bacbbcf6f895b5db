"""The guard of a Ray cluster: one named actor, which ends itself when it is idle, and whose death loses no limit.

Workers lease tokens in advance, so that they need not ask for each call. Without the actor, each worker limits itself to
its share of the rate, and asks again for the actor after some seconds.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray

from pipeline.connectors.guard.guard import Guard, GuardReport, TokenLease
from pipeline.connectors.guard.rates import Rate
from pipeline.core.logs import logger

log = logger(__name__)
NAME, NAMESPACE = "guard", "headwater"
_IDLE_S = 600.0
_ANSWER_S = 10.0
_AGAIN_S = 5.0
"""How long a worker limits itself before it asks for the actor again."""
_MOST_TOKENS = 64
"""Maximum number of tokens that a worker leases at once."""


class GuardActor:
    """A `Guard` in an actor. Its first tokens come with time, because those of a dead predecessor may still be in use."""

    def __init__(self, idle_s: float = _IDLE_S) -> None:
        """Start, and end this actor after a time without calls."""
        self._guard, self._idle_s, self._called_at = Guard(starts_empty=True), idle_s, time.monotonic()
        threading.Thread(target=self._end_when_idle, daemon=True).start()

    def reserve(self, name: str, rate: Rate | None, tokens: int, most_wait_s: float) -> TokenLease:
        """See `Guard.reserve`."""
        self._called_at = time.monotonic()
        return self._guard.reserve(name, rate, tokens, most_wait_s)

    def report(self, name: str, failed: bool, probe: int, pause_s: float, why: str) -> None:  # noqa: FBT001 - called by Ray
        """See `Guard.report`."""
        self._called_at = time.monotonic()
        self._guard.report(name, failed=failed, probe=probe, pause_s=pause_s, why=why)

    def pause(self, name: str, pause_s: float) -> None:
        """See `Guard.pause`."""
        self._guard.pause(name, pause_s)

    def reports(self) -> Mapping[str, GuardReport]:
        """See `Guard.reports`."""
        return self._guard.reports()

    def _end_when_idle(self) -> None:
        while (left_s := self._called_at + self._idle_s - time.monotonic()) > 0:
            time.sleep(left_s)
        ray.kill(ray.get_runtime_context().current_actor)


@dataclass(frozen=True)
class LeasedTokens:
    """The tokens that a worker has left of a lease, and when they can be used."""

    left: int
    ready_at: float
    valid_until: float
    wanted: int
    """How many tokens were leased."""

    def next_wanted(self, now: float) -> int:
        """Return how many tokens to lease next: twice as many if these were used up in time, otherwise what was used."""
        if self.left == 0 and now <= self.valid_until:
            return min(self.wanted * 2, _MOST_TOKENS)
        return max(1, self.wanted - self.left)


class ClusterGuard:
    """The proxy of the actor in one process. Thread-safe."""

    def __init__(self, actor: Callable[[], Any], clock: Callable[[], float] = time.monotonic) -> None:
        """Create the proxy; `actor` returns the handle of the actor, and creates the actor if there is none."""
        self._find, self._clock, self._lock = actor, clock, threading.Lock()
        self._actor: Any = None
        self._leased: dict[str, LeasedTokens] = {}
        self._alone: Guard | None = None
        self._alone_until = float("-inf")

    def reserve(self, name: str, rate: Rate | None, tokens: int, most_wait_s: float) -> TokenLease:
        """Return a lease of one token, from those of this process if it has some left."""
        del tokens
        with self._lock:
            now, leased = self._clock(), self._leased.get(name)
            if leased is not None and leased.left and now < leased.valid_until:
                self._leased[name] = replace(leased, left=leased.left - 1)
                return TokenLease(1, max(0.0, leased.ready_at - now), leased.valid_until - now)
            wanted = 1 if leased is None else leased.next_wanted(now)
            lease = self._lease(name, rate, wanted, most_wait_s)
            if lease.tokens:
                ready_at = now + lease.wait_s
                self._leased[name] = LeasedTokens(lease.tokens - 1, ready_at, ready_at + lease.valid_s, wanted)
            return replace(lease, tokens=min(lease.tokens, 1))

    def report(self, name: str, *, failed: bool, probe: int = 0, pause_s: float = 0.0, why: str = "") -> None:
        """Record the result of a call, without waiting for the actor."""
        with self._lock:
            if failed or pause_s:
                self._leased.pop(name, None)
            if self._clock() < self._alone_until and self._alone is not None:
                self._alone.report(name, failed=failed, probe=probe, pause_s=pause_s, why=why)
            else:
                with contextlib.suppress(ray.exceptions.RayError):  # the next request notices it too
                    self._ask("report", name, failed, probe, pause_s, why)

    def pause(self, name: str, pause_s: float) -> None:
        """Record for how long a system asked for no calls, without waiting for the actor."""
        with self._lock:
            self._leased.pop(name, None)
            if self._alone is not None:
                self._alone.pause(name, pause_s)
            with contextlib.suppress(ray.exceptions.RayError):
                self._ask("pause", name, pause_s)

    def reports(self) -> Mapping[str, GuardReport]:
        """Return the state of each system; none if the cluster has no guard, or if it does not answer."""
        try:
            actor: Any = ray.get_actor(NAME, NAMESPACE)
            found: Mapping[str, GuardReport] = ray.get(actor.reports.remote(), timeout=_ANSWER_S)
        except (ValueError, ray.exceptions.RayError):
            return {}
        return found

    def _lease(self, name: str, rate: Rate | None, wanted: int, most_wait_s: float) -> TokenLease:
        if self._clock() >= self._alone_until:
            try:
                lease: TokenLease = ray.get(self._ask("reserve", name, rate, wanted, most_wait_s), timeout=_ANSWER_S)
            except ray.exceptions.RayError as error:
                self._actor, self._alone_until = None, self._clock() + _AGAIN_S
                log.warning("the guard of the cluster does not answer", error=str(error).partition("\n")[0])
            else:
                self._alone = None
                return lease
        self._alone = self._alone or Guard(self._clock, starts_empty=True)
        share = None if rate is None else rate.shared_by(_most_workers())
        return self._alone.reserve(name, share, 1, most_wait_s)

    def _ask(self, method: str, *arguments: Any) -> Any:
        if self._actor is None:
            self._actor = self._find()
        return getattr(self._actor, method).remote(*arguments)


def _most_workers() -> int:
    """Return how many workers may call a system at the same time: one for each core of the cluster."""
    try:
        return max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]  # Ray is untyped
    except ray.exceptions.RayError:
        return _MOST_TOKENS


@functools.cache
def cluster_guard() -> ClusterGuard:
    """Return the proxy of the cluster's guard."""
    return ClusterGuard(_named_actor)


def _named_actor() -> Any:
    remote: Any = ray.remote(GuardActor)
    options = {"name": NAME, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True, "num_cpus": 0}
    return remote.options(**options).remote()
