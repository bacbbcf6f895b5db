"""Further listeners of a broker: with TLS, client certificates, or users and passwords."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

SecurityProtocol = Literal["SSL", "SASL_SSL", "SASL_PLAINTEXT"]
SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")
_PLAIN_MODULE = "org.apache.kafka.common.security.plain.PlainLoginModule"
_SCRAM_MODULE = "org.apache.kafka.common.security.scram.ScramLoginModule"


@dataclass(frozen=True)
class Listener:
    """An address of a broker, with its security."""

    protocol: SecurityProtocol
    certificate: Path | None = None
    """A PEM file with the key of the broker and its certificate, for TLS."""
    ca: Path | None = None
    """A PEM file with the authority of client certificates, which are required if it is given."""
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Passwords of users of the mechanism PLAIN. Those of SCRAM are created with a client of the cluster."""

    def properties(self, name: str) -> Mapping[str, str]:
        """Return the settings of the listener with this name."""
        prefix = f"listener.name.{name.lower()}."
        settings: dict[str, str] = {}
        if self.certificate is not None:
            settings |= {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(self.certificate)}
        if self.ca is not None:
            settings |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(self.ca)}
            settings["ssl.client.auth"] = "required"
        if self.protocol != "SSL":
            settings["sasl.enabled.mechanisms"] = ",".join(("PLAIN", *SCRAM))
            users = "".join(f' user_{user}="{password}"' for user, password in self.users.items())
            settings["plain.sasl.jaas.config"] = f"{_PLAIN_MODULE} required{users};"
            for mechanism in SCRAM:
                settings[f"{mechanism.lower()}.sasl.jaas.config"] = f"{_SCRAM_MODULE} required;"
        return {f"{prefix}{key}": value for key, value in settings.items()}
