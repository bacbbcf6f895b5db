"""What the account of a Snowflake warehouse has beside tables: declared with the definitions, applied by a command.

Declarations determine no rows, so nothing is recomputed when they change. What is not declared is not touched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

from pipeline.core.definitions import LAYERS, StoredDefinition, caller, names
from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.graph import Graph

WarehouseSize = Literal["XSMALL", "SMALL", "MEDIUM", "LARGE", "XLARGE", "XXLARGE", "XXXLARGE", "X4LARGE"]
ScalingPolicy = Literal["STANDARD", "ECONOMY"]
Frequency = Literal["DAILY", "WEEKLY", "MONTHLY", "YEARLY", "NEVER"]
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")


@dataclass(frozen=True)
class SnowflakeDeclaration:
    """Something of an account; create one with the functions of this module."""

    name: str
    place: Place = field(default=Place(""), compare=False, kw_only=True)


@dataclass(frozen=True)
class ResourceMonitor(SnowflakeDeclaration):
    """See `snowflake_resource_monitor`."""

    credits: int
    frequency: Frequency
    notify_at: tuple[int, ...]
    suspend_at: int | None
    suspend_immediately_at: int | None


@dataclass(frozen=True)
class VirtualWarehouse(SnowflakeDeclaration):
    """See `snowflake_warehouse`."""

    size: WarehouseSize
    auto_suspend_s: int
    clusters: tuple[int, int]
    scaling_policy: ScalingPolicy
    resource_monitor: str | None


@dataclass(frozen=True)
class MaskingPolicy(SnowflakeDeclaration):
    """See `snowflake_masking_policy`."""

    type: str
    body: str


@dataclass(frozen=True)
class RowAccessPolicy(SnowflakeDeclaration):
    """See `snowflake_row_access_policy`."""

    columns: tuple[tuple[str, str], ...]
    body: str


@dataclass(frozen=True)
class AccountRole(SnowflakeDeclaration):
    """See `snowflake_role`."""

    reads: tuple[str, ...]
    uses: tuple[str, ...]
    granted_to: tuple[str, ...]


@dataclass(frozen=True)
class TableOptions(SnowflakeDeclaration):
    """See `snowflake_options`; the name is that of the table."""

    cluster_by: tuple[str, ...]
    search_on: tuple[str, ...]
    masking: tuple[tuple[str, str], ...]
    row_access: tuple[str, tuple[str, ...]] | None


D = TypeVar("D", bound=SnowflakeDeclaration)


@dataclass(frozen=True)
class DeclaredAccount:
    """Everything that a project declares of its account."""

    declarations: tuple[SnowflakeDeclaration, ...] = ()

    def of(self, kind: type[D]) -> tuple[D, ...]:
        """Return the declarations of a kind, by name."""
        found = (each for each in self.declarations if isinstance(each, kind))
        return tuple(sorted(found, key=lambda each: each.name))

    def masking_of(self, table: str) -> tuple[tuple[str, str], ...]:
        """Return the columns of a table that have a masking policy, each with its policy."""
        return tuple(each for options in self.of(TableOptions) if options.name == table for each in options.masking)


def snowflake_warehouse(
    name: str,
    *,
    size: WarehouseSize = "XSMALL",
    auto_suspend_s: int = 60,
    clusters: tuple[int, int] = (1, 1),
    scaling_policy: ScalingPolicy = "STANDARD",
    resource_monitor: str | None = None,
) -> VirtualWarehouse:
    """Declare a virtual warehouse: its size, the idle seconds after which it is suspended, and its resource monitor.

        reporting = snowflake_warehouse("REPORTING", size="SMALL", clusters=(1, 3), resource_monitor="MONTHLY")

    `clusters` are the smallest and the largest number of clusters; more than one needs the Enterprise Edition. With
    `scaling_policy="ECONOMY"`, a cluster is started only if it would be busy for minutes. A suspended warehouse resumes with
    the next statement. Raises `DefinitionError` for a value out of range.
    """
    place = caller()
    _one_of("size", size, WarehouseSize, place)
    _one_of("scaling_policy", scaling_policy, ScalingPolicy, place)
    if auto_suspend_s < 1 or not 1 <= clusters[0] <= clusters[1]:
        raise DefinitionError(
            "auto_suspend_s= must be positive, and clusters= a smallest and a largest number",
            got=f"{auto_suspend_s!r} and {clusters!r}",
            place=place,
        )
    return VirtualWarehouse(
        _named(name, place), size, auto_suspend_s, clusters, scaling_policy, resource_monitor, place=place
    )


def snowflake_resource_monitor(
    name: str,
    *,
    credits: int,  # noqa: A002 - Snowflake's word
    frequency: Frequency = "MONTHLY",
    notify_at: Sequence[int] = (80,),
    suspend_at: int | None = 100,
    suspend_immediately_at: int | None = None,
) -> ResourceMonitor:
    """Declare a quota of credits for warehouses, with the percentages at which it notifies and suspends them.

        monthly = snowflake_resource_monitor("MONTHLY", credits=200, notify_at=(75, 90), suspend_at=100)

    Raises `DefinitionError` for a value out of range.
    """
    place = caller()
    _one_of("frequency", frequency, Frequency, place)
    if credits < 1 or any(percent < 1 for percent in (*notify_at, suspend_at or 1, suspend_immediately_at or 1)):
        raise DefinitionError("credits= and percentages must be positive", got=repr(credits), place=place)
    percentages = tuple(sorted(notify_at))
    return ResourceMonitor(
        _named(name, place), credits, frequency, percentages, suspend_at, suspend_immediately_at, place=place
    )


def snowflake_role(
    name: str,
    *,
    reads: str | Sequence[str] = (),
    uses: str | Sequence[str] = (),
    granted_to: str | Sequence[str] = (),
) -> AccountRole:
    """Declare a role: the tables that it may read, the virtual warehouses that it may use, and the roles that have it.

        analyst = snowflake_role("ANALYST", reads=["gold"], uses="REPORTING", granted_to="SYSADMIN")

    `reads` are tables and `"gold"` for all. Other privileges of the role on tables of the schema, and on warehouses, are
    revoked.
    """
    place = caller()
    return AccountRole(_named(name, place), names(reads), names(uses), names(granted_to), place=place)


def snowflake_masking_policy(name: str, type: str, body: str) -> MaskingPolicy:  # noqa: A002 - Snowflake's word
    """Declare a masking policy: an expression of Snowflake over `val`, a value of this type, that is shown in its place.

    hidden = snowflake_masking_policy("HIDDEN", "VARCHAR", "case when is_role_in_session('HR') then val else '***' end")
    """
    place = caller()
    return MaskingPolicy(_named(name, place), type.upper(), body.strip(), place=place)


def snowflake_row_access_policy(name: str, columns: Mapping[str, str], body: str) -> RowAccessPolicy:
    """Declare a row access policy: a condition of Snowflake over named values with types; rows are shown where it is true.

    by_region = snowflake_row_access_policy("BY_REGION", {"region": "VARCHAR"}, "region = current_role()")
    """
    place = caller()
    typed = tuple((column, kind.upper()) for column, kind in columns.items())
    return RowAccessPolicy(_named(name, place), typed, body.strip(), place=place)


def snowflake_options(
    table: str,
    *,
    cluster_by: str | Sequence[str] = (),
    search_on: str | Sequence[str] = (),
    masking: Mapping[str, str] | None = None,
    row_access: tuple[str, str | Sequence[str]] | None = None,
) -> TableOptions:
    """Declare how Snowflake stores and shows a gold table.

        orders = snowflake_options("fact_order", cluster_by="day", search_on="order_id", masking={"email": "HIDDEN"},
            row_access=("BY_REGION", "region"))

    `cluster_by` are the columns of the clustering key, `search_on` those that point look-ups are optimized for, `masking`
    the masking policy of each column, and `row_access` a policy with the columns that it is given.
    """
    policies = tuple(sorted((masking or {}).items()))
    access = None if row_access is None else (row_access[0], names(row_access[1]))
    return TableOptions(table, names(cluster_by), names(search_on), policies, access, place=caller())


def declared_account(declarations: Iterable[SnowflakeDeclaration], graph: Graph) -> DeclaredAccount:
    """Return what a project declares.

    Raises `DefinitionError` for what is declared twice, and for a table, warehouse, monitor or policy that does not exist.
    """
    account = DeclaredAccount(tuple(declarations))
    seen: dict[tuple[type, str], SnowflakeDeclaration] = {}
    for each in account.declarations:
        first = seen.setdefault((type(each), each.name.upper()), each)
        if first is not each:
            raise DefinitionError(
                f"{each.name!r} of Snowflake is declared twice, first at {first.place}",
                do="remove one",
                place=each.place,
            )
    _require_known(account, [each.name for each in graph.all_of(StoredDefinition) if each.is_in_warehouse])
    return account


def _require_known(account: DeclaredAccount, tables: Sequence[str]) -> None:
    """Raise `DefinitionError` for a table, warehouse, monitor or policy that is named, and does not exist."""
    for options in account.of(TableOptions):
        _known(options.name, tables, "gold table", options)
        for _, policy in options.masking:
            _known(policy.upper(), [each.name for each in account.of(MaskingPolicy)], "masking policy", options)
        if options.row_access is not None:
            policies = [each.name for each in account.of(RowAccessPolicy)]
            _known(options.row_access[0].upper(), policies, "row access policy", options)
    for role in account.of(AccountRole):
        for name in role.reads:
            _known(name, [*tables, LAYERS[-1]], "gold table", role)
        for name in role.uses:
            _known(name.upper(), [each.name for each in account.of(VirtualWarehouse)], "virtual warehouse", role)
    for warehouse in account.of(VirtualWarehouse):
        if warehouse.resource_monitor is not None:
            monitors = [each.name for each in account.of(ResourceMonitor)]
            _known(warehouse.resource_monitor.upper(), monitors, "resource monitor", warehouse)


def _known(name: str, known: Sequence[str], kind: str, declaration: SnowflakeDeclaration) -> None:
    if name not in known:
        raise DefinitionError(
            f"{declaration.name!r} names a {kind} {name!r}, which is not declared",
            do=did_you_mean(name, known),
            place=declaration.place,
        )


def _named(name: str, place: Place) -> str:
    if not _NAME.fullmatch(name):
        raise DefinitionError(
            "a name in an account of Snowflake has letters, digits and underscores", got=repr(name), place=place
        )
    return name.upper()


def _one_of(option: str, value: object, kind: object, place: Place) -> None:
    known = get_args(kind)
    if value not in known:
        raise DefinitionError(
            f"unknown value of {option}=", got=repr(value), do=did_you_mean(str(value), known), place=place
        )
