"""Authentication of the client, and verification of the brokers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline.core.credentials import secret

_WHAT = "a Kafka secret"


@dataclass(frozen=True)
class Tls:
    """Encrypted connections. `ca` defaults to the system's authorities; `certificate` authenticates the client.

    All are paths of PEM files. `key_password` may be `env:NAME` or `file:PATH`.
    """

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    key_password: str | None = field(default=None, repr=False)

    def options(self) -> dict[str, str]:
        """Return the client's settings; raise `SettingsError` if a secret is not found."""
        return {"security.protocol": "SSL", **self.files()}

    def files(self) -> dict[str, str]:
        """Return the settings of the certificates only."""
        settings = {
            "ssl.ca.location": self.ca,
            "ssl.certificate.location": self.certificate,
            "ssl.key.location": self.key,
            "ssl.key.password": None if self.key_password is None else secret(self.key_password, _WHAT),
        }
        return {name: value for name, value in settings.items() if value is not None}


@dataclass(frozen=True)
class Sasl:
    """A user and a password, over TLS unless `tls=None`. Prefer `env:NAME` or `file:PATH`, which is resolved where the client runs.

    It is never displayed. Only a literal password is pickled with the definition.
    """

    username: str
    password: str = field(repr=False)
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    tls: Tls | None = Tls()

    def options(self) -> dict[str, str]:
        """Return the client's settings; raise `SettingsError` if a secret is not found."""
        return {
            "security.protocol": "SASL_PLAINTEXT" if self.tls is None else "SASL_SSL",
            "sasl.mechanism": self.mechanism,
            "sasl.username": self.username,
            "sasl.password": secret(self.password, _WHAT),
            **({} if self.tls is None else self.tls.files()),
        }
