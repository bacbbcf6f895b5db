"""Files of the lake are deleted or damaged manually: no stale result, no lost row, and a documented repair."""

from __future__ import annotations

import shutil

import pytest

from pipeline.core.errors import DefinitionError, RequestError, StorageError
from pipeline.project import Workspace, load
from pipeline.runner import Runner, RunOptions
from tests.runner.conftest import MORE, SHOP, rows_of
from tests.runner.conftest import shop as shop  # noqa: PLC0414 - the fixture


def run(folder, **options):
    return {step.name: step for step in Runner(load(folder), RunOptions(**options)).run().steps}


def lake(folder, *parts):
    return folder.joinpath(".headwater", "lake", *parts)


@pytest.mark.proof
def test_a_deleted_and_recreated_table_is_a_different_table(shop):
    run(shop)
    shutil.rmtree(lake(shop, "silver", "orders"))
    (shop / "shop.py").write_text(SHOP.replace("quantity * price as amount", "100 * quantity * price as amount"))
    steps = run(shop)
    assert {name for name, step in steps.items() if step.decision != "skip"} == {"orders", "fact_order", "sales"}
    remade = rows_of(shop)
    run(shop, full=True)
    assert rows_of(shop) == remade


@pytest.mark.proof
def test_rows_of_a_recreated_source_reach_its_readers(shop):
    run(shop)
    shutil.rmtree(lake(shop, "bronze", "raw_orders"))
    (shop / "data" / "orders2.csv").write_text(MORE)
    run(shop, select=("raw_orders",))
    assert run(shop)["orders"].decision == "rebuild"
    incremental = rows_of(shop)
    run(shop, full=True)
    assert rows_of(shop) == incremental


def test_a_lost_data_file_is_named_and_full_repairs_it(shop):
    run(shop)
    before = rows_of(shop)
    [file] = lake(shop, "silver", "orders").glob("*.parquet")
    file.unlink()
    with pytest.raises(StorageError, match=r"a file of these tables cannot be read: .*recompute its table: .*--full"):
        Workspace(load(shop)).query("select * from orders")
    run(shop, full=True)
    assert rows_of(shop) == before


def test_a_truncated_data_file_is_not_reported_as_a_conversion_error(shop):
    run(shop)
    [file] = lake(shop, "gold", "fact_order").glob("*.parquet")
    file.write_bytes(file.read_bytes()[:50])
    (shop / "shop.py").write_text(SHOP.replace("count(*) as orders", "count(*) as n"))
    with pytest.raises(StorageError, match=r"table 'sales' cannot read its inputs: .*--full"):
        run(shop)


@pytest.mark.proof
def test_lost_manifests_are_reported_and_full_repairs_them(shop):
    run(shop)
    before = rows_of(shop)
    shutil.rmtree(lake(shop, "silver", "orders", "_headwater"))
    with pytest.raises(
        StorageError, match=r"the manifest of table 'orders' is missing: .*recompute the table with --full"
    ):
        run(shop)
    run(shop, full=True)
    assert rows_of(shop) == before


@pytest.mark.proof
def test_a_lost_quarantine_is_reported_and_full_repairs_it(shop):
    run(shop)
    before = rows_of(shop)
    shutil.rmtree(lake(shop, "quarantine"))
    with pytest.raises(StorageError, match=r"quarantined rows of 'raw_orders' are missing in the lake: .*--full"):
        run(shop)
    run(shop, full=True)
    assert rows_of(shop) == before


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("select", "invalid SQL|a query must be one SELECT|this query failed"),
        ("select * from orders where day = 'x'", "this query failed: got .*invalid date"),
        ("select nofunction(1) from orders", "this query failed: got .*nofunction"),
        ("drop table orders", "a query must be one SELECT statement"),
    ],
)
def test_an_invalid_query_raises_one_message(shop, query, message):
    run(shop)
    with pytest.raises(RequestError, match=message):
        Workspace(load(shop)).query(query)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = sql('select * from x')", "form a cycle: x -> x"),
        ("x = y = sql('select order_id from orders')", "one definition has two names, 'x' and 'y'"),
        ("import sys; sys.exit(0)", "cannot be imported: SystemExit"),
        (
            "x = sql('select order_id, order_id from orders')",
            r"table 'x': duplicate column name 'order_id'.*shop.py:\d+",
        ),
    ],
)
def test_invalid_definitions_are_rejected(shop, code, message):
    (shop / "shop.py").write_text(f"{SHOP}\n{code}\n")
    with pytest.raises(DefinitionError, match=message):
        run(shop)
