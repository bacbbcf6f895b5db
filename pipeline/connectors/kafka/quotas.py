"""Client quotas as code: how much a user or a client may send and read. Nothing here calls a broker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.connectors.kafka.security import Sasl, Tls
from pipeline.connectors.kafka.topics import Change
from pipeline.core.definitions import caller
from pipeline.core.errors import DefinitionError, Place

EVERY = "*"
"""In place of a name: every user or client without a quota of its own."""
_PRODUCER, _CONSUMER, _REQUESTS = "producer_byte_rate", "consumer_byte_rate", "request_percentage"


@dataclass(frozen=True)
class QuotaDefinition:
    """The limits of a user, a client id, or both. Create it with `quota`."""

    user: str | None
    client_id: str | None
    limits: Mapping[str, float]
    """The limits by Kafka's names; those that are not here do not exist."""
    servers: str | None = None
    security: Tls | Sasl | None = None
    place: Place = field(default=Place(""), compare=False)

    @property
    def name(self) -> str:
        """What the limits apply to, as it is shown."""
        return "quota of " + ", ".join(f"{kind} {name}" for kind, name in self.entity.items())

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return f"the {self.name}"

    @property
    def entity(self) -> Mapping[str, str]:
        """What the limits apply to, by Kafka's names."""
        pairs = {"user": self.user, "client-id": self.client_id}
        return {kind: name for kind, name in pairs.items() if name is not None}


def quota(
    *,
    user: str | None = None,
    client_id: str | None = None,
    producer_bytes_s: float | None = None,
    consumer_bytes_s: float | None = None,
    request_percent: float | None = None,
    servers: str | None = None,
    security: Tls | Sasl | None = None,
) -> QuotaDefinition:
    """Declare how much a user or a client id may send and read, which each broker enforces by delaying its answers.

    `headwater topics plan` shows what has to change, and `headwater topics apply` changes it. `"*"` is every user or client
    without a quota of its own. A limit that is not given is removed; the rates are bytes a second on each broker, and
    `request_percent` the time of its request threads. Assign the result to a name beside the topics.

    Raises `DefinitionError` without a user or a client, and for a limit that is not positive.
    """
    place = caller()
    if not user and not client_id:
        raise DefinitionError("a quota needs a user or a client", do="pass user= or client_id=", place=place)
    given = {_PRODUCER: producer_bytes_s, _CONSUMER: consumer_bytes_s, _REQUESTS: request_percent}
    limits = {name: float(limit) for name, limit in given.items() if limit is not None}
    wrong = next((f"{name}: {limit:g}" for name, limit in limits.items() if limit <= 0), None)
    if wrong is not None:
        raise DefinitionError("the limits of a quota must be positive", got=wrong, place=place)
    return QuotaDefinition(user, client_id, limits, servers, security, place)


def quota_changes(wanted: QuotaDefinition, existing: Mapping[str, float]) -> Iterator[Change]:
    """Yield what has to change for the limits to be as declared."""
    for name in sorted(wanted.limits.keys() | (existing.keys() & {_PRODUCER, _CONSUMER, _REQUESTS})):
        before, after = existing.get(name), wanted.limits.get(name)
        if before != after:
            is_lower = after is not None and (before is None or after < before)
            warning = "clients beyond the limit are slowed down" if is_lower else ""
            what = f"{name}: {_shown(before)} to {_shown(after)}"
            yield Change(wanted.name, what, "quota", (name, after), warning)


def _shown(limit: float | None) -> str:
    return "no limit" if limit is None else f"{limit:.15g}"
