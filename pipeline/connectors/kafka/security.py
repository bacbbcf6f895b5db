"""How a client shows who it is, and how it knows the brokers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.core.errors import SettingsError

_FROM_ENVIRONMENT = "env:"


@dataclass(frozen=True)
class Tls:
    """Encrypted connections. Without `ca` the machine's own authorities are trusted; a certificate says who we are.

    All are paths of PEM files. `key_password` may be `env:NAME`.
    """

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    key_password: str | None = field(default=None, repr=False)

    def options(self) -> dict[str, str]:
        """Return the client's settings; raise `SettingsError` for a variable that is not set."""
        return {"security.protocol": "SSL", **self.files()}

    def files(self) -> dict[str, str]:
        """Return the settings of certificates alone."""
        settings = {
            "ssl.ca.location": self.ca,
            "ssl.certificate.location": self.certificate,
            "ssl.key.location": self.key,
            "ssl.key.password": None if self.key_password is None else secret(self.key_password),
        }
        return {name: value for name, value in settings.items() if value is not None}


@dataclass(frozen=True)
class Sasl:
    """A user and a password, over TLS unless `tls=None`. The password is best given as `env:NAME`: it is read there.

    It is never shown, and only a password that was given as itself travels with the definition.
    """

    username: str
    password: str = field(repr=False)
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    tls: Tls | None = Tls()

    def options(self) -> dict[str, str]:
        """Return the client's settings; raise `SettingsError` for a variable that is not set."""
        return {
            "security.protocol": "SASL_PLAINTEXT" if self.tls is None else "SASL_SSL",
            "sasl.mechanism": self.mechanism,
            "sasl.username": self.username,
            "sasl.password": secret(self.password),
            **({} if self.tls is None else self.tls.files()),
        }


def secret(value: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return a secret, or what the environment holds for `env:NAME`; raise `SettingsError` when it holds nothing."""
    if not value.startswith(_FROM_ENVIRONMENT):
        return value
    name = value.removeprefix(_FROM_ENVIRONMENT)
    secret_value = environment.get(name)
    if not secret_value:
        raise SettingsError(f"the environment variable {name!r} with a Kafka secret is not set", do=f"set {name}")
    return secret_value
