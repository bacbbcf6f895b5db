"""TLS on ports of our own, and who the certificate of a client says that it is."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.core.errors import RequestError
from serve.access.certificates import CERTIFICATE, ClientCertificate
from serve.connection import ClientConnection


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of a server."""

    certificate: str
    """Its certificate, and those between it and its authority."""
    key: str
    client_ca: str | None = None
    """The authorities whose certificates clients may show; `None`: clients are not asked for one."""

    def context(self) -> ssl.SSLContext:
        """Return the context of a server that asks clients for no certificate; raise `RequestError` if a file cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        files = f"{self.certificate}, {self.key}"
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
            if self.client_ca is not None:
                files = self.client_ca
                context.load_verify_locations(self.client_ca)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            got = f"{files}: {error.strerror or error}" if isinstance(error, OSError) else f"{files}: {error}"
            raise RequestError(
                "the files for TLS cannot be used",
                got=got,
                do="pass PEM files: a certificate and its key without password",
            ) from error
        return context

    def options(self) -> Mapping[str, Any]:
        """Return uvicorn's options. A client may show no certificate; one that is shown must be valid."""
        asked = {"ssl_ca_certs": self.client_ca, "ssl_cert_reqs": ssl.CERT_OPTIONAL} if self.client_ca else {}
        return {"ssl_certfile": self.certificate, "ssl_keyfile": self.key, "http": _TlsConnection, **asked}


def _no_password() -> str:
    raise ValueError("the key has a password")


class _TlsConnection(ClientConnection):
    """Puts the verified certificate of the client into the scope of its requests, which uvicorn does not do."""

    _certificate: ClientCertificate | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        session = transport.get_extra_info("ssl_object")
        shown = None if session is None else session.getpeercert()
        if shown:
            names: Sequence[tuple[str, str]] = shown.get("subjectAltName", ())
            self._certificate = ClientCertificate(
                tuple(name for kind, name in names if kind in {"URI", "DNS"}),
                float(ssl.cert_time_to_seconds(shown["notAfter"])),
            )

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._certificate is not None:
            self.scope[CERTIFICATE] = self._certificate  # type: ignore[literal-required]
