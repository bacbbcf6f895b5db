"""Callers that show a certificate: the settings say which names may do what."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.core.serve_settings import CertificateRights
from pipeline.governance.api_keys import require_scope
from serve.access.caller import Caller
from serve.http_errors import UnauthenticatedError

CERTIFICATE = "headwater.certificate"
"""Where the scope of a request has the certificate that its client showed."""


@dataclass(frozen=True)
class ClientCertificate:
    """What a certificate says that was verified when its connection was made."""

    names: tuple[str, ...]
    """The URIs and hosts of its subject alternative name."""
    ends_at: float
    """In seconds since 1970."""


class Certificates:
    """The callers that the settings name. Thread-safe."""

    def __init__(self, rights: Mapping[str, CertificateRights], clock: Callable[[], float] = time.time) -> None:
        """Map names to what they may do; raise `RequestError` for an unknown scope. `clock` returns seconds since 1970."""
        self._clock = clock
        for scope in (scope for each in rights.values() for scope in each.scopes):
            require_scope(scope)
        self._callers = {
            name: Caller(name, "certificate", name, frozenset(each.roles), each.scopes, each.claims)
            for name, each in rights.items()
        }

    def caller(self, certificate: ClientCertificate) -> Caller:
        """Return the caller; raise `UnauthenticatedError` for a certificate without a name of the settings, and an expired one."""
        if self._clock() >= certificate.ends_at:
            raise UnauthenticatedError("the certificate of the client has expired", do="connect with a new one")
        known = next((name for name in certificate.names if name in self._callers), None)
        if known is None:
            raise UnauthenticatedError(
                "the certificate of the client has no name that is known",
                got=", ".join(certificate.names)[:200] or "no URI or host",
                do="name it in `serve.certificates` of the settings, or send a key",
            )
        return self._callers[known]
