"""A project whose warehouse is in Snowflake: runs, streams, commands and checks as with DuckDB."""

from __future__ import annotations

import datetime as dt
import json
import os

import pytest
from typer.testing import CliRunner

from cluster.cli.commands import load as command
from cluster.cli.warehouse import app
from pipeline.core.errors import StorageError
from pipeline.project.freshness import freshness
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner import Runner
from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime.job import catch_up
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.stream import Stream
from pipeline.warehouse.duckdb import DuckDBWarehouse
from tests.rigs.micro_batches import commit_micro_batches

SHOP = """
from pipeline import dimension, fact, files, generate, lookup, mart, source, sql

raw_orders = source(files("data/orders*.csv"), schema={"order_id": "bigint", "day": "date", "product": "varchar", "price": "decimal(9,2)"})
raw_products = source(files("data/products.csv"), key="product")
dim_product = dimension("select product, maker from raw_products", key="product")
fact_order = fact(
    "select order_id, day, product, price from raw_orders", key="order_id", lookups={"product_key": lookup("dim_product", "product")}
)
sales = mart("select day, count(*) as orders, sum(price) as amount from fact_order group by day", key="day")
readings = source(
    generate({"at": "timestamp '2024-01-01' + to_seconds(i)", "sensor": "'s' || (i % 70)", "degrees": "(i * 13) % 100"}, partitions=2, count=2000),
    schema={"at": "timestamp", "sensor": "varchar", "degrees": "integer"},
    event_time="at",
    lateness="5 seconds",
    stored=False,
)
latest = sql("select sensor, at, degrees from readings", key="sensor", sequence_by="at", layer="gold")
"""
QUICK = StreamOptions(intervals=Intervals(batch_s=0.01, commit_s=0.01, idle_commit_s=0.01, batch_offsets=300))


@pytest.fixture
def shop(tmp_path, snowflake_url):
    """Return the folder of a project with a warehouse in Snowflake."""
    toml = f'[project]\ndefinitions = "shop.py"\n[env.dev]\nwarehouse = "{snowflake_url}"\nwarehouse_seconds = 0\n'
    (tmp_path / "headwater.toml").write_text(toml)
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "products.csv").write_text("product,maker\nkettle,Acme\ncup,Bell\n")
    (tmp_path / "data" / "orders1.csv").write_text(
        "order_id,day,product,price\n1,2026-01-05,kettle,25.10\n2,2026-01-06,cup,4\n"
    )
    return tmp_path


@pytest.fixture
def opened(shop):
    workspaces = []

    def open_it():
        workspaces.append(Workspace(load(shop)))
        return workspaces[-1]

    yield open_it
    for workspace in workspaces:
        workspace.warehouse.close()


def in_lake(workspace, text):
    return sorted(tuple(row.values()) for row in workspace.query(text).to_pylist())


def in_warehouse(workspace, text):
    return sorted(tuple(row.values()) for row in workspace.warehouse.query(text).to_pylist())


def run(workspace):
    """Run the project; return the statements that it sent."""
    sent = []
    runner = Runner(workspace.project)
    runner.workspace.warehouse.sessions.reached = sent.append
    try:
        runner.run()
    finally:
        runner.workspace.warehouse.close()
    assert runner.errors == {}
    return sent


def test_runs_load_the_star_schema_and_then_only_changes(shop, opened):
    workspace = opened()
    run(workspace)
    facts = "select order_id, product_key, price from fact_order"
    assert in_warehouse(workspace, facts) == in_lake(workspace, facts)
    assert set(workspace.warehouse.loaded()) >= {"dim_product", "fact_order", "sales"}

    (shop / "data" / "orders2.csv").write_text("order_id,day,product,price\n3,2026-01-06,kettle,0.01\n")
    workspace = opened()
    sent = run(workspace)
    assert in_warehouse(workspace, facts) == in_lake(workspace, facts)
    totals = "select day, orders, amount from sales"
    assert (
        [row[1] for row in in_warehouse(workspace, totals)] == [row[1] for row in in_lake(workspace, totals)] == [1, 2]
    )
    assert not [statement for statement in sent if statement.startswith('DELETE FROM "FACT_ORDER"')]
    join = (
        "select count(*) from fact_order f join dim_product d on f.product_key = d.product_key where d.maker = 'Acme'"
    )
    assert in_warehouse(workspace, join) == [(2,)]


def test_status_shows_how_far_the_warehouse_is_behind(shop, opened):
    workspace = opened()
    assert {each.state for each in freshness(workspace)} == {"not computed"}
    run(workspace)
    known = {each.table: each for each in freshness(workspace)}
    assert {each.state for name, each in known.items() if name != "latest"} == {"current"}
    assert (known["fact_order"].rows, known["fact_order"].behind_s) == (2, 0.0)
    assert known["fact_order"].committed_at <= known["fact_order"].loaded_at + dt.timedelta(minutes=1)

    shown = CliRunner().invoke(app, ["status", "--json", "--project", str(shop)])
    states = {each["table"]: each["state"] for each in json.loads(shown.output)}
    assert states["sales"] == "current"
    assert "not computed" in CliRunner().invoke(app, ["status", "--project", str(shop)]).output


def test_doctor_and_forget_work_without_showing_secrets(shop, opened, monkeypatch, capsys):
    monkeypatch.setenv("HEADWATER_TEST_PASSWORD", "an open secret")
    run(opened())
    (shop / "shop.py").write_text(SHOP.replace("sales = mart", "sales_by_day = mart"))
    monkeypatch.chdir(shop)
    command("doctor")(["--json"], standalone_mode=False)
    checked = capsys.readouterr().out
    assert "env:" in checked
    assert os.environ["HEADWATER_TEST_PASSWORD"] not in checked
    command("lake")(["forget", "sales", "--yes"], standalone_mode=False)
    assert "sales" not in opened().warehouse.loaded()
    with pytest.raises(StorageError, match="does not exist, or the role may not use it"):
        opened().warehouse.query("from sales")


def test_status_of_duckdb_shows_versions_behind(tmp_path, shop, monkeypatch):
    (shop / "headwater.toml").write_text('[project]\ndefinitions = "shop.py"\n')
    Runner(load(shop)).run()
    workspace = Workspace(load(shop))
    before = next(each for each in freshness(workspace) if each.table == "fact_order")
    (shop / "data" / "orders2.csv").write_text("order_id,day,product,price\n3,2026-01-06,kettle,0.01\n")
    monkeypatch.setattr(DuckDBWarehouse, "load", lambda *_, **__: None)  # the process ends before the load
    Runner(load(shop)).run()
    after = next(each for each in freshness(workspace) if each.table == "fact_order")
    assert (before.state, after.state) == ("current", "behind")
    assert after.lake_version == after.loaded_version + 1
    assert after.behind_s > 0
    assert tmp_path == shop


def test_a_stream_loads_each_epoch_and_a_killed_one_is_completed(opened):
    workspace = opened()
    stream = Stream(workspace, Planner(workspace).plan("latest"), QUICK)
    commit_micro_batches(stream, 3)
    stream.close()  # the process ends; loads ran beside it
    loaded = workspace.warehouse.loaded()["latest"]
    assert loaded[0] <= workspace.require("latest").number
    catch_up(workspace, ("latest",), stream_options=QUICK)
    version = workspace.require("latest")
    assert workspace.warehouse.loaded()["latest"] == (version.number, version.manifest_id)
    text = "select sensor, degrees from latest"
    assert in_warehouse(workspace, text) == in_lake(workspace, text)


def test_a_table_of_someone_else_is_not_overwritten(opened):
    workspace = opened()
    with workspace.warehouse.sessions.session("test") as session:
        session.rows('CREATE TABLE "SALES" ("X" NUMBER(38,0))')
        session.rows('INSERT INTO "SALES" ("X") VALUES (1)')
    with pytest.raises(StorageError, match="has a table 'SALES' that Headwater did not load; drop or rename it"):
        run(workspace)
    assert in_warehouse(workspace, "select x from sales") == [(1,)]


def test_rows_that_others_changed_are_replaced_by_the_next_load(shop, opened):
    workspace = opened()
    run(workspace)
    with workspace.warehouse.sessions.session("test") as session:
        session.rows('DELETE FROM "FACT_ORDER" WHERE "ORDER_ID" = 1')
    (shop / "data" / "orders2.csv").write_text("order_id,day,product,price\n3,2026-01-06,kettle,0.01\n")
    workspace = opened()
    run(workspace)
    facts = "select order_id from fact_order"
    assert in_warehouse(workspace, facts) == in_lake(workspace, facts) == [(1,), (2,), (3,)]
