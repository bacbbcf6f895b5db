"""The difference between a declared account and what it has, as statements in the order in which they are run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.core.definitions import LAYERS
from pipeline.core.errors import StorageError
from pipeline.core.snowflake_account import (
    AccountRole,
    DeclaredAccount,
    MaskingPolicy,
    ResourceMonitor,
    RowAccessPolicy,
    SnowflakeDeclaration,
    TableOptions,
    VirtualWarehouse,
)
from pipeline.kernel.sql_text import quoted
from pipeline.warehouse.snowflake import account_statements
from pipeline.warehouse.snowflake.account_state import AccountState, FoundRole, FoundTable, FoundWarehouse
from pipeline.warehouse.snowflake.column_types import stored_name


@dataclass(frozen=True)
class AccountChange:
    """A statement, what it is about, and what is different now."""

    subject: str
    statement: str
    now: str = ""
    """What there is; empty if there is nothing."""
    is_destructive: bool = False
    """Whether it takes something away: a privilege, a policy, a clustering key."""


@dataclass(frozen=True)
class AccountSchema:
    """Where the tables are, and their names."""

    database: str
    schema: str
    tables: tuple[str, ...]
    """The gold tables of the project."""

    @property
    def names(self) -> tuple[str, str]:
        """The names of database and schema as Snowflake stores them."""
        return stored_name(self.database), stored_name(self.schema)

    def quoted(self, table: str | None = None) -> str:
        """Return the quoted name of the schema, or of a table in it."""
        return ".".join(map(quoted, (*self.names, *([] if table is None else [stored_name(table)]))))

    def stored(self, table: str | None = None) -> str:
        """Return the name of the schema, or of a table in it, as SHOW prints it."""
        return ".".join((*self.names, *([] if table is None else [stored_name(table)])))


def plan_account(declared: DeclaredAccount, found: AccountState, schema: AccountSchema) -> tuple[AccountChange, ...]:
    """Return the changes; none if the account is as declared. What is not declared stays as it is.

    Options and privileges of tables that are not loaded yet are left for the next time.
    """
    return (
        *_monitors(declared, found),
        *_warehouses(declared, found),
        *_policies(declared, found),
        *(change for each in declared.of(TableOptions) for change in _table(each, found)),
        *(change for each in declared.of(AccountRole) for change in _role(each, found, schema)),
    )


def _monitors(declared: DeclaredAccount, found: AccountState) -> Iterator[AccountChange]:
    for each in declared.of(ResourceMonitor):
        now = found.monitors.get(each.name)
        if now == (each.credits, each.frequency, each.notify_at, each.suspend_at, each.suspend_immediately_at):
            continue
        statement = (
            account_statements.create_monitor(each)
            if now is None
            else account_statements.alter_monitor(each, is_new_period=now[1] != each.frequency)
        )
        yield AccountChange(f"resource monitor {each.name}", statement, _shown(now))


def _warehouses(declared: DeclaredAccount, found: AccountState) -> Iterator[AccountChange]:
    for each in declared.of(VirtualWarehouse):
        now = found.warehouses.get(each.name)
        monitor = None if each.resource_monitor is None else each.resource_monitor.upper()
        if monitor is None and now is not None:  # an undeclared monitor stays
            monitor = now.resource_monitor
        wanted = FoundWarehouse(each.size, each.auto_suspend_s, each.clusters, each.scaling_policy, monitor)
        if now == wanted:
            continue
        statement = (
            account_statements.create_warehouse(each)
            if now is None
            else account_statements.alter_warehouse(each, has_clusters=_scaling(wanted) != _scaling(now))
        )
        yield AccountChange(f"warehouse {each.name}", statement, "" if now is None else str(now))


def _scaling(warehouse: FoundWarehouse) -> tuple[object, ...]:
    return warehouse.clusters, warehouse.scaling_policy


def _policies(declared: DeclaredAccount, found: AccountState) -> Iterator[AccountChange]:
    for masking in declared.of(MaskingPolicy):
        known = found.masking_policies.get(masking.name)
        if known is None or _differs(masking, f"(VAL {masking.type})", masking.body, known):
            statement = account_statements.masking_policy_ddl(masking, exists=known is not None)
            yield AccountChange(f"masking policy {masking.name}", statement, "" if known is None else known[1])
    for access in declared.of(RowAccessPolicy):
        known = found.row_access_policies.get(access.name)
        signature = f"({', '.join(f'{column} {kind}' for column, kind in access.columns)})"
        if known is None or _differs(access, signature, access.body, known):
            statement = account_statements.row_access_policy_ddl(access, exists=known is not None)
            yield AccountChange(f"row access policy {access.name}", statement, "" if known is None else known[1])


def _differs(policy: SnowflakeDeclaration, signature: str, body: str, known: tuple[str, str]) -> bool:
    """Return whether the body differs; raise `StorageError` for other values, which a policy in use cannot get."""
    if _values(known[0]) != _values(signature):
        raise StorageError(
            f"the policy {policy.name!r} of the account takes other values",
            got=known[0],
            do="declare it under another name, or drop it where it is not used",
            place=policy.place,
        )
    return _plain(known[1]) != _plain(body)


def _values(signature: str) -> list[str]:
    """Return the names and types of a signature, without the lengths that Snowflake adds."""
    return re.findall(r"\w+", re.sub(r"\(\d+(,\s*\d+)?\)", "", signature.upper()))


def _table(options: TableOptions, found: AccountState) -> Iterator[AccountChange]:
    now = found.tables.get(stored_name(options.name))
    if now is None:
        return
    subject = f"table {options.name}"
    wanted = tuple(map(stored_name, options.cluster_by))
    if now.cluster_by != wanted:
        statement = account_statements.cluster_by(options.name, options.cluster_by)
        yield AccountChange(subject, statement, _shown(now.cluster_by), is_destructive=not wanted)
    searched = {stored_name(name) for name in options.search_on}
    if added := sorted(searched - set(now.search_on)):
        yield AccountChange(subject, account_statements.search_on("ADD", options.name, added))
    if gone := sorted(set(now.search_on) - searched):
        statement = account_statements.search_on("DROP", options.name, gone)
        yield AccountChange(subject, statement, _shown(gone), is_destructive=True)
    yield from _table_policies(options, now)


def _table_policies(options: TableOptions, now: FoundTable) -> Iterator[AccountChange]:
    subject = f"table {options.name}"
    masked = {stored_name(column): policy.upper() for column, policy in options.masking}
    for column, policy in masked.items():
        if now.masking.get(column) != policy:
            statement = account_statements.set_masking(options.name, column, policy)
            yield AccountChange(subject, statement, now.masking.get(column, ""))
    for column in sorted(set(now.masking) - set(masked)):
        statement = account_statements.set_masking(options.name, column, None)
        yield AccountChange(subject, statement, now.masking[column], is_destructive=True)
    access = options.row_access
    wanted = None if access is None else (access[0].upper(), tuple(map(stored_name, access[1])))
    if now.row_access == wanted:
        return
    if now.row_access is None:
        if access is not None:
            yield AccountChange(subject, account_statements.add_row_access(options.name, *access))
        return
    before = now.row_access[0]
    statement = (
        account_statements.drop_row_access(options.name, before)
        if access is None
        else account_statements.replace_row_access(options.name, before, *access)
    )
    yield AccountChange(subject, statement, _shown(now.row_access), is_destructive=True)


def _role(role: AccountRole, found: AccountState, schema: AccountSchema) -> Iterator[AccountChange]:
    subject, now = f"role {role.name}", found.roles.get(role.name)
    if now is None:
        now = FoundRole()
        yield AccountChange(subject, account_statements.create_role(role.name))
    wanted = _grants(role, found, schema)
    for (privilege, kind, name), written in wanted.items():
        if (privilege, kind, name) not in now.grants:
            yield AccountChange(subject, account_statements.grant(privilege, kind, written, role.name))
    for privilege, kind, name in sorted(now.grants):
        is_ours = kind == "WAREHOUSE" or (kind == "TABLE" and name.startswith(f"{schema.stored()}."))
        if is_ours and privilege != "OWNERSHIP" and (privilege, kind, name) not in wanted:
            written = ".".join(map(quoted, name.split(".")))
            statement = account_statements.revoke(privilege, kind, written, role.name)
            yield AccountChange(subject, statement, f"{privilege} ON {kind} {name}", is_destructive=True)
    for other in role.granted_to:
        if other.upper() not in now.granted_to:
            yield AccountChange(subject, account_statements.grant_role(role.name, other))


def _grants(role: AccountRole, found: AccountState, schema: AccountSchema) -> dict[tuple[str, str, str], str]:
    """Return the privileges of a role, each with its quoted name; tables that do not exist yet have none."""
    database = schema.names[0]
    tables = schema.tables if LAYERS[-1] in role.reads else role.reads
    grants = {}
    if role.reads:
        grants["USAGE", "DATABASE", database] = quoted(database)
        grants["USAGE", "SCHEMA", schema.stored()] = schema.quoted()
    for table in tables:
        if stored_name(table) in found.tables:
            grants["SELECT", "TABLE", schema.stored(table)] = schema.quoted(table)
    for name in role.uses:
        grants["USAGE", "WAREHOUSE", name.upper()] = quoted(name.upper())
    return grants


def _plain(body: str) -> str:
    return re.sub(r"\s+", " ", body).strip()


def _shown(now: Sequence[object] | None) -> str:
    return "" if not now else ", ".join(str(part) for part in now if part is not None)
