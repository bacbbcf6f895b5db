"""Policies of lake tables, declared beside the definitions: how long versions can be read, and how files are laid out.

A policy determines no rows, so a table is not recomputed when its policy changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Literal, TypedDict, Unpack, get_args

from pipeline.core.definitions import LAYERS, StoredDefinition, caller, names
from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.event_time import parse_duration
from pipeline.core.graph import Graph

Maintenance = Literal["auto", "manual"]
"""When a table is maintained: by the runs that write it, or only by `headwater lake maintain`."""
StorageClass = Literal["STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR"]
"""The storage classes of S3 from which objects can be read at once."""
_ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")
_LEAST_AGE = timedelta(days=30)
"""The age from which S3 moves objects to the classes for infrequent access."""


@dataclass(frozen=True)
class LakePolicy:
    """How the table of a definition is kept in the lake."""

    history: timedelta = timedelta(days=7)
    """How long each version can be read after a newer one replaced it."""
    min_versions: int = 1
    """The number of newest versions that can be read, however old they are."""
    cluster_by: tuple[str, ...] = ()
    """The columns by which compaction orders rows, so that files have narrow bounds of them."""
    target_mb: int = 128
    """The size of compacted files, in megabytes."""
    rewrite_mb: int = 0
    """How much each maintenance writes again of files that are divided or ordered otherwise than new ones, in megabytes."""
    maintenance: Maintenance = "auto"
    tiering: tuple[tuple[timedelta, StorageClass], ...] = ()
    """The storage classes of S3 for old objects, each with the age from which it is used, in order."""
    readers: tuple[str, ...] = ()
    """The roles that may read the table in the bucket, besides the processes that run the project."""


DEFAULT_POLICY = LakePolicy()
"""The policy of a table without one."""


class PolicyOptions(TypedDict, total=False):
    """The options of a policy; those that are not given are taken from the next wider policy."""

    history: str | timedelta
    min_versions: int
    cluster_by: str | Sequence[str]
    target_mb: int
    rewrite_mb: int
    maintenance: Maintenance
    tiering: Mapping[str, StorageClass]
    readers: str | Sequence[str]


@dataclass(frozen=True)
class PolicyDefinition:
    """The options of a policy, and the tables or layers that it is for. Create it with `lake_policy`."""

    tables: tuple[str, ...]
    """Names of tables and layers; empty for all tables."""
    options: Mapping[str, Any]
    place: Place = field(default=Place(""), compare=False)

    def rank(self, definition: StoredDefinition) -> int | None:
        """Return how narrowly it names a table: 2 by its name, 1 by its layer, 0 among all; `None` if it does not."""
        if definition.name in self.tables:
            return 2
        if definition.layer in self.tables:
            return 1
        return None if self.tables else 0


def lake_policy(*tables: str, **options: Unpack[PolicyOptions]) -> PolicyDefinition:
    """Declare how tables are kept in the lake. Assign the result to a name beside the definitions.

        every_table = lake_policy(history="14 days")
        raw = lake_policy("bronze", history="1 day")
        large = lake_policy("orders", "payments", cluster_by=("customer_id", "placed_at"))

    `tables` are names of tables and layers; without any, the policy is for all tables. For each option, the policy that
    names the table comes before that of its layer, and that before the one for all tables.

    `history` is how long each version can be read after a newer one replaced it (default: 7 days), and `min_versions` how
    many of the newest versions can be read, however old they are. Compaction writes files of `target_mb` megabytes
    (default: 128), whose rows are ordered by `cluster_by`. If `partition_by` or `cluster_by` has changed, each maintenance writes
    again up to about `rewrite_mb` megabytes of the files from before (default: 0, which leaves them as they are). With
    `maintenance="manual"`, runs do not maintain the table, and only `headwater lake maintain` does.

    For a lake on S3, `tiering` maps ages to storage classes, for example `{"30 days": "STANDARD_IA"}`, and `readers` names
    the roles that may read the table in the bucket; `headwater lake apply` sets both.

    Raises `DefinitionError` for an option that is unknown or out of range.
    """
    place = caller()
    unknown = next((name for name in options if name not in PolicyOptions.__annotations__), None)
    if unknown is not None:
        known = did_you_mean(unknown, tuple(PolicyOptions.__annotations__))
        raise DefinitionError(f"lake_policy has no option {unknown!r}", do=known, place=place)
    for name, least in (("min_versions", 1), ("target_mb", 1), ("rewrite_mb", 0)):
        value = options.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            kind = "a positive integer" if least else "an integer of at least 0"
            raise DefinitionError(f"{name}= must be {kind}", got=repr(value), place=place)
    if options.get("maintenance", "auto") not in get_args(Maintenance):
        known = did_you_mean(str(options["maintenance"]), get_args(Maintenance))
        raise DefinitionError("unknown value of maintenance=", got=repr(options["maintenance"]), do=known, place=place)
    parsed: dict[str, Any] = dict(options)
    if "history" in options:
        parsed["history"] = parse_duration(options["history"], "history", place)
    for name in ("cluster_by", "readers"):
        if name in options:
            parsed[name] = names(options[name])  # type: ignore[literal-required]
    if "tiering" in options:
        parsed["tiering"] = _tiering(options["tiering"], place)
    return PolicyDefinition(tables, parsed, place)


def _tiering(classes: Mapping[str, StorageClass], place: Place) -> tuple[tuple[timedelta, StorageClass], ...]:
    tiers = sorted((parse_duration(age, "tiering", place), kind) for age, kind in classes.items())
    for age, kind in tiers:
        if kind in _ARCHIVES:
            raise DefinitionError(
                f"a table cannot be read from the storage class {kind}, which must be restored first",
                do="use GLACIER_IR, from which objects are read at once",
                place=place,
            )
        if kind not in get_args(StorageClass):
            known = did_you_mean(kind, get_args(StorageClass))
            raise DefinitionError("unknown storage class in tiering=", got=repr(kind), do=known, place=place)
        if age < _LEAST_AGE and kind.endswith("_IA"):
            got = f"{age.days} days for {kind}"
            raise DefinitionError("S3 needs an age of at least 30 days for this class", got=got, place=place)
        if age % timedelta(days=1) or not age:
            raise DefinitionError("the ages in tiering= must be whole days", got=repr(str(age)), place=place)
    return tuple(tiers)


def require_tables(policies: Iterable[PolicyDefinition], graph: Graph) -> None:
    """Raise `DefinitionError` for a policy of a table that does not exist, and for two policies of one table or layer."""
    known = (*LAYERS, *(definition.name for definition in graph.all_of(StoredDefinition)))
    first: dict[tuple[str, str], PolicyDefinition] = {}
    for policy in policies:
        for name in policy.tables:
            if name not in known:
                raise DefinitionError(
                    f"lake_policy names a table {name!r}, which does not exist",
                    do=did_you_mean(name, known),
                    place=policy.place,
                )
        for name in policy.tables or ("",):
            for option in policy.options:
                other = first.setdefault((name, option), policy)
                if other is not policy:
                    of = f"{name!r}" if name else "all tables"
                    raise DefinitionError(
                        f"two policies set {option}= of {of}, the first at {other.place}",
                        do="remove one",
                        place=policy.place,
                    )


def policy_of(policies: Sequence[PolicyDefinition], definition: StoredDefinition) -> LakePolicy:
    """Return the policy of a table."""
    ranked = [(rank, policy) for policy in policies if (rank := policy.rank(definition)) is not None]
    policy = LakePolicy()
    for _, each in sorted(ranked, key=lambda pair: pair[0]):
        policy = replace(policy, **each.options)
    return policy
