"""`headwater plan`: causes, columns, what breaks downstream, and the work, without computing anything."""

from __future__ import annotations

import json

import pytest

from pipeline.core.schema import SchemaChange
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.plan_changes import plan_changes
from pipeline.runner.runner import Runner
from tests.rigs.command import environment
from tests.runner.conftest import TOML

SHOP = """
import pyarrow as pa
from pipeline import dimension, fact, files, lookup, mart, quarantine, source, sql, table
raw = source(files("data/*.csv"), schema={"id": "bigint", "k": "varchar", "v": "decimal(9, 2)", "at": "timestamp"})
clean = sql("select id, k, v, at from raw", key="id", sequence_by="at")
dim_k = dimension("select k, max(v) as top, at from clean group by all", key="k", stored_as_scd_type=2, sequence_by="at")
fact_v = fact("select id, k, v, at from clean", key="id", lookups={"k_key": lookup("dim_k", "k", as_of="at")})
total = mart("select k_key, sum(v) as total from fact_v group by k_key")
large = sql("select id from clean where v > 5")


@table()
def doubled(large: pa.Table) -> pa.Table:
    return large


of_function = sql("select id from doubled")
"""


@pytest.fixture
def shop(tmp_path):
    folder = tmp_path / "p"
    (folder / "data").mkdir(parents=True)
    (folder / "headwater.toml").write_text(TOML)
    (folder / "shop.py").write_text(SHOP)
    (folder / "data" / "a.csv").write_text("id,k,v,at\n1,a,10,2026-01-01\n2,b,1,2026-01-01\n")
    assert Runner(load(folder), RunOptions()).run().status == "done"
    return folder


def plan(folder, *changes):
    text = (folder / "shop.py").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "shop.py").write_text(text)
    return {change.name: change for change in plan_changes(Workspace(load(folder)))}


def causes(changes):
    return {name: (change.cause, change.decision) for name, change in changes.items()}


def test_nothing_changes(shop):
    assert plan(shop) == {}


def test_new_data_is_told_from_changed_definitions(shop):
    (shop / "data" / "b.csv").write_text("id,k,v,at\n3,a,10,2026-01-02\n")
    found = plan(shop, ("where v > 5", "where v > 6"))

    assert causes(found) == {
        "raw": ("new data", "append"),
        "clean": ("new data", "merge"),
        "dim_k": ("new data", "rebuild"),
        "fact_v": ("new data", "rebuild"),
        "total": ("new data", "rebuild"),
        "large": ("changed", "rebuild"),
        "doubled": ("affected", "rebuild"),
        "of_function": ("affected", "rebuild"),
    }
    assert all(not change.columns and not change.error for change in found.values())
    assert found["raw"].work.size_bytes == (shop / "data" / "b.csv").stat().st_size
    assert found["large"].work.rows == 2
    assert all(change.work.seconds is not None for change in found.values())


def test_a_removed_column_breaks_what_names_it(shop):
    found = plan(shop, ("select id, k, v, at from raw", "select id, k, at, v::double as w from raw"))

    assert found["clean"].columns == SchemaChange(("w",), ("v",), ())
    assert {name for name, change in found.items() if change.error} == {"dim_k", "large"}  # fact_v reads dim_k
    assert 'column "v" not found' in found["large"].error
    assert {"dim_k", "fact_v", "large"} <= set(found["clean"].used_by["v"])


@pytest.mark.parametrize("option", ["expect=[quarantine('small', 'v < 100')]", 'partition_by="v"', 'key=["id", "v"]'])
def test_a_column_that_only_an_option_names_is_missed(shop, option):
    shown = f'shown = sql("select id, k, v from clean", {option})\n'
    (shop / "shop.py").write_text(SHOP + shown)
    assert Runner(load(shop), RunOptions()).run().status == "done"

    found = plan(shop, ("select id, k, v from clean", "select id, k from clean"))

    assert {name for name, change in found.items() if change.error} == {"shown"}
    assert '"v" not found' in found["shown"].error


def test_another_type_is_followed_downstream(shop):
    found = plan(shop, ('"v": "decimal(9, 2)"', '"v": "double"'))

    assert found["raw"].columns == SchemaChange((), (), (("v", "DECIMAL(9,2)", "DOUBLE"),))
    assert found["fact_v"].columns.retyped == (("v", "DECIMAL(9,2)", "DOUBLE"),)
    assert found["total"].columns.retyped == (("total", "DECIMAL(38,2)", "DOUBLE"),)
    assert not any(change.error for change in found.values())
    assert set(found["raw"].used_by["v"]) == {"clean", "dim_k", "fact_v", "total", "large", "doubled", "of_function"}


def test_added_and_removed_definitions(shop):
    found = plan(shop, ("total = mart", "totals = mart"), ('large = sql("select id', 'large = sql("select id, k'))

    assert causes(found) == {
        "totals": ("added", "create"),
        "large": ("changed", "rebuild"),
        "doubled": ("affected", "rebuild"),
        "of_function": ("affected", "rebuild"),
        "total": ("removed", ""),
    }
    assert found["large"].columns == SchemaChange(("k",), (), ())
    assert found["totals"].work.seconds is None


def test_the_plan_writes_nothing(shop):
    before = {path: path.stat().st_mtime_ns for path in (shop / ".headwater" / "lake").rglob("*")}

    plan(shop, ("where v > 5", "where v > 6"))

    assert {path: path.stat().st_mtime_ns for path in (shop / ".headwater" / "lake").rglob("*")} == before


def test_what_a_plan_says_is_what_a_run_does(shop):
    (shop / "data" / "b.csv").write_text("id,k,v,at\n3,a,10,2026-01-02\n")
    found = plan(shop, ("select id from clean", "select id, k, at from clean"))
    Runner(load(shop), RunOptions()).run()
    workspace = Workspace(load(shop))

    assert workspace.version("large").schema.names == ("id", "k", "at")
    assert set(found["large"].columns.added) == {"k", "at"}
    assert plan_changes(workspace) == ()


def test_the_command_fails_if_something_breaks(shop, headwater_command):
    def command(*words):
        return headwater_command.run("plan", *words, cwd=shop, env=environment(), timeout=60)

    assert command().stdout == "nothing changes: all tables are as defined, and there is no new data\n"
    toml = (shop / "headwater.toml").read_text() + "[env.dev.cluster]\ncost_per_hour = {small = 1, large = 36000}\n"
    (shop / "headwater.toml").write_text(toml)
    (shop / "shop.py").write_text(SHOP.replace("k, v, at from raw", "k, at from raw"))

    done = command()
    assert done.returncode == 1
    assert "    - column v, may be used by dim_k, fact_v, total" in done.stdout
    assert 'breaks: Binder Error: Referenced column "v" not found' in done.stdout
    assert "tables can no longer be computed" in done.stdout.replace("\n", " ")
    assert "cost about " in done.stdout.replace("\n", " ")
    (shop / "shop.py").write_text(SHOP)
    assert json.loads(command("--json").stdout) == []
    (shop / "shop.py").write_text(SHOP.replace("k, v, at from raw", "k, at from raw"))
    assert {change["name"] for change in json.loads(command("--json").stdout)} >= {"clean", "dim_k"}


STREAMED = """
from pipeline import generate
events = source(generate({"id": "i", "at": "timestamp '2026-01-01' + to_seconds(i)"}, count=3),
                schema={"id": "bigint", "at": "timestamp"}, event_time="at", stored=False)
later = sql("select id, k from raw")
named = sql("select id, at, k from events join later using (id)")
below = sql("select * from named")
"""


def test_what_cannot_be_planned_is_not_called_unreadable(shop, headwater_command):
    found = plan(shop, ("\n@table()", STREAMED + "\n@table()"))

    assert (found["below"].cause, found["below"].decision) == ("failed", "fail")
    assert found["below"].error.startswith("table 'later' does not exist yet")
    shown = headwater_command.run("plan", "below", cwd=shop, env=environment(), timeout=60)
    assert shown.returncode == 1
    assert "! below  failed, fail: table 'later' does not exist yet" in shown.stdout
    assert shown.stdout.endswith("0 tables to compute; 'below' cannot be planned\n")
