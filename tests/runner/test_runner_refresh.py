"""Grouped tables whose aggregates are refreshed by new rows: equal to a recomputation, whatever happens in between."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.batch import execute as module
from pipeline.batch import kept_states, partial_aggregation, partial_task, planning
from pipeline.batch.execute import execute
from pipeline.batch.kept_states import KeptStates
from pipeline.batch.planning import ExecutionPlan
from pipeline.batch.step import Refresh
from pipeline.core.errors import OrderError
from pipeline.core.execution import ExecutionLimits, NodeResources
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner import facts
from pipeline.runner.decide import DecisionKind
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.facts import decide
from pipeline.runner.handlers.table import TableHandler
from pipeline.runner.runner import Runner
from tests.runner.conftest import TOML

HEAD = """
from pipeline import dimension, fact, files, lookup, mart, source, sql
raw = source(
    files("data/*.parquet"),
    schema={"id": "bigint", "k": "varchar", "v": "double", "d": "decimal(10, 2)", "at": "timestamp"},
)
"""
AGGREGATES = """
select k, at::date as day, count(*) as n, count(v) as there, sum(d) as total, avg(v) as mean, min(at) as first,
       max(v) as top, stddev(v) as spread, arg_max(id, at) as newest, bool_or(v > 50) as has_large,
       any_value(k) as name, count(*) filter (where v < 10) as small, approx_count_distinct(id) as about
from raw group by all having count(*) > 1
"""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(kept_states, "LEAST_ROWS", 100)


@pytest.fixture
def grown(tmp_path):
    folder = tmp_path / "p"
    (folder / "data").mkdir(parents=True)
    (folder / "headwater.toml").write_text(TOML)

    def write(text: str) -> Path:
        (folder / "shop.py").write_text(HEAD + text)
        return folder

    return write


def put(folder: Path, name: str, first: int, count: int) -> None:
    chosen = random.Random(first)  # noqa: S311 - rows of a test
    ids = range(first, first + count)
    columns = {
        "id": pa.array(ids, pa.int64()),
        "k": pa.array([chosen.choice(["a", "b", None]) for _ in ids], pa.string()),
        "v": pa.array([chosen.choice([None, chosen.random() * 100]) for _ in ids], pa.float64()),
        "d": pa.array([chosen.randrange(10**6) for _ in ids], pa.decimal128(10, 2)),
        "at": pa.array([chosen.randrange(3) * 86_400_000_000 + i for i in ids], pa.timestamp("us")),
    }
    pq.write_table(pa.table(columns), folder / "data" / f"{name}.parquet")


def run(folder: Path, **options: Any) -> dict[str, Any]:
    outcome = Runner(load(folder), RunOptions(**options)).run()
    assert outcome.status == "done"
    return {step.name: step for step in outcome.steps}


def rows(folder: Path, name: str = "totals") -> list[dict[str, Any]]:
    found = Workspace(load(folder)).query(f"select * from {name} order by all").to_pylist()
    return [{n: round(v, 6) if isinstance(v, float) else v for n, v in row.items()} for row in found]


def states(folder: Path, name: str = "totals") -> tuple[str, ...]:
    return KeptStates.of(Workspace(load(folder)).table(name).storage).storage.names()


def equals_a_recomputation(folder: Path, name: str = "totals") -> None:
    refreshed = rows(folder, name)
    run(folder, full=True)
    assert refreshed == rows(folder, name)


def test_new_rows_are_added_to_the_aggregates(grown):
    folder = grown(f'totals = mart("""{AGGREGATES}""")')
    put(folder, "a", 0, 500)
    assert run(folder)["totals"].decision == DecisionKind.CREATE
    for number in range(1, 4):
        put(folder, f"b{number}", number * 1000, 20)
        step = run(folder)["totals"]
        assert (step.decision, step.reason) == (DecisionKind.REFRESH, "20 new rows in 'raw', added to the aggregates")
        assert step.flow.rows_in == 20
        assert len(states(folder)) == 1

    assert run(folder)["totals"].decision == DecisionKind.SKIP
    assert sum(row["n"] for row in rows(folder)) == 560
    equals_a_recomputation(folder)


def test_an_aggregate_without_groups_is_refreshed(grown):
    folder = grown('totals = mart("select count(*) as n, sum(d) as total from raw")')
    put(folder, "a", 0, 500)
    run(folder)
    put(folder, "b", 1000, 5)

    assert run(folder)["totals"].decision == DecisionKind.REFRESH
    assert rows(folder)[0]["n"] == 505
    equals_a_recomputation(folder)


def test_a_star_schema_is_refreshed_by_new_facts(grown):
    folder = grown(
        """
dim_k = dimension("select distinct 'a' as k from raw", key="k")
fact_v = fact("select id, k, d from raw", key="id", lookups={"k_key": lookup("dim_k", "k")})
totals = mart("select k_key, sum(d) as total from fact_v group by k_key")
named = mart("select d.k, sum(f.d) as total from fact_v f join dim_k d using (k_key) group by d.k")
"""
    )
    put(folder, "a", 0, 500)
    run(folder)
    put(folder, "b", 1000, 5)
    steps = run(folder, select=("raw", "fact_v", "totals", "named"))

    assert {name: steps[name].decision for name in ("fact_v", "totals", "named")} == {
        "fact_v": DecisionKind.APPEND,
        "totals": DecisionKind.REFRESH,
        "named": DecisionKind.REFRESH,
    }
    equals_a_recomputation(folder)


def test_states_of_another_version_of_duckdb_are_not_used(grown):
    folder = grown(f'totals = mart("""{AGGREGATES}""")')
    put(folder, "a", 0, 500)
    run(folder)
    place = Path(Workspace(load(folder)).table("totals").storage.uri) / "_headwater" / "states"
    [kept] = place.iterdir()
    kept.rename(kept.with_name(kept.name.replace("duckdb-", "duckdb-0.")))
    put(folder, "b", 1000, 20)

    assert run(folder)["totals"].decision == DecisionKind.REBUILD
    assert len(states(folder)) == 1  # the other one was removed
    equals_a_recomputation(folder)


@pytest.mark.parametrize("damage", [b"", b"ARROW1", b"x" * 5000])
def test_damaged_states_lead_to_a_recomputation(grown, damage):
    folder = grown(f'totals = mart("""{AGGREGATES}""")')
    put(folder, "a", 0, 500)
    run(folder)
    place = Path(Workspace(load(folder)).table("totals").storage.uri) / "_headwater" / "states"
    next(place.iterdir()).write_bytes(damage)
    put(folder, "b", 1000, 20)

    run(folder)

    assert sum(row["n"] for row in rows(folder)) == 520
    equals_a_recomputation(folder)


@pytest.mark.parametrize(
    ("module", "limit"), [(partial_task, "MOST_BYTES"), (partial_aggregation, "MOST_BYTES_IN_ALL")]
)
def test_new_rows_with_too_many_groups_lead_to_a_recomputation(grown, monkeypatch, module, limit):
    folder = grown('totals = mart("select if(id < 1000, id % 10, id) as k, count(*) as n from raw group by all")')
    put(folder, "a", 0, 1000)
    run(folder)
    monkeypatch.setattr(module, limit, 2000)
    put(folder, "b", 1000, 500)

    step = run(folder)["totals"]

    assert (step.decision, step.flow.rows_in) == (DecisionKind.REBUILD, 1500)
    assert step.reason == "the aggregates of the new rows have too many groups to be added"
    assert (len(rows(folder)), sum(row["n"] for row in rows(folder))) == (510, 1500)


@pytest.mark.parametrize("other", ["gather", "exchange"])
@pytest.mark.parametrize("since", ["the decision", "the last run"])
def test_a_plan_that_does_not_merge_states_leads_to_a_recomputation(grown, monkeypatch, other, since):
    """The plan over the real inputs depends on their sizes and on the cluster, so it differs from that of the last run."""
    folder = grown('totals = mart("select k, count(*) as n from raw group by k")')
    put(folder, "a", 0, 1000)
    run(folder)
    known = []

    def plan(definition: Any, scans: Any, *others: Any) -> ExecutionPlan:
        chosen = planning.execution_plan(definition, scans, *others)
        if definition.name != "totals" or not scans:
            return chosen
        known.append(chosen)
        is_same = since == "the decision" and len(known) == 1
        return chosen if is_same else replace(chosen, strategy=other)

    monkeypatch.setattr(facts, "execution_plan", plan)
    put(folder, "b", 1000, 50)

    step = run(folder)["totals"]

    assert (step.decision, step.strategy, step.flow.rows_in) == (DecisionKind.REBUILD, other, 1050)
    assert sum(row["n"] for row in rows(folder)) == 1050


def test_a_large_side_input_on_a_cluster_leads_to_a_recomputation(grown, monkeypatch):
    """All rows of a large side input would be broadcast, so the rows are exchanged by key, and states are not merged."""
    folder = grown("""
dim = sql("select distinct k from raw")
totals = mart("select d.k, count(*) as n from raw join dim d using (k) group by d.k")
""")
    put(folder, "a", 0, 1000)
    run(folder)
    put(folder, "b", 1000, 50)
    run(folder, select=("raw",))
    workspace = Workspace(load(folder))
    definition = workspace.stored("totals")
    inputs = {name: workspace.require(name) for name in ("raw", "dim")}
    decided = partial(decide, workspace, RunOptions(), definition, workspace.version("totals"), inputs)

    assert decided().kind is DecisionKind.REFRESH
    monkeypatch.setattr(planning, "BROADCAST_BYTES", 1)
    limits = ExecutionLimits("auto", 1, 1, has_cluster=True, nodes=lambda: (NodeResources(4, 8 << 30),))
    monkeypatch.setattr(facts, "_execution_limits", lambda _: limits)
    assert decided().kind is DecisionKind.REBUILD


def test_only_the_merge_of_states_reads_less_than_all_rows(grown):
    folder = grown('totals = mart("select k, count(*) as n from raw group by k")')
    put(folder, "a", 0, 1000)
    run(folder)
    workspace = Workspace(load(folder))
    spec = TableHandler().spec(workspace, workspace.stored("totals"))
    refreshing = replace(spec, refresh=Refresh(pa.table({}), ()))
    for strategy in ("gather", "blockwise", "broadcast"):
        other = replace(refreshing, execution_plan=replace(spec.execution_plan, strategy=strategy))
        with pytest.raises(OrderError, match=f"the strategy '{strategy}' now"):
            execute(other, workspace.lake, workspace.settings)


def test_states_that_exceed_the_limit_are_not_computed_again(grown, monkeypatch):
    folder = grown('totals = mart("select id, count(*) as n from raw group by id")')
    monkeypatch.setattr(partial_task, "MOST_BYTES", 2000)
    tried = []
    real = module.run_partial
    monkeypatch.setattr(module, "run_partial", lambda *of, **how: tried.append(None) or real(*of, **how))
    for number in range(3):
        put(folder, f"f{number}", number * 1000, 500)
        assert run(folder)["totals"].decision in {DecisionKind.CREATE, DecisionKind.REBUILD}
        assert len(rows(folder)) == 500 * (number + 1)
        assert len(tried) == 1
        assert len(states(folder)) == 1  # the note of the last version

    monkeypatch.setattr(partial_task, "MOST_BYTES", 1 << 20)
    run(folder, full=True)
    assert len(tried) == 2
    put(folder, "g", 9000, 500)
    run(folder)
    assert len(tried) == 3  # the states fitted in the last run

    grown('totals = mart("select k, count(*) as n from raw group by k")')
    assert run(folder)["totals"].reason == "the definition changed"
    assert len(tried) == 4
    assert [name.endswith(".arrow") for name in states(folder)] == [True]


def test_a_changed_file_leads_to_a_recomputation(grown):
    folder = grown(f'totals = mart("""{AGGREGATES}""")')
    put(folder, "a", 0, 500)
    run(folder)
    put(folder, "a", 0, 510)

    assert run(folder)["totals"].decision == DecisionKind.REBUILD
    put(folder, "b", 1000, 20)
    assert run(folder)["totals"].decision == DecisionKind.REFRESH
    equals_a_recomputation(folder)


def test_a_killed_run_leaves_no_states_that_are_used(grown):
    folder = grown(f'totals = mart("""{AGGREGATES}""")')
    put(folder, "a", 0, 500)
    run(folder)
    put(folder, "b", 1000, 20)
    table = Workspace(load(folder)).table("totals")
    before = states(folder)
    KeptStates.of(table.storage).write("killed", pa.table({"_a0": [1]}))  # as a run that was killed before its commit

    assert run(folder)["totals"].decision == DecisionKind.REFRESH
    assert len(states(folder)) == 1
    assert states(folder) != before
    equals_a_recomputation(folder)


@pytest.mark.parametrize(
    "text",
    [
        "select k, count(distinct v) as n from raw group by k",  # all values are needed
        "select k, quantile_cont(v, 0.5) as q from raw group by k",
        "select id, count(*) as n from raw group by id",  # as many groups as rows
        "select k, string_agg(k, ',' order by id) as n from raw group by k",
    ],
)
def test_states_that_are_not_small_are_not_kept(grown, text):
    folder = grown(f'totals = mart("""{text}""")')
    put(folder, "a", 0, 500)
    run(folder)
    put(folder, "b", 1000, 20)

    assert states(folder) == ()
    assert run(folder)["totals"].decision == DecisionKind.REBUILD
    equals_a_recomputation(folder)


def test_a_table_of_few_rows_keeps_no_states(grown, monkeypatch):
    monkeypatch.setattr(kept_states, "LEAST_ROWS", 501)
    folder = grown(f'totals = mart("""{AGGREGATES}""")')
    put(folder, "a", 0, 500)
    run(folder)

    assert states(folder) == ()
    put(folder, "b", 1000, 20)
    assert run(folder)["totals"].decision == DecisionKind.REBUILD
    assert len(states(folder)) == 1
