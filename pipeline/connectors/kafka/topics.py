"""Topics as code: what a topic should be like, and what has to change for that. Nothing here calls a broker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from pipeline.connectors.kafka.security import Sasl, Tls
from pipeline.core.definitions import caller
from pipeline.core.errors import DefinitionError, Place
from pipeline.core.event_time import parse_duration

Access = Literal["read", "write", "all"]
OPERATIONS: dict[Access, tuple[str, ...]] = {
    "read": ("DESCRIBE", "READ"),
    "write": ("DESCRIBE", "WRITE"),
    "all": ("ALL",),
}
"""The operations on a topic that each kind of access needs."""
_ENOUGH = 3
"""From this number of replicas on, a write waits for two of them by default."""
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_LONGEST = 249
_DELETE, _COMPACT = "delete", "compact"


@dataclass(frozen=True)
class TopicDefinition:
    """A topic as it should be. Create it with `topic`."""

    name: str
    partitions: int
    replicas: int
    configs: Mapping[str, str]
    """Settings by Kafka's names."""
    acls: Mapping[str, Access] = field(default_factory=dict)
    schema: str | None = None
    """The file of the schema of its values, which is registered as the subject NAME-value."""
    servers: str | None = None
    security: Tls | Sasl | None = None
    place: Place = field(default=Place(""), compare=False)

    @property
    def title(self) -> str:
        """What it is, for messages."""
        return f"topic {self.name!r}"

    @property
    def access(self) -> frozenset[tuple[str, str]]:
        """The principals, each with an operation that it is allowed to use."""
        return frozenset((who, operation) for who, access in self.acls.items() for operation in OPERATIONS[access])


@dataclass(frozen=True)
class ExistingTopic:
    """A topic as it is on the brokers."""

    partitions: int
    replicas: int
    """The number of replicas of each partition; the lowest, if they differ."""
    configs: Mapping[str, str]
    """All settings, also those that are defaults."""
    access: frozenset[tuple[str, str]] = frozenset()
    """The principals, each with an operation that it is allowed to use from any host."""


@dataclass(frozen=True)
class Change:
    """One difference between a topic as it is and as it should be."""

    topic: str
    what: str
    """What changes, with the value before and after."""
    kind: Literal["create", "partitions", "replicas", "config", "allow", "remove access", "schema", "quota"]
    value: object = None
    """What to set, by kind: the name and value of a setting or limit, a principal and an operation, a number."""
    warning: str = ""
    """What the change does to readers and to records; empty if nothing."""
    is_destructive: bool = False
    """Whether records may be deleted."""


def topic(
    name: str,
    *,
    partitions: int,
    replicas: int = 3,
    retention: str | timedelta | None = None,
    compaction: bool = False,
    min_in_sync: int | None = None,
    acls: Mapping[str, Access] | None = None,
    schema: str | None = None,
    settings: Mapping[str, str] | None = None,
    servers: str | None = None,
    security: Tls | Sasl | None = None,
) -> TopicDefinition:
    """Declare a topic; `headwater topics plan` shows what has to change, and `headwater topics apply` changes it.

    `retention` is how long records are kept, `"forever"` without a limit (default: that of the brokers). With
    `compaction`, the last record of each key is kept, and `retention` only applies to the others if it is given. A write is acknowledged by
    `min_in_sync` replicas: by default two of three, so that one broker may fail. Out-of-sync replicas never become leaders,
    because acknowledged records would be lost.

    `acls` maps principals such as `"User:reports"` to `"read"`, `"write"` or `"all"`; without it, the access is not managed.
    `schema` is a file (`.avsc`, `.json` or `.proto`), whose compatibility is checked. `settings` are further settings by
    Kafka's names. Without `servers`, the brokers are those of `HEADWATER_KAFKA_SERVERS`.

    Raises `DefinitionError` for a value that Kafka does not accept.
    """
    place = caller()
    in_sync = min_in_sync if min_in_sync is not None else 2 if replicas >= _ENOUGH else 1
    _require_name(name, place)
    _require_numbers(name, partitions, replicas, in_sync, place)
    _require_acls(name, acls or {}, place)
    configs = {
        "min.insync.replicas": str(in_sync),
        "unclean.leader.election.enable": "false",
        "cleanup.policy": _policy(retention, compaction=compaction),
        **_retention(retention, place),
        **(settings or {}),
    }
    return TopicDefinition(name, partitions, replicas, configs, dict(acls or {}), schema, servers, security, place)


def _require_name(name: str, place: Place) -> None:
    if not name or set(name) - _NAME or len(name) > _LONGEST or name in {".", ".."}:
        raise DefinitionError(
            "a topic's name has up to 249 letters, digits, dots, hyphens and underscores", got=repr(name), place=place
        )


def _require_numbers(name: str, partitions: int, replicas: int, in_sync: int, place: Place) -> None:
    if partitions < 1 or replicas < 1:
        raise DefinitionError(
            f"topic {name!r} must have at least one partition and one replica",
            got=f"partitions={partitions}, replicas={replicas}",
            place=place,
        )
    if not 1 <= in_sync <= replicas:
        got = f"{in_sync} of {replicas}"
        raise DefinitionError(f"min_in_sync of topic {name!r} must be between 1 and its replicas", got=got, place=place)


def _require_acls(name: str, acls: Mapping[str, Access], place: Place) -> None:
    for who, access in acls.items():
        if ":" not in who or access not in OPERATIONS:
            raise DefinitionError(
                f"acls of topic {name!r} map principals to 'read', 'write' or 'all'",
                got=f"{who!r}: {access!r}",
                do="write for example {'User:reports': 'read'}",
                place=place,
            )


def _policy(retention: str | timedelta | None, *, compaction: bool) -> str:
    if not compaction:
        return _DELETE
    return _COMPACT if retention is None else f"{_COMPACT},{_DELETE}"


def _retention(retention: str | timedelta | None, place: Place) -> dict[str, str]:
    if retention is None:
        return {}
    if retention == "forever":
        return {"retention.ms": "-1"}
    duration = parse_duration(retention, "retention=") if isinstance(retention, str) else retention
    if not duration:
        raise DefinitionError("retention= must be positive", got=repr(retention), place=place)
    return {"retention.ms": str(duration // timedelta(milliseconds=1))}


def changes(wanted: TopicDefinition, existing: ExistingTopic | None) -> tuple[Change, ...]:
    """Return what has to change for a topic to be as it should be; raise `DefinitionError` if that is not possible."""
    if existing is None:
        size = f"{wanted.partitions} partitions, {wanted.replicas} replicas"
        creation = Change(wanted.name, f"create: {size}, {_listed(wanted.configs)}", "create")
        return creation, *_access(wanted, frozenset())
    if wanted.partitions < existing.partitions:
        raise DefinitionError(
            f"topic {wanted.name!r} has more partitions than declared, and Kafka cannot remove them",
            got=f"{existing.partitions} instead of {wanted.partitions}",
            do="declare as many, or write to another topic",
            place=wanted.place,
        )
    return (
        *_size(wanted, existing),
        *(change for change in _configs(wanted, existing)),
        *_access(wanted, existing.access),
    )


def _listed(configs: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(configs.items()))


def _size(wanted: TopicDefinition, existing: ExistingTopic) -> Iterator[Change]:
    if wanted.partitions > existing.partitions:
        yield Change(
            wanted.name,
            f"partitions: {existing.partitions} to {wanted.partitions}",
            "partitions",
            wanted.partitions,
            "keys move to other partitions: records of a key that are written afterwards are no longer behind the earlier "
            "ones, so readers that depend on their order have to read all earlier records first",
        )
    if wanted.replicas != existing.replicas:
        fewer = "if more brokers fail than before, records are lost" if wanted.replicas < existing.replicas else ""
        what = f"replicas: {existing.replicas} to {wanted.replicas}"
        yield Change(wanted.name, what, "replicas", wanted.replicas, fewer)


def _configs(wanted: TopicDefinition, existing: ExistingTopic) -> Iterator[Change]:
    for name, value in sorted(wanted.configs.items()):
        before = existing.configs.get(name, "")
        if _canonical(before) != _canonical(value):
            warning, is_destructive = _effect(name, before, value)
            yield Change(wanted.name, f"{name}: {before} to {value}", "config", (name, value), warning, is_destructive)


def _canonical(value: str) -> frozenset[str]:
    """Return a setting without the order of a list."""
    return frozenset(part.strip() for part in value.split(","))


def _effect(name: str, before: str, after: str) -> tuple[str, bool]:
    """Return what a change of a setting does, and whether it may delete records."""
    if name in {"retention.ms", "retention.bytes"} and _limit(after) < _limit(before):
        return "records beyond the new limit are deleted", True
    if name == "cleanup.policy" and _COMPACT in after and _COMPACT not in before:
        return "earlier records of each key are deleted, and records without a key are refused", True
    if name == "cleanup.policy" and _DELETE in after and _DELETE not in before:
        return "records beyond the retention are deleted", True
    if name == "unclean.leader.election.enable" and after == "true":
        return "acknowledged records can be lost when brokers fail", False
    if name == "min.insync.replicas" and after.isdecimal() and before.isdecimal() and int(after) < int(before):
        return "a write is acknowledged by fewer brokers", False
    return "", False


def _limit(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return float("inf")
    return float("inf") if number < 0 else number


def _access(wanted: TopicDefinition, existing: frozenset[tuple[str, str]]) -> Iterator[Change]:
    for who, operation in sorted(wanted.access - existing):
        yield Change(wanted.name, f"allow {who} to {operation.lower()}", "allow", (who, operation))
    if wanted.acls:
        for who, operation in sorted(existing - wanted.access):
            what = f"no longer allow {who} to {operation.lower()}"
            yield Change(wanted.name, what, "remove access", (who, operation), f"clients of {who} may stop working")


def replica_assignment(current: Sequence[int], replicas: int, brokers: Sequence[int], number: int) -> list[int]:
    """Return the brokers of a partition's replicas: those that it has, the leader first, and then the next ones in turn."""
    kept = list(current[:replicas])
    start = number % len(brokers)
    others = [broker for broker in [*brokers[start:], *brokers[:start]] if broker not in kept]
    return kept + others[: replicas - len(kept)]
