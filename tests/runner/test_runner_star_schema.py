"""A star schema over several runs: late members, changed history, a calendar without inputs, and the bus matrix."""

from __future__ import annotations

import json
from datetime import date

import pytest

from pipeline.core.errors import DefinitionError
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from pipeline.warehouse.modelling.bus_matrix import bus_matrix
from tests.rigs.command import environment
from tests.runner.conftest import TOML

SHOP = """
from pipeline import accumulating_snapshot, date_dimension, dimension, fact, files, lookup, mart, source
raw_customers = source(files("data/c*.csv"), schema={"id": "bigint", "city": "varchar", "seen_at": "timestamp"})
raw_orders = source(
    files("data/o*.csv"),
    schema={"order_id": "bigint", "id": "bigint", "status": "varchar", "at": "timestamp", "amount": "bigint"},
)
dim_customer = dimension(
    "select id, city, seen_at from raw_customers", key="id", stored_as_scd_type=6, sequence_by="seen_at"
)
dim_date = date_dimension("2026-01-01", "2026-03-31")
fact_order = fact(
    "select order_id, id, at, at::date as day, amount from raw_orders where status = 'placed'",
    key="order_id",
    degenerate="order_id",
    lookups={
        "customer_key": lookup("dim_customer", "id", as_of="at", before="first"),
        "ordered_key": lookup("dim_date", {"day": "date"}),
        "due_key": lookup("dim_date", {"day": "date"}),
    },
)
fact_steps = accumulating_snapshot(
    "select order_id, id, status, at from raw_orders",
    key="order_id",
    at="at",
    milestones={"placed": "status = 'placed'", "shipped": "status = 'shipped'"},
    lookups={"customer_key": lookup("dim_customer", "id", as_of="placed_at", before="first")},
    grain="one row per order",
)
by_city = mart(
    "select city, current_city, sum(amount) as amount from fact_order join dim_customer using (customer_key) group by all"
)
"""
CUSTOMERS = "id,city,seen_at\n1,Ulm,2026-01-05\n1,Bonn,2026-02-01\n"
ORDERS = "order_id,id,status,at,amount\n1,1,placed,2026-01-02,10\n2,1,placed,2026-02-02,20\n3,2,placed,2026-02-03,40\n"


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "headwater.toml").write_text(TOML)
    (tmp_path / "shop.py").write_text(SHOP)

    def run(**files: str) -> Workspace:
        for name, text in files.items():
            (tmp_path / "data" / f"{name}.csv").write_text(text)
        project = load(tmp_path)
        assert Runner(project, RunOptions()).run().status == "done"
        return Workspace(project)

    return run


def by_city(workspace: Workspace) -> set[tuple[object, ...]]:
    return {tuple(row.values()) for row in workspace.query("from by_city").to_pylist()}


def test_a_member_that_arrives_late_gets_its_facts(shop):
    first = by_city(shop(c1=CUSTOMERS, o1=ORDERS))
    assert first == {("Ulm", "Bonn", 10), ("Bonn", "Bonn", 20), (None, None, 40)}

    later = by_city(shop(c2="id,city,seen_at\n2,Kiel,2026-03-01\n1,Kiel,2026-03-01\n"))
    assert later == {("Ulm", "Kiel", 10), ("Bonn", "Kiel", 20), ("Kiel", "Kiel", 40)}

    workspace = shop(o2="order_id,id,status,at,amount\n2,1,shipped,2026-02-04,20\n")
    rows = workspace.query("select * from fact_steps order by order_id").to_pylist()
    assert [(row["stage"], row["placed_to_shipped_seconds"]) for row in rows] == [
        ("placed", None),
        ("shipped", 172_800.0),
        ("placed", None),
    ]
    days = workspace.query("select count(*) as n, min(date) as first from dim_date").to_pylist()
    assert days == [{"n": 91, "first": date(2026, 1, 1)}]


def test_the_warehouse_has_the_same_rows(shop):
    workspace = shop(c1=CUSTOMERS, o1=ORDERS)

    with workspace.warehouse.read() as con:
        found = set(con.execute("from by_city").fetchall())
    assert found == by_city(workspace)


@pytest.mark.usefixtures("shop")
def test_the_bus_matrix_has_a_row_per_fact(tmp_path, headwater_command):
    matrix = bus_matrix(load(tmp_path).graph.definitions)

    assert matrix.dimensions == ("dim_customer", "dim_date")
    assert [(row.fact, row.kind, row.grain, dict(row.keys), row.degenerate) for row in matrix.rows] == [
        (
            *("fact_order", "transaction", "order_id"),
            {"dim_customer": ("customer_key",), "dim_date": ("ordered_key", "due_key")},
            ("order_id",),
        ),
        ("fact_steps", "accumulating snapshot", "one row per order", {"dim_customer": ("customer_key",)}, ()),
    ]
    options = {"cwd": tmp_path, "env": environment(), "timeout": 60}
    printed = headwater_command.run("warehouse", "matrix", **options).stdout
    assert [line.split() for line in printed.splitlines()] == [
        ["fact", "kind", "grain", "customer", "date"],
        ["fact_order", "transaction", "order_id", "x", "x2"],
        [*["fact_steps", "accumulating", "snapshot", "one", "row", "per", "order"], "x"],
    ]
    as_json = json.loads(headwater_command.run("warehouse", "matrix", "--json", **options).stdout)
    assert as_json["dimensions"] == ["dim_customer", "dim_date"]
    assert as_json["facts"][0]["keys"]["dim_date"] == ["ordered_key", "due_key"]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('lookup("dim_customer", "id", as_of="at", before="first")', 'lookup("dim_customer", "id")', "has versions; set as_of="),
        ('lookup("dim_date", {"day": "date"})', 'lookup("dim_date", {"day": "date"}, as_of="at")', "has no versions; remove as_of="),
        ('lookup("dim_date", {"day": "date"})', 'lookup("dim_date", {"day": "dat"})', "has no column 'dat'; did you mean 'date'"),
        (
            'lookup("dim_date", {"day": "date"})',
            'lookup("dim_date", {"day": "date"}, missing="not_applicable")',
            "has no member 'not applicable'; set not_applicable= there",
        ),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("shop")
def test_lookups_that_a_dimension_cannot_answer_are_refused(tmp_path, old, new, problem):
    (tmp_path / "shop.py").write_text(SHOP.replace(old, new, 1))

    with pytest.raises(DefinitionError, match=problem):
        load(tmp_path)
