"""What an account has of the kinds that can be declared, read by SHOW and DESCRIBE."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.core.snowflake_account import (
    AccountRole,
    DeclaredAccount,
    MaskingPolicy,
    ResourceMonitor,
    RowAccessPolicy,
    TableOptions,
    VirtualWarehouse,
)
from pipeline.warehouse.snowflake import account_statements
from pipeline.warehouse.snowflake.column_types import stored_name

_NUMBERED = 4
"""From this number of X on, sizes have it as a number."""
Row = Mapping[str, Any]


class AccountRows(Protocol):
    """Runs a statement and returns its rows."""

    def __call__(self, statement: str) -> Sequence[Row]:
        """Run it."""


@dataclass(frozen=True)
class FoundWarehouse:
    """A virtual warehouse; its size as it is written in DDL."""

    size: str
    auto_suspend_s: int
    clusters: tuple[int, int]
    scaling_policy: str
    resource_monitor: str | None
    is_auto_resumed: bool = True

    def __str__(self) -> str:
        """Return the settings on one line."""
        monitor = f", {self.resource_monitor}" if self.resource_monitor else ""
        resumes = "" if self.is_auto_resumed else ", does not resume by itself"
        clusters = f"{self.clusters[0]} to {self.clusters[1]} clusters, {self.scaling_policy}"
        return f"{self.size}, {self.auto_suspend_s} s, {clusters}{monitor}{resumes}"


@dataclass(frozen=True)
class FoundTable:
    """A table of the schema."""

    cluster_by: tuple[str, ...] = ()
    search_on: tuple[str, ...] = ()
    masking: Mapping[str, str] = field(default_factory=dict)
    """The policy of each column, by its stored name."""
    row_access: tuple[str, tuple[str, ...]] | None = None


@dataclass(frozen=True)
class FoundRole:
    """A role: its privileges as `(privilege, kind, name)`, and the roles that have it."""

    grants: frozenset[tuple[str, str, str]] = frozenset()
    granted_to: frozenset[str] = frozenset()


@dataclass(frozen=True)
class AccountState:
    """What exists, by name: monitors by their settings, policies by signature and body."""

    warehouses: Mapping[str, FoundWarehouse] = field(default_factory=dict)
    monitors: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    roles: Mapping[str, FoundRole] = field(default_factory=dict)
    masking_policies: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    row_access_policies: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    tables: Mapping[str, FoundTable] = field(default_factory=dict)


def read_account(rows: AccountRows, declared: DeclaredAccount, database: str, schema: str) -> AccountState:
    """Read what exists of the kinds that are declared; raise `StorageError` if the role may not see it."""
    return AccountState(
        warehouses=_warehouses(rows) if declared.of(VirtualWarehouse) else {},
        monitors=_monitors(rows) if declared.of(ResourceMonitor) else {},
        roles=_roles(rows, [each.name for each in declared.of(AccountRole)]),
        masking_policies=_policies(rows, "MASKING", account_statements.SHOW_MASKING_POLICIES)
        if declared.of(MaskingPolicy)
        else {},
        row_access_policies=_policies(rows, "ROW ACCESS", account_statements.SHOW_ROW_ACCESS_POLICIES)
        if declared.of(RowAccessPolicy)
        else {},
        tables=_tables(rows, declared, f"{database}.{schema}"),
    )


def _warehouses(rows: AccountRows) -> dict[str, FoundWarehouse]:
    return {
        str(row["name"]): FoundWarehouse(
            size=_size(str(row["size"])),
            auto_suspend_s=int(row["auto_suspend"] or 0),
            clusters=(int(row.get("min_cluster_count") or 1), int(row.get("max_cluster_count") or 1)),
            scaling_policy=str(row.get("scaling_policy") or "STANDARD").upper(),
            is_auto_resumed=str(row.get("auto_resume", True)).lower() == "true",
            resource_monitor=None
            if row.get("resource_monitor") in {None, "", "null"}
            else str(row["resource_monitor"]),
        )
        for row in rows(account_statements.SHOW_WAREHOUSES)
    }


def _size(shown: str) -> str:
    """Return a size as it is written in DDL: SHOW prints `2X-Large` for XXLARGE and `4X-Large` for X4LARGE."""
    times, _, size = shown.upper().replace("-", "").rpartition("X")
    if not times.isdecimal():
        return shown.upper().replace("-", "")
    return f"{'X' * int(times)}{size}" if int(times) < _NUMBERED else f"X{times}{size}"


def _monitors(rows: AccountRows) -> dict[str, tuple[object, ...]]:
    return {
        str(row["name"]): (
            int(float(row["credit_quota"])),
            str(row["frequency"]).upper(),
            tuple(sorted(_percentages(row["notify_at"]))),
            next(iter(_percentages(row["suspend_at"])), None),
            next(iter(_percentages(row["suspend_immediately_at"])), None),
        )
        for row in rows(account_statements.SHOW_MONITORS)
    }


def _percentages(value: object) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(value or ""))]


def _roles(rows: AccountRows, wanted: Sequence[str]) -> dict[str, FoundRole]:
    known = {str(row["name"]) for row in rows(account_statements.SHOW_ROLES)} if wanted else set()
    return {role: _role(rows, role) for role in wanted if role in known}


def _role(rows: AccountRows, role: str) -> FoundRole:
    grants = {
        (str(row["privilege"]), str(row["granted_on"]).replace("_", " "), str(row["name"]).replace('"', ""))
        for row in rows(account_statements.show_grants_to(role))
    }
    given = rows(account_statements.show_grants_of(role))
    return FoundRole(frozenset(grants), frozenset(str(r["grantee_name"]) for r in given if r["granted_to"] == "ROLE"))


def _policies(rows: AccountRows, kind: str, show: str) -> dict[str, tuple[str, str]]:
    found = {}
    for row in rows(show):
        name = str(row["name"])
        (described,) = rows(account_statements.describe_policy(kind, name))
        found[name] = (str(described["signature"]), str(described["body"]).strip())
    return found


def _tables(rows: AccountRows, declared: DeclaredAccount, schema: str) -> dict[str, FoundTable]:
    options = declared.of(TableOptions)
    if not options and not any(role.reads for role in declared.of(AccountRole)):
        return {}
    optioned = {stored_name(each.name): each for each in options}
    return {
        str(row["name"]): _table(rows, row, schema) if str(row["name"]) in optioned else FoundTable()
        for row in rows(account_statements.SHOW_TABLES)
    }


def _table(rows: AccountRows, shown: Row, schema: str) -> FoundTable:
    name = str(shown["name"])
    key = re.sub(r"^LINEAR\s*\(|\)$", "", str(shown.get("cluster_by") or ""))
    is_searched = str(shown.get("search_optimization") or "OFF") == "ON"
    search = rows(account_statements.describe_search(name)) if is_searched else ()
    masking: dict[str, str] = {}
    row_access = None
    for row in rows(account_statements.policy_references(f"{schema}.{name}")):
        if row["POLICY_KIND"] == "MASKING_POLICY":
            masking[str(row["REF_COLUMN_NAME"])] = str(row["POLICY_NAME"])
        if row["POLICY_KIND"] == "ROW_ACCESS_POLICY":
            row_access = (str(row["POLICY_NAME"]), tuple(json.loads(str(row["REF_ARG_COLUMN_NAMES"]))))
    return FoundTable(
        cluster_by=_plain(key.split(",")),
        search_on=tuple(sorted(_plain(str(row["target"]) for row in search if row["method"] == "EQUALITY"))),
        masking=masking,
        row_access=row_access,
    )


def _plain(columns: Iterable[str]) -> tuple[str, ...]:
    """Return column names without quotes and spaces."""
    return tuple(name for column in columns if (name := column.strip().strip('"')))
