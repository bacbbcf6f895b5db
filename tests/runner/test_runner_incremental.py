"""The decisions of the first run, the second run, and runs after each kind of change."""

from __future__ import annotations

import pytest

from pipeline.core.errors import DefinitionError, ExpectationError, RequestError, SchemaError, SourceError, StorageError
from pipeline.kernel import pool
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.reprocessing.quarantine import quarantined_rows, replay
from pipeline.runner.dry_run import RunOptions, plan_run
from pipeline.runner.runner import Runner
from tests.runner.conftest import MORE, SHOP


def run(folder, **options):
    return {step.name: step for step in Runner(load(folder), RunOptions(**options)).run().steps}


def test_every_row_is_accounted_for(shop):
    steps = run(shop)
    for step in steps.values():
        flow = step.flow
        assert flow.rows_made == flow.rows_out + flow.quarantined + flow.dropped, step.name
    source, orders = steps["raw_orders"].flow, steps["orders"].flow
    assert (source.rows_in, source.rows_out, source.quarantined) == (8, 7, 1)
    assert (orders.rows_in, orders.rows_out, orders.quarantined, orders.dropped) == (7, 4, 2, 1)
    assert {c.expectation: c.violations for c in steps["orders"].checks} == {
        "has_day": 0,
        "sold_something": 1,
        "is_real": 1,
        "is_small": 1,
        "key_is_not_null": 0,
        "key_is_unique": 1,
    }


def test_quarantined_rows_name_reason_file_and_line(shop):
    run(shop)
    workspace = Workspace(load(shop))
    [bad] = quarantined_rows(workspace, "raw_orders").to_pylist()
    assert bad["_source"].endswith("orders1.csv")
    assert (bad["_position"], bad["row"]) == (7, "five,2026-01-06,cup,1,4.0")
    assert "order_id" in bad["reasons"]
    quarantined = quarantined_rows(workspace, "orders").to_pylist()
    assert [(r["_position"], r["reasons"]) for r in quarantined] == [(5, "sold_something"), (6, "key_is_unique")]


def test_bronze_rows_have_source_position_and_ingestion_time(shop):
    run(shop)
    rows = Workspace(load(shop)).query("select _source, _position, _ingested_at from raw_orders").to_pylist()
    assert [row["_position"] for row in rows] == [2, 3, 4, 5, 6, 8, 9]
    assert all(row["_source"].endswith("orders1.csv") and row["_ingested_at"] for row in rows)


def test_second_run_does_nothing(shop, rows):
    run(shop)
    before = rows(shop)
    assert {step.decision for step in run(shop).values()} == {"skip"}
    assert rows(shop) == before


def test_only_a_new_file_is_read_and_appended(shop, rows):
    run(shop)
    (shop / "data" / "orders2.csv").write_text(MORE)
    steps = run(shop)
    did = {name: step.decision for name, step in steps.items()}
    assert did["raw_orders"] == did["orders"] == did["fact_order"] == "append"
    assert did["raw_products"] == did["dim_product"] == "skip"
    assert did["sales"] == "rebuild"
    assert steps["raw_orders"].flow.rows_in == 3
    assert steps["orders"].flow.rows_in == 3
    assert (steps["orders"].flow.rows_out, steps["orders"].flow.quarantined) == (1, 2)  # order 1 exists already
    incremental = rows(shop)
    run(shop, full=True)
    assert rows(shop) == incremental


def test_changed_file_is_read_again(shop):
    run(shop)
    file = shop / "data" / "orders1.csv"
    file.write_text(file.read_text().replace("five,", "5,"))
    steps = run(shop)
    assert steps["raw_orders"].decision == steps["orders"].decision == "rebuild"
    assert steps["raw_orders"].flow.quarantined == 0
    assert quarantined_rows(Workspace(load(shop)), "raw_orders").num_rows == 0


@pytest.mark.proof
def test_changed_file_is_rejected_if_another_is_missing(shop, rows):
    (shop / "data" / "orders2.csv").write_text(MORE)
    run(shop)
    before = rows(shop)
    (shop / "data" / "orders2.csv").unlink()
    assert run(shop)["raw_orders"].decision == "skip"  # files may be deleted after they were read
    (shop / "data" / "orders1.csv").write_text(MORE)
    with pytest.raises(SourceError, match=r"'raw_orders' must be read again .*would lose rows: .*orders2.csv.*--full"):
        run(shop)
    assert rows(shop) == before
    assert run(shop, full=True)["raw_orders"].flow.rows_in == 3


def test_changed_definition_is_recomputed_with_everything_downstream(shop):
    run(shop)
    (shop / "shop.py").write_text(SHOP.replace("quantity > 0", "quantity >= 0"))
    did = {name: step.decision for name, step in run(shop).items()}
    assert {name for name, what in did.items() if what == "rebuild"} == {"orders", "fact_order", "sales"}


def test_comments_and_layout_do_not_recompute(shop):
    run(shop)
    changed = SHOP.replace("-- One row per order.", "-- One row for each order.\n").replace(
        "quantity * price", "quantity*price"
    )
    (shop / "shop.py").write_text(changed)
    assert {step.decision for step in run(shop).values()} == {"skip"}


def test_select_runs_only_some_definitions(shop):
    assert set(run(shop, select=("+orders",))) == {"raw_orders", "orders"}
    with pytest.raises(
        StorageError, match=r"'fact_order' reads 'dim_product', which does not exist yet; run .*\+fact_order"
    ):
        run(shop, select=("fact_order",))
    with pytest.raises(RequestError, match="'order' is not defined; did you mean 'orders'"):
        run(shop, select=("order",))


def test_an_emptied_landing_folder_has_nothing_new(shop, rows):
    run(shop)
    before = rows(shop)
    for path in (shop / "data").glob("orders*"):
        path.unlink()

    steps = run(shop)

    assert {step.decision for step in steps.values()} == {"skip"}
    assert steps["raw_orders"].reason == "nothing new; no file is there any more; the rows of 1 file are kept"
    assert rows(shop) == before


def test_dry_run_writes_nothing(shop):
    planned = plan_run(Workspace(load(shop)), RunOptions())
    assert [step.decision.kind for step in planned] == ["create"] * 6
    assert not (shop / ".headwater").exists()


@pytest.mark.parametrize("is_made", [False, True])
def test_planning_opens_no_engine(shop, monkeypatch, is_made):
    if is_made:
        run(shop)
        (shop / "data" / "orders2.csv").write_text(MORE)
    plan_run(Workspace(load(shop)), RunOptions())  # the list of functions is queried once per process

    def opened(*_, **__):
        pytest.fail("an engine was opened")

    monkeypatch.setattr(pool, "_reused", opened)  # a pooled instance
    monkeypatch.setattr(pool, "_opened", opened)
    planned = plan_run(Workspace(load(shop)), RunOptions())
    assert {step.decision.kind for step in planned} == ({"append", "rebuild", "skip"} if is_made else {"create"})


def test_replay_after_a_fix_recovers_rows(shop):
    run(shop)
    (shop / "shop.py").write_text(SHOP.replace("quantity > 0", "quantity >= 0"))
    workspace = Workspace(load(shop))
    flow = replay(workspace, "orders")
    assert (flow.rows_in, flow.rows_out, flow.quarantined) == (2, 1, 1)
    assert workspace.query("select product, quantity from orders where order_id = 4").to_pylist() == [
        {"product": "cup", "quantity": 0}
    ]
    assert [r["reasons"] for r in quarantined_rows(workspace, "orders").to_pylist()] == ["key_is_unique"]
    assert run(shop)["orders"].decision == "skip"
    with pytest.raises(RequestError, match="no rows of 'sales' are quarantined"):
        replay(workspace, "sales")


@pytest.mark.proof
def test_replay_without_a_fix_changes_nothing(shop):
    run(shop)
    workspace = Workspace(load(shop))
    for name in ("raw_orders", "orders"):
        before, rejected = workspace.version(name).number, quarantined_rows(workspace, name)
        flow = replay(workspace, name)
        assert (flow.rows_in, flow.rows_out, flow.quarantined) == (rejected.num_rows, 0, rejected.num_rows)
        assert workspace.version(name).number == before
        assert quarantined_rows(workspace, name) == rejected
    assert {step.decision for step in run(shop).values()} == {"skip"}


def test_replay_of_a_source_without_its_file(shop):
    run(shop)
    (shop / "data" / "orders1.csv").rename(shop / "gone.csv")
    (shop / "data" / "orders2.csv").write_text(MORE)
    (shop / "shop.py").write_text(SHOP.replace('"order_id": "bigint"', '"order_id": "varchar"'))
    workspace = Workspace(load(shop))
    with pytest.raises(SchemaError, match=r"'raw_orders' has different columns .*'order_id' was BIGINT, now VARCHAR"):
        replay(workspace, "raw_orders")
    assert quarantined_rows(workspace, "raw_orders").num_rows == 1


def test_violated_fail_expectation_commits_nothing(shop, rows):
    run(shop)
    before = rows(shop)
    (shop / "data" / "orders2.csv").write_text(MORE.replace("2026-01-08,kettle", ",kettle"))
    with pytest.raises(ExpectationError, match=r"'orders' violates 'has_day' .*order_id=9.*_position=4.*shop.py:\d+"):
        run(shop)
    after = rows(shop)
    assert after["orders"] == before["orders"]
    assert after["sales"] == before["sales"]
    assert Workspace(load(shop)).catalog.run().status == "failed"


def test_schema_change_error_names_file_and_column(shop, rows):
    run(shop)
    before = rows(shop)
    (shop / "data" / "orders2.csv").write_text("order_id,day,product,quantity,cost\n1,2026-01-05,cup,1,2.0\n")
    with pytest.raises(SchemaError, match=r"no 'price', new column 'cost'; .*orders2.csv:1"):
        run(shop)
    assert rows(shop) == before


def test_unknown_column_error_names_the_definition(shop):
    (shop / "shop.py").write_text(SHOP.replace("quantity * price as amount", "quantity * prize as amount"))
    with pytest.raises(DefinitionError, match=r"'orders' is not valid for its inputs: .*prize.*shop.py:\d+"):
        run(shop)
