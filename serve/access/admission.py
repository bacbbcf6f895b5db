"""What every request passes, whatever protocol it came by: who calls, whether it may now, and the record of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from serve.access.audit import AuditLog
from serve.access.authentication import Authenticator
from serve.access.authorization import Authorizer
from serve.access.caller import ANONYMOUS, Caller
from serve.access.certificates import ClientCertificate
from serve.access.rate_limits import Allowance, RateLimits, RequestRate
from serve.http_errors import BusyError, TooManyError, UnauthenticatedError


@dataclass
class RequestContext:
    """A request and what becomes of it: handlers read the caller, and add what the cache and the audit log need."""

    request_id: str
    caller: Caller
    rights: str
    """The SHA-256 of what decides what the caller sees."""
    begun: float
    etag: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    """The tables that the response is made of, each with the identity of its newest version."""
    is_cacheable: bool = False
    facts: dict[str, object] = field(default_factory=dict)
    """What the audit log records, for example the table and its policy."""

    def keep(self, etag: str, versions: Iterable[tuple[str, str]]) -> None:
        """Let the cache keep the response, and return it while these are the newest versions of its tables."""
        self.etag, self.versions, self.is_cacheable = etag, tuple(versions), True


class Admission:
    """Checks requests, and records them. Thread-safe."""

    def __init__(
        self,
        authenticator: Authenticator,
        authorizer: Authorizer,
        audit: AuditLog,
        rate: RequestRate,
        anonymous_rate: RequestRate,
    ) -> None:
        """Use the rates for each caller, and for each address without a key."""
        self.authenticator = authenticator
        self._authorizer = authorizer
        self._audit = audit
        self._rate = rate
        self._anonymous_rate = anonymous_rate
        self._limits = RateLimits()

    def require_record(self) -> None:
        """Raise `BusyError` while requests cannot be recorded."""
        if not self._audit.is_writable:
            raise BusyError("requests cannot be recorded", do="try again later")

    def known(self, authorization: str | None, address: str) -> Caller | None:
        """Return the caller if it is known without waiting, otherwise `None`; raises as `caller` does."""
        try:
            return self.authenticator.known(authorization)
        except UnauthenticatedError:
            self.take(ANONYMOUS, address)
            raise

    def caller(self, authorization: str | None, address: str) -> Caller:
        """Return the caller; see `Authenticator.caller`.

        Keys that are not valid count as requests of the address without a key: after too many, none from there is checked, and
        `TooManyError` is raised.
        """
        try:
            known = self.authenticator.known(authorization)
            if known is not None or authorization is None:
                return known or ANONYMOUS
            known = self.authenticator.refreshed(authorization)
            if known is not None:
                return known
            if self._limits.is_empty(f"address {address}", self._anonymous_rate):
                raise TooManyError("there are too many requests without a valid key", do="check the key, and wait")
            return self.authenticator.caller(authorization)
        except UnauthenticatedError:
            self.take(ANONYMOUS, address)
            raise

    def caller_of_certificate(self, certificate: ClientCertificate, address: str) -> Caller:
        """Return the caller whose connection showed a certificate; raise `UnauthenticatedError` if its names are unknown."""
        try:
            return self.authenticator.certificates.caller(certificate)
        except UnauthenticatedError:
            self.take(ANONYMOUS, address)
            raise

    def rights(self, caller: Caller) -> str:
        """Return the SHA-256 of what decides what a caller sees."""
        return self._authorizer.fingerprint(caller)

    def take(self, caller: Caller, address: str) -> Allowance:
        """Count a request of a caller, by its address if nothing else is known of it."""
        if caller.is_anonymous:
            return self._limits.take(f"address {address}", self._anonymous_rate)
        return self._limits.take(f"{caller.kind} {caller.id}", self._rate)

    def record(self, context: RequestContext, method: str, path: str, outcome: Mapping[str, object]) -> None:
        """Record a request that was answered; `outcome` is its status and how much was sent."""
        caller = context.caller
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
