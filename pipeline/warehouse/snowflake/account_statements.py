"""All statements of `headwater warehouse plan` and `apply`, and of the cost of runs.

Most are not understood by sqlglot and by no emulator: `tests/warehouse/golden/snowflake_account.sql` is reviewed by a
person for each change.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pipeline.core.snowflake_account import MaskingPolicy, ResourceMonitor, RowAccessPolicy, VirtualWarehouse
from pipeline.kernel.sql_text import quoted
from pipeline.warehouse.snowflake.column_types import identifier
from pipeline.warehouse.snowflake.statements import text

SHOW_WAREHOUSES = "SHOW WAREHOUSES"
SHOW_MONITORS = "SHOW RESOURCE MONITORS"
SHOW_ROLES = "SHOW ROLES"
SHOW_TABLES = "SHOW TABLES"
SHOW_MASKING_POLICIES = "SHOW MASKING POLICIES"
SHOW_ROW_ACCESS_POLICIES = "SHOW ROW ACCESS POLICIES"


def show_grants_to(role: str) -> str:
    """Return the SHOW of the privileges of a role."""
    return f"SHOW GRANTS TO ROLE {quoted(role)}"


def show_grants_of(role: str) -> str:
    """Return the SHOW of the users and roles that have a role."""
    return f"SHOW GRANTS OF ROLE {quoted(role)}"


def describe_policy(kind: str, policy: str) -> str:
    """Return the DESCRIBE of a MASKING or a ROW ACCESS policy."""
    return f"DESCRIBE {kind} POLICY {quoted(policy)}"


def describe_search(table: str) -> str:
    """Return the DESCRIBE of the search optimization of a table."""
    return f"DESCRIBE SEARCH OPTIMIZATION ON {identifier(table)}"


def policy_references(table: str) -> str:
    """Return the SELECT of the policies of a table, by its name with database and schema."""
    return (
        'SELECT "POLICY_NAME", "POLICY_KIND", "REF_COLUMN_NAME", "REF_ARG_COLUMN_NAMES" FROM TABLE('
        f"INFORMATION_SCHEMA.POLICY_REFERENCES(REF_ENTITY_NAME => {text(table)}, REF_ENTITY_DOMAIN => 'TABLE'))"
    )


def create_monitor(monitor: ResourceMonitor) -> str:
    """Return the DDL that creates a resource monitor, whose period begins now."""
    return f"CREATE RESOURCE MONITOR {quoted(monitor.name)} WITH {_quota(monitor, is_new_period=True)}"


def alter_monitor(monitor: ResourceMonitor, *, is_new_period: bool) -> str:
    """Return the DDL that alters a resource monitor; another frequency begins a new period."""
    return f"ALTER RESOURCE MONITOR {quoted(monitor.name)} SET {_quota(monitor, is_new_period=is_new_period)}"


def _quota(monitor: ResourceMonitor, *, is_new_period: bool) -> str:
    triggers = [f"ON {percent} PERCENT DO NOTIFY" for percent in monitor.notify_at]
    if monitor.suspend_at is not None:
        triggers.append(f"ON {monitor.suspend_at} PERCENT DO SUSPEND")
    if monitor.suspend_immediately_at is not None:
        triggers.append(f"ON {monitor.suspend_immediately_at} PERCENT DO SUSPEND_IMMEDIATE")
    period = f" FREQUENCY = {monitor.frequency} START_TIMESTAMP = IMMEDIATELY" if is_new_period else ""
    return f"CREDIT_QUOTA = {monitor.credits}{period}{' TRIGGERS ' if triggers else ''}{' '.join(triggers)}"


def create_warehouse(warehouse: VirtualWarehouse) -> str:
    """Return the DDL that creates a virtual warehouse, which is suspended until it is used."""
    has_clusters = warehouse.clusters != (1, 1) or warehouse.scaling_policy != "STANDARD"
    options = _warehouse_options(warehouse, has_clusters=has_clusters)
    return f"CREATE WAREHOUSE {quoted(warehouse.name)} WITH {options} INITIALLY_SUSPENDED = TRUE"


def alter_warehouse(warehouse: VirtualWarehouse, *, has_clusters: bool) -> str:
    """Return the DDL that alters a virtual warehouse; the Standard Edition has no options of clusters."""
    return f"ALTER WAREHOUSE {quoted(warehouse.name)} SET {_warehouse_options(warehouse, has_clusters=has_clusters)}"


def _warehouse_options(warehouse: VirtualWarehouse, *, has_clusters: bool) -> str:
    least, most = warehouse.clusters
    parts = [f"WAREHOUSE_SIZE = {warehouse.size}", f"AUTO_SUSPEND = {warehouse.auto_suspend_s}", "AUTO_RESUME = TRUE"]
    if has_clusters:
        parts += [f"MIN_CLUSTER_COUNT = {least}", f"MAX_CLUSTER_COUNT = {most}"]
        parts.append(f"SCALING_POLICY = {warehouse.scaling_policy}")
    if warehouse.resource_monitor is not None:
        parts.append(f"RESOURCE_MONITOR = {quoted(warehouse.resource_monitor.upper())}")
    return " ".join(parts)


def create_role(role: str) -> str:
    """Return the DDL that creates a role."""
    return f"CREATE ROLE IF NOT EXISTS {quoted(role)}"


def grant(privilege: str, kind: str, name: str, role: str) -> str:
    """Return the GRANT of a privilege; `name` is quoted already."""
    return f"GRANT {privilege} ON {kind} {name} TO ROLE {quoted(role)}"


def revoke(privilege: str, kind: str, name: str, role: str) -> str:
    """Return the REVOKE of a privilege; `name` is quoted already."""
    return f"REVOKE {privilege} ON {kind} {name} FROM ROLE {quoted(role)}"


def grant_role(role: str, to: str) -> str:
    """Return the GRANT of a role to another."""
    return f"GRANT ROLE {quoted(role)} TO ROLE {quoted(to.upper())}"


def masking_policy_ddl(policy: MaskingPolicy, *, exists: bool) -> str:
    """Return the DDL that creates a masking policy, or changes its body while it is in use."""
    if exists:
        return f"ALTER MASKING POLICY {quoted(policy.name)} SET BODY -> {policy.body}"
    return f"CREATE MASKING POLICY {quoted(policy.name)} AS (val {policy.type}) RETURNS {policy.type} -> {policy.body}"


def row_access_policy_ddl(policy: RowAccessPolicy, *, exists: bool) -> str:
    """Return the DDL that creates a row access policy, or changes its body while it is in use."""
    if exists:
        return f"ALTER ROW ACCESS POLICY {quoted(policy.name)} SET BODY -> {policy.body}"
    values = ", ".join(f"{column} {kind}" for column, kind in policy.columns)
    return f"CREATE ROW ACCESS POLICY {quoted(policy.name)} AS ({values}) RETURNS BOOLEAN -> {policy.body}"


def cluster_by(table: str, columns: Sequence[str]) -> str:
    """Return the DDL of a clustering key; without columns, it is dropped."""
    if not columns:
        return f"ALTER TABLE {identifier(table)} DROP CLUSTERING KEY"
    return f"ALTER TABLE {identifier(table)} CLUSTER BY ({', '.join(map(identifier, columns))})"


def search_on(verb: str, table: str, columns: Sequence[str]) -> str:
    """Return the DDL that adds (ADD) or drops (DROP) the search optimization of columns for equality."""
    return (
        f"ALTER TABLE {identifier(table)} {verb} SEARCH OPTIMIZATION ON EQUALITY({', '.join(map(identifier, columns))})"
    )


def set_masking(table: str, column: str, policy: str | None) -> str:
    """Return the DDL that sets, replaces or removes the masking policy of a column."""
    change = "UNSET MASKING POLICY" if policy is None else f"SET MASKING POLICY {quoted(policy.upper())} FORCE"
    return f"ALTER TABLE {identifier(table)} MODIFY COLUMN {identifier(column)} {change}"


def add_row_access(table: str, policy: str, columns: Sequence[str]) -> str:
    """Return the DDL that adds a row access policy."""
    given = ", ".join(map(identifier, columns))
    return f"ALTER TABLE {identifier(table)} ADD ROW ACCESS POLICY {quoted(policy.upper())} ON ({given})"


def replace_row_access(table: str, before: str, policy: str, columns: Sequence[str]) -> str:
    """Return the DDL that replaces a row access policy: one statement, so that no query sees all rows in between."""
    given = ", ".join(map(identifier, columns))
    return (
        f"ALTER TABLE {identifier(table)} DROP ROW ACCESS POLICY {quoted(before)}, "
        f"ADD ROW ACCESS POLICY {quoted(policy.upper())} ON ({given})"
    )


def drop_row_access(table: str, policy: str) -> str:
    """Return the DDL that removes a row access policy from a table."""
    return f"ALTER TABLE {identifier(table)} DROP ROW ACCESS POLICY {quoted(policy)}"


def cost_of_runs(since: datetime) -> str:
    """Return the SELECT of the statements, seconds and credits of each table and run, from their query tags.

    Credits are those of QUERY_ATTRIBUTION_HISTORY, which Snowflake completes within some hours.
    """
    tag = "TRY_PARSE_JSON(h.QUERY_TAG)"
    at = f"CAST({text(since.isoformat(sep=' '))} AS TIMESTAMP_TZ)"
    return (
        f'SELECT CAST({tag}:"table" AS VARCHAR) AS "TABLE_NAME", CAST({tag}:"run" AS VARCHAR) AS "RUN_ID", '
        'COUNT(*) AS "STATEMENTS", SUM(h.TOTAL_ELAPSED_TIME) / 1000 AS "SECONDS", '
        'SUM(COALESCE(a.CREDITS_ATTRIBUTED_COMPUTE, 0) + COALESCE(h.CREDITS_USED_CLOUD_SERVICES, 0)) AS "CREDITS" '
        "FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY AS h "
        "LEFT JOIN SNOWFLAKE.ACCOUNT_USAGE.QUERY_ATTRIBUTION_HISTORY AS a ON a.QUERY_ID = h.QUERY_ID "
        f'WHERE CAST({tag}:"app" AS VARCHAR) = \'headwater\' AND CAST({tag}:"table" AS VARCHAR) IS NOT NULL '
        f"AND h.START_TIME >= {at} GROUP BY 1, 2 ORDER BY 5 DESC"
    )
