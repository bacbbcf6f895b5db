"""Authentication of the client, and verification of the brokers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.core.errors import SettingsError

_FROM_ENVIRONMENT = "env:"


@dataclass(frozen=True)
class Tls:
    """Encrypted connections. `ca` defaults to the system's authorities; `certificate` authenticates the client.

    All are paths of PEM files. `key_password` may be `env:NAME`.
    """

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    key_password: str | None = field(default=None, repr=False)

    def options(self) -> dict[str, str]:
        """Return the client's settings; raise `SettingsError` if an environment variable is not set."""
        return {"security.protocol": "SSL", **self.files()}

    def files(self) -> dict[str, str]:
        """Return the settings of the certificates only."""
        settings = {
            "ssl.ca.location": self.ca,
            "ssl.certificate.location": self.certificate,
            "ssl.key.location": self.key,
            "ssl.key.password": None if self.key_password is None else secret(self.key_password),
        }
        return {name: value for name, value in settings.items() if value is not None}


@dataclass(frozen=True)
class Sasl:
    """A user and a password, over TLS unless `tls=None`. Prefer `env:NAME`, which is resolved where the client runs.

    It is never displayed. Only a literal password is pickled with the definition.
    """

    username: str
    password: str = field(repr=False)
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    tls: Tls | None = Tls()

    def options(self) -> dict[str, str]:
        """Return the client's settings; raise `SettingsError` if an environment variable is not set."""
        return {
            "security.protocol": "SASL_PLAINTEXT" if self.tls is None else "SASL_SSL",
            "sasl.mechanism": self.mechanism,
            "sasl.username": self.username,
            "sasl.password": secret(self.password),
            **({} if self.tls is None else self.tls.files()),
        }


def secret(value: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return a secret, or the environment variable of `env:NAME`; raise `SettingsError` if it is not set."""
    if not value.startswith(_FROM_ENVIRONMENT):
        return value
    name = value.removeprefix(_FROM_ENVIRONMENT)
    secret_value = environment.get(name)
    if not secret_value:
        raise SettingsError(f"the environment variable {name!r} with a Kafka secret is not set", do=f"set {name}")
    return secret_value
