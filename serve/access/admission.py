"""What every request passes, whatever protocol it came by: who calls, whether it may now, and the record of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Protocol

from serve.access.audit import AuditLog
from serve.access.authentication import Authenticator
from serve.access.authorization import Authorizer
from serve.access.caller import ANONYMOUS, Caller
from serve.access.certificates import ClientCertificate
from serve.access.rate_limits import Allowance, Charge, RateLimits
from serve.access.request_limits import RequestLimits, further
from serve.access.sessions import SignedIn
from serve.http_errors import BusyError, TooManyError, UnauthenticatedError


@dataclass
class RequestContext:
    """A request and what becomes of it: handlers read the caller, and add what the cache and the audit log need."""

    request_id: str
    caller: Caller
    rights: str
    """The SHA-256 of what decides what the caller sees."""
    begun: float
    session: SignedIn | None = None
    """That of the browser from which the request comes."""
    etag: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    """The tables that the response is made of, each with the identity of its newest version."""
    is_cacheable: bool = False
    facts: dict[str, object] = field(default_factory=dict)
    """What the audit log records, for example the table and its policy."""
    charges: tuple[Charge, ...] = ()
    """What it was charged before it was answered."""
    allowance: Allowance | None = None
    """What its limits have left; `None` before they were asked."""
    further_cost: int = 0
    """What it costs in addition, beside that of its rows."""

    def keep(self, etag: str, versions: Iterable[tuple[str, str]]) -> None:
        """Let the cache keep the response, and return it while these are the newest versions of its tables."""
        self.etag, self.versions, self.is_cacheable = etag, tuple(versions), True


class SharedCounts(Protocol):
    """Counts the requests of all replicas; see `SharedLimits`."""

    @property
    def executor(self) -> Executor:
        """Where event loops wait for `take`."""

    def try_take(self, charges: Sequence[Charge]) -> Allowance | None:
        """Take what a request costs if that is known without waiting; otherwise return `None`."""

    def take(self, charges: Sequence[Charge]) -> Allowance:
        """Take what a request costs."""

    def charge(self, charges: Sequence[Charge]) -> None:
        """Take what an answered request has cost more."""


class Admission:
    """Checks requests, and records them. Thread-safe."""

    def __init__(
        self,
        authenticator: Authenticator,
        authorizer: Authorizer,
        audit: AuditLog,
        limits: RequestLimits,
        shared: SharedCounts | None = None,
    ) -> None:
        """Use limits, which are counted with other replicas if `shared` does that."""
        self.authenticator = authenticator
        self._authorizer = authorizer
        self._audit = audit
        self._limits = limits
        self._counts = RateLimits()
        self._shared = shared

    def require_record(self) -> None:
        """Raise `BusyError` while requests cannot be recorded."""
        if not self._audit.is_writable:
            raise BusyError("requests cannot be recorded", do="try again later")

    def known(self, authorization: str | None, address: str) -> Caller | None:
        """Return the caller if it is known without waiting, otherwise `None`; raises as `caller` does."""
        try:
            return self.authenticator.known(authorization)
        except UnauthenticatedError:
            self._count_refused(address)
            raise

    def caller(self, authorization: str | None, address: str) -> Caller:
        """Return the caller; see `Authenticator.caller`.

        Keys that are not valid are counted by their address: after too many, none from there is checked, and `TooManyError` is raised.
        """
        try:
            known = self.authenticator.known(authorization)
            if known is not None or authorization is None:
                return known or ANONYMOUS
            known = self.authenticator.refreshed(authorization)
            if known is not None:
                return known
            self.require_attempts(address)
            return self.authenticator.caller(authorization)
        except UnauthenticatedError:
            self._count_refused(address)
            raise

    def require_attempts(self, address: str) -> None:
        """Raise `TooManyError` after too many keys and sessions from an address that are not valid."""
        if self._counts.is_empty(self._limits.of_guesses(address)):
            raise TooManyError("there are too many requests without a valid key", do="check the key, and wait")

    def caller_of_certificate(self, certificate: ClientCertificate, address: str) -> Caller:
        """Return the caller whose connection showed a certificate; raise `UnauthenticatedError` if its names are unknown."""
        try:
            return self.authenticator.certificates.caller(certificate)
        except UnauthenticatedError:
            self._count_refused(address)
            raise

    def rights(self, caller: Caller) -> str:
        """Return the SHA-256 of what decides what a caller sees."""
        return self._authorizer.fingerprint(caller)

    def charges(self, caller: Caller, address: str, route: str) -> tuple[Charge, ...]:
        """Return what a request of a caller costs, who is counted by its address if nothing else is known of it."""
        return self._limits.charges(caller, address, route)

    async def admit(self, charges: Sequence[Charge]) -> Allowance:
        """Count a request that costs this."""
        if self._shared is None:
            return self._counts.take(charges)
        allowance = self._shared.try_take(charges)
        if allowance is None:
            loop = asyncio.get_running_loop()
            allowance = await loop.run_in_executor(self._shared.executor, self._shared.take, charges)
        return allowance

    def take(self, charges: Sequence[Charge]) -> Allowance:
        """Count a request that costs this; may wait for the other replicas' counts."""
        return (self._shared or self._counts).take(charges)

    def count_guess(self, address: str) -> None:
        """Count a session from an address that is not valid; the request is counted as one without a session."""
        self._counts.take([Charge(self._limits.of_guesses(address), 1)])

    def _count_refused(self, address: str) -> None:
        """Count a key from an address that is not valid, also as a request, because it is answered before others are counted."""
        self.count_guess(address)
        self._counts.take([Charge(self._limits.of_address(address), 1)])

    def record(self, context: RequestContext, method: str, path: str, outcome: Mapping[str, object]) -> None:
        """Record a request that was answered, and count what it has cost more; `outcome` is its status and how much was sent."""
        caller = context.caller
        more = further(context.charges, context.facts.get("rows"), context.further_cost)
        if more:
            (self._shared or self._counts).charge(more)
        self._audit.add(
            {
                "at": round(time.time(), 3),
                "request_id": context.request_id,
                "caller": caller.id,
                "caller_kind": caller.kind,
                "caller_name": caller.name,
                "method": method,
                "path": path[:1000],
                **outcome,
                "ms": round((time.perf_counter() - context.begun) * 1000, 1),
                **context.facts,
            }
        )
