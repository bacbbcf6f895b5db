"""What is declared of a Snowflake account is planned, applied once, and then nothing is left to do."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import sqlglot
from typer.testing import CliRunner

from cluster.cli.warehouse import app
from pipeline import (
    generate,
    snowflake_masking_policy,
    snowflake_options,
    snowflake_resource_monitor,
    snowflake_role,
    snowflake_row_access_policy,
    snowflake_warehouse,
    source,
    sql,
)
from pipeline.core.errors import DefinitionError, RequestError, StorageError
from pipeline.core.graph import Graph
from pipeline.core.snowflake_account import WarehouseSize, declared_account
from pipeline.warehouse.snowflake import account_statements
from pipeline.warehouse.snowflake.account_plan import AccountSchema, plan_account
from pipeline.warehouse.snowflake.account_state import read_account
from pipeline.warehouse.snowflake.sessions import SessionPool
from tests.rigs.reviewed import reviewed
from tests.rigs.scripted_snowflake import ScriptedSnowflake

RAW = source(generate({"id": "i", "email": "'x'"}, count=1), schema={"id": "bigint", "email": "varchar"}).named("raw")
GRAPH = Graph.of(
    [RAW, *(sql("select * from raw", layer="gold").named(name) for name in ("fact_order", "dim_customer"))]
)
SCHEMA = AccountSchema("DB", "GOLD", ("fact_order", "dim_customer"))
MONITOR = snowflake_resource_monitor(
    "MONTHLY", credits=200, notify_at=(90, 75), suspend_at=100, suspend_immediately_at=110
)
WAREHOUSE = snowflake_warehouse(
    "REPORTING", size="SMALL", auto_suspend_s=120, clusters=(1, 3), resource_monitor="MONTHLY"
)
HIDDEN = snowflake_masking_policy("HIDDEN", "varchar", "case when is_role_in_session('HR') then val else '***' end")
BY_REGION = snowflake_row_access_policy("BY_REGION", {"region": "varchar"}, "region = current_role()")
ANALYST = snowflake_role("ANALYST", reads="gold", uses="REPORTING", granted_to="SYSADMIN")
ORDERS = snowflake_options(
    "fact_order",
    cluster_by=("day", "region"),
    search_on="id",
    masking={"email": "HIDDEN"},
    row_access=("BY_REGION", "region"),
)
EVERYTHING = (MONITOR, WAREHOUSE, HIDDEN, BY_REGION, ANALYST, ORDERS)


def changes(account, *declarations):
    declared = declared_account(declarations, GRAPH)
    return plan_account(declared, read_account(account.rows, declared, *SCHEMA.names), SCHEMA)


def apply(account, *declarations):
    made = changes(account, *declarations)
    for change in made:
        account.rows(change.statement)
    return made


@pytest.fixture
def account():
    return ScriptedSnowflake("FACT_ORDER", "DIM_CUSTOMER", "SOMEONES")


def test_everything_is_made_once(account):
    made = apply(account, *EVERYTHING)
    assert not any(change.is_destructive for change in made)
    assert changes(account, *EVERYTHING) == ()
    assert account.roles["ANALYST"]["grants"] == {
        ("USAGE", "DATABASE", "DB"),
        ("USAGE", "SCHEMA", "DB.GOLD"),
        ("SELECT", "TABLE", "DB.GOLD.FACT_ORDER"),
        ("SELECT", "TABLE", "DB.GOLD.DIM_CUSTOMER"),
        ("USAGE", "WAREHOUSE", "REPORTING"),
    }


def test_nothing_declared_asks_nothing(account):
    assert changes(account) == ()
    assert account.sent == []


CHANGED = [
    ("ALTER RESOURCE MONITOR", False, snowflake_resource_monitor("MONTHLY", credits=300)),
    ("ALTER WAREHOUSE", False, snowflake_warehouse("REPORTING", size="XXLARGE")),
    ("SCALING_POLICY = ECONOMY", False, replace(WAREHOUSE, scaling_policy="ECONOMY")),
    ("ALTER MASKING POLICY", False, snowflake_masking_policy("HIDDEN", "varchar", "'***'")),
    ("ALTER ROW ACCESS POLICY", False, snowflake_row_access_policy("BY_REGION", {"region": "varchar"}, "true")),
    ("REVOKE", True, snowflake_role("ANALYST", reads="dim_customer", uses="REPORTING", granted_to="SYSADMIN")),
    ("REVOKE", True, snowflake_role("ANALYST", reads="gold")),
    ("GRANT ROLE", False, snowflake_role("ANALYST", reads="gold", uses="REPORTING", granted_to=("SYSADMIN", "hr"))),
]
OPTIONS = {
    "cluster_by": ("day", "region"),
    "search_on": "id",
    "masking": {"email": "HIDDEN"},
    "row_access": ("BY_REGION", "region"),
}
CHANGED_OPTIONS = [
    ("CLUSTER BY", False, {"cluster_by": "day"}),
    ("DROP CLUSTERING KEY", True, {"cluster_by": ()}),
    ("ADD SEARCH", False, {"search_on": ("id", "email")}),
    ("DROP SEARCH", True, {"search_on": ()}),
    ("SET MASKING", False, {"masking": {"email": "HIDDEN", "id": "HIDDEN"}}),
    ("UNSET MASKING", True, {"masking": {}}),
    ("DROP ROW ACCESS", True, {"row_access": None}),
    ("DROP ROW ACCESS", True, {"row_access": ("BY_REGION", "day")}),
]


@pytest.mark.parametrize(("words", "is_destructive", "declaration"), CHANGED)
def test_a_difference_is_changed_once(account, words, is_destructive, declaration):
    apply(account, *EVERYTHING)
    others = [each for each in EVERYTHING if (type(each), each.name) != (type(declaration), declaration.name)]
    made = apply(account, *others, declaration)
    assert any(words in change.statement for change in made)
    assert any(change.is_destructive for change in made) is is_destructive
    assert changes(account, *others, declaration) == ()


@pytest.mark.parametrize(("words", "is_destructive", "option"), CHANGED_OPTIONS)
def test_a_difference_of_a_table_is_changed_once(account, words, is_destructive, option):
    apply(account, *EVERYTHING)
    declared = (*EVERYTHING[:-1], snowflake_options("fact_order", **{**OPTIONS, **option}))
    made = apply(account, *declared)
    assert words in made[0].statement
    assert made[0].is_destructive is is_destructive
    assert len(made) == 1  # one statement: between two, the table would have no policy
    assert changes(account, *declared) == ()


def test_what_is_not_declared_is_not_touched(account):
    apply(account, *EVERYTHING)
    account.roles["ANALYST"]["grants"] |= {("SELECT", "TABLE", "OTHER.S.T"), ("USAGE", "DATABASE", "OTHER")}
    account.warehouses["OTHERS"] = {**account.warehouses["REPORTING"]}
    account.tables["SOMEONES"]["cluster_by"] = "LINEAR(X)"
    assert changes(account, *EVERYTHING) == ()
    assert changes(account, MONITOR) == ()


def test_a_warehouse_that_no_longer_resumes_is_set_again(account):
    apply(account, *EVERYTHING)
    account.warehouses["REPORTING"]["auto_resume"] = "false"
    (change,) = changes(account, *EVERYTHING)
    assert "AUTO_RESUME = TRUE" in change.statement
    assert change.now.endswith("does not resume by itself")


def test_names_are_compared_as_snowflake_does(account):
    lower = (
        snowflake_resource_monitor("monthly", credits=1),
        snowflake_warehouse("w", resource_monitor="monthly"),
        snowflake_masking_policy("hidden", "varchar", "'***'"),
        snowflake_row_access_policy("by_region", {"region": "varchar"}, "true"),
        snowflake_options("fact_order", masking={"email": "hidden"}, row_access=("by_region", "region")),
    )
    apply(account, *lower)
    assert changes(account, *lower) == ()


def test_a_policy_that_takes_other_values_is_not_replaced(account):
    apply(account, HIDDEN)
    with pytest.raises(
        StorageError, match=r"the policy 'HIDDEN' of the account takes other values: got \(val VARCHAR\)"
    ):
        changes(account, snowflake_masking_policy("HIDDEN", "number", "0"))


def test_ownership_is_not_revoked(account):
    apply(account, *EVERYTHING)
    account.roles["ANALYST"]["grants"].add(("OWNERSHIP", "TABLE", "DB.GOLD.FACT_ORDER"))
    assert changes(account, *EVERYTHING) == ()


def test_another_frequency_begins_a_new_period(account):
    apply(account, MONITOR)
    (change,) = changes(account, snowflake_resource_monitor("MONTHLY", credits=200, frequency="WEEKLY"))
    assert "FREQUENCY = WEEKLY START_TIMESTAMP = IMMEDIATELY" in change.statement


@pytest.mark.parametrize("size", get_args(WarehouseSize))
def test_sizes_are_read_as_they_are_written(account, size):
    apply(account, snowflake_warehouse("W", size=size))
    assert changes(account, snowflake_warehouse("W", size=size)) == ()


def test_a_table_that_is_not_loaded_yet_waits(account):
    del account.tables["FACT_ORDER"]
    made = apply(account, *EVERYTHING)
    assert not [change for change in made if "FACT_ORDER" in change.statement]
    account.tables["FACT_ORDER"] = {"cluster_by": "", "search": set(), "masking": {}, "access": None}
    assert len(changes(account, *EVERYTHING)) == 5


def test_the_statements_are_those_that_were_reviewed():
    quoted_body = snowflake_masking_policy("HIDDEN", "varchar", "'***'")
    statements = {
        "show warehouses": account_statements.SHOW_WAREHOUSES,
        "show monitors": account_statements.SHOW_MONITORS,
        "show roles": account_statements.SHOW_ROLES,
        "show tables": account_statements.SHOW_TABLES,
        "show masking policies": account_statements.SHOW_MASKING_POLICIES,
        "show row access policies": account_statements.SHOW_ROW_ACCESS_POLICIES,
        "show grants to": account_statements.show_grants_to("ANALYST"),
        "show grants of": account_statements.show_grants_of("ANALYST"),
        "describe policy": account_statements.describe_policy("MASKING", "HIDDEN"),
        "describe search": account_statements.describe_search("fact_order"),
        "policy references": account_statements.policy_references("DB.GOLD.FACT_ORDER"),
        "create monitor": account_statements.create_monitor(MONITOR),
        "alter monitor": account_statements.alter_monitor(MONITOR, is_new_period=False),
        "alter monitor, new period": account_statements.alter_monitor(MONITOR, is_new_period=True),
        "create warehouse": account_statements.create_warehouse(WAREHOUSE),
        "alter warehouse": account_statements.alter_warehouse(WAREHOUSE, has_clusters=True),
        "alter warehouse, without clusters": account_statements.alter_warehouse(WAREHOUSE, has_clusters=False),
        "create role": account_statements.create_role("ANALYST"),
        "grant": account_statements.grant("SELECT", "TABLE", '"DB"."GOLD"."FACT_ORDER"', "ANALYST"),
        "revoke": account_statements.revoke("SELECT", "TABLE", '"DB"."GOLD"."FACT_ORDER"', "ANALYST"),
        "grant role": account_statements.grant_role("ANALYST", "sysadmin"),
        "masking policy ddl": account_statements.masking_policy_ddl(HIDDEN, exists=False),
        "masking policy ddl, altered": account_statements.masking_policy_ddl(quoted_body, exists=True),
        "row access policy ddl": account_statements.row_access_policy_ddl(BY_REGION, exists=False),
        "row access policy ddl, altered": account_statements.row_access_policy_ddl(BY_REGION, exists=True),
        "cluster by": account_statements.cluster_by("fact_order", ("day", "odd name")),
        "cluster by, dropped": account_statements.cluster_by("fact_order", ()),
        "search on": account_statements.search_on("ADD", "fact_order", ("id",)),
        "set masking": account_statements.set_masking("fact_order", "email", "HIDDEN"),
        "set masking, removed": account_statements.set_masking("fact_order", "email", None),
        "add row access": account_statements.add_row_access("fact_order", "BY_REGION", ("region",)),
        "replace row access": account_statements.replace_row_access("fact_order", "OLD", "by_region", ("region",)),
        "drop row access": account_statements.drop_row_access("fact_order", "BY_REGION"),
        "cost of runs": account_statements.cost_of_runs(dt.datetime(2024, 5, 1, tzinfo=dt.UTC)),
    }
    assert reviewed(Path(__file__).parent / "golden" / "snowflake_account.sql", statements)
    made = {
        n.replace("_", " ").lower()
        for n, v in vars(account_statements).items()
        if n.startswith("SHOW")
        or (getattr(v, "__module__", "") == account_statements.__name__ and not n.startswith("_"))
    }
    assert made == {name.partition(",")[0] for name in statements}
    assert len(sqlglot.parse(statements["cost of runs"], read="snowflake")) == 1


WRONG = [
    (lambda: snowflake_warehouse("odd name"), r"letters, digits and underscores: got 'odd name'"),
    (lambda: snowflake_warehouse("W", size="HUGE"), r"unknown value of size=: got 'HUGE'; "),
    (lambda: snowflake_warehouse("W", scaling_policy="CHEAP"), r"unknown value of scaling_policy=: got 'CHEAP'"),
    (lambda: snowflake_warehouse("W", clusters=(3, 1)), r"clusters= a smallest and a largest number"),
    (lambda: snowflake_resource_monitor("M", credits=0), r"credits= and percentages must be positive"),
    (lambda: snowflake_resource_monitor("M", credits=1, frequency="HOURLY"), r"unknown value of frequency="),
    (
        lambda: declared_account([MONITOR, snowflake_resource_monitor("monthly", credits=1)], GRAPH),
        r"'MONTHLY' of Snowflake is declared twice, first at .*; remove one",
    ),
    (
        lambda: declared_account([snowflake_options("fact_orders")], GRAPH),
        r"names a gold table 'fact_orders', which is not declared; did you mean 'fact_order'\?",
    ),
    (
        lambda: declared_account([snowflake_options("fact_order", masking={"a": "HIDE"})], GRAPH),
        r"names a masking policy 'HIDE'",
    ),
    (
        lambda: declared_account([snowflake_options("fact_order", row_access=("R", "a"))], GRAPH),
        r"names a row access policy 'R'",
    ),
    (lambda: declared_account([WAREHOUSE], GRAPH), r"names a resource monitor 'MONTHLY', which is not declared"),
    (
        lambda: declared_account([MONITOR, WAREHOUSE, snowflake_role("A", uses="reportng")], GRAPH),
        r"'A' names a virtual warehouse 'REPORTNG', which is not declared; did you mean 'REPORTING'\?",
    ),
    (lambda: declared_account([snowflake_role("R", reads="silver")], GRAPH), r"names a gold table 'silver'"),
]


@pytest.mark.parametrize(("declare", "message"), WRONG)
def test_wrong_declarations_are_explained(declare, message):
    with pytest.raises(DefinitionError, match=message):
        declare()


PROJECT = """
from pipeline import generate, snowflake_options, snowflake_role, source, sql

raw = source(generate({"id": "i"}, count=3), schema={"id": "bigint"})
fact_order = sql("select id from raw", layer="gold")
orders = snowflake_options("fact_order", cluster_by="id")
analyst = snowflake_role("ANALYST", reads="gold")
"""


@pytest.fixture
def command(tmp_path, monkeypatch, account):
    """Return a function that runs `headwater warehouse` for a project whose account is the scripted one."""
    (tmp_path / "shop.py").write_text(PROJECT)
    url = "snowflake://u@acc/DB/GOLD?token=env:TOKEN"
    (tmp_path / "headwater.toml").write_text(
        f'[project]\ndefinitions = "shop.py"\n[env.dev]\nwarehouse = "{url}"\n[env.local]\n'
    )
    monkeypatch.setattr(SessionPool, "session", lambda *_: contextlib.nullcontext(account))

    def run(*words):
        return CliRunner().invoke(app, [*words, "--project", str(tmp_path)])

    return run


def test_the_commands_plan_and_apply(command, account):
    planned = command("plan")
    assert planned.exit_code == 3, planned.output
    assert 'ALTER TABLE "FACT_ORDER" CLUSTER BY ("ID");' in planned.output
    assert account.changes == []
    assert "5 changes made" in command("apply").output
    again = command("plan")
    assert (again.exit_code, again.output.strip()) == (0, "the account is as declared")


def test_what_takes_away_is_confirmed(command, account):
    command("apply")
    account.roles["ANALYST"]["grants"].add(("DELETE", "TABLE", "DB.GOLD.FACT_ORDER"))
    refused = command("apply", "--json")
    assert isinstance(refused.exception, RequestError)
    assert "confirm them with --yes" in str(refused.exception)
    (change,) = json.loads(command("apply", "--json", "--yes").output)
    assert change["statement"] == 'REVOKE DELETE ON TABLE "DB"."GOLD"."FACT_ORDER" FROM ROLE "ANALYST"'
    assert command("plan").exit_code == 0


def test_the_cost_of_runs_is_shown(command, account, monkeypatch):
    row = {"TABLE_NAME": "fact_order", "RUN_ID": "r1", "STATEMENTS": 20, "SECONDS": 4.5, "CREDITS": 0.0125}
    monkeypatch.setattr(account, "rows", lambda statement: [row] if "QUERY_HISTORY" in statement else [])
    (cost,) = json.loads(command("cost", "--json").output)
    assert cost == {"table": "fact_order", "run_id": "r1", "statements": 20, "seconds": 4.5, "credits": 0.0125}
    assert "0.013" in command("cost").output


def test_another_warehouse_has_no_account(command):
    refused = command("plan", "--env", "local")
    assert isinstance(refused.exception, RequestError)
    assert "is not in Snowflake" in str(refused.exception)
