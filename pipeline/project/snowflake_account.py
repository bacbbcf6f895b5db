"""The account of a project's Snowflake warehouse: what is declared, what is different, and what runs cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline.core.definitions import StoredDefinition
from pipeline.core.errors import RequestError
from pipeline.project.workspace import Workspace
from pipeline.warehouse.snowflake import account_statements
from pipeline.warehouse.snowflake.account_plan import AccountChange, AccountSchema, plan_account
from pipeline.warehouse.snowflake.account_state import read_account
from pipeline.warehouse.snowflake.engine import SnowflakeWarehouse


@dataclass(frozen=True)
class RunCost:
    """What the loads of a table by a run cost: credits of compute and cloud services."""

    table: str
    run_id: str
    statements: int
    seconds: float
    credits: float


def plan_account_changes(workspace: Workspace) -> tuple[AccountChange, ...]:
    """Return what has to change for the account to be as declared.

    Raises `RequestError` if the warehouse is not in Snowflake, and `StorageError` if the role may not see the account.
    """
    warehouse = _snowflake(workspace)
    definitions = workspace.project.graph.all_of(StoredDefinition)
    tables = tuple(each.name for each in definitions if each.is_in_warehouse)
    schema = AccountSchema(warehouse.address.database, warehouse.address.schema, tables)
    declared = workspace.project.account
    with warehouse.sessions.session("headwater plan") as session:
        return plan_account(declared, read_account(session.rows, declared, *schema.names), schema)


def apply_changes(workspace: Workspace, changes: Sequence[AccountChange]) -> None:
    """Make changes, in order. If one fails, those before it stay; the next plan has the others."""
    with _snowflake(workspace).sessions.session("headwater apply") as session:
        for change in changes:
            session.rows(change.statement)


def run_costs(workspace: Workspace, since: datetime) -> tuple[RunCost, ...]:
    """Return what loads cost since a time, the most expensive first.

    The role needs IMPORTED PRIVILEGES on the database SNOWFLAKE, whose views are some hours late.
    """
    with _snowflake(workspace).sessions.session("headwater cost") as session:
        rows = session.rows(account_statements.cost_of_runs(since))
    return tuple(
        RunCost(
            str(row["TABLE_NAME"]),
            str(row["RUN_ID"] or ""),
            int(row["STATEMENTS"]),
            float(row["SECONDS"]),
            float(row["CREDITS"]),
        )
        for row in rows
    )


def _snowflake(workspace: Workspace) -> SnowflakeWarehouse:
    warehouse = workspace.warehouse
    if not isinstance(warehouse, SnowflakeWarehouse):
        raise RequestError(
            "the warehouse of this environment is not in Snowflake",
            got=workspace.settings.warehouse,
            do="choose another with --env, or set `warehouse` to snowflake://...",
        )
    return warehouse
