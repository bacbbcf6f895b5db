"""Stateful tables in a project: `headwater run` computes them from all rows of their inputs."""

from __future__ import annotations

from pathlib import Path

from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from tests.runner.conftest import TOML

SHOP = '''\
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import deduplicate, event, files, not_followed_by, pattern, source, sql, stateful

DATA = Path(__file__).parent / "data"
EVENT = {"at": "timestamptz", "customer": "varchar", "amount": "bigint"}

orders = source(files(DATA / "orders*.csv"), schema=EVENT)
payments = source(files(DATA / "payments.csv"), schema=EVENT)
clicks = source(files(DATA / "payments.csv"), schema=EVENT, stored=False)

first_orders = deduplicate("orders", key="customer", event_time="at", within="1 hour")
last_orders = deduplicate("orders", key="customer", event_time="at", keep="last")
paid = sql("""
    select o.customer, o.at, p.amount from orders o join payments p
    on o.customer = p.customer and p.at between o.at and o.at + interval 1 hour
""")
unpaid = pattern(
    event("ordered", "orders"),
    not_followed_by("paid", "payments", "paid.amount >= ordered.amount"),
    by="customer",
    within="1 hour",
    event_time="at",
    select={"at": "ordered.at"},
)


@stateful(key="customer", event_time="at", state={"n": "bigint default 0"}, schema={"n": "bigint"}, ttl="1 day")
def counts(state: pa.Table, clicks: pa.Table) -> tuple[pa.Table, pa.Table]:
    """How many payments."""
    joined = state.join(clicks.group_by("customer").aggregate([([], "count_all")]), "customer")
    n = pc.add(joined["n"], pc.fill_null(joined["count_all"], 0))
    return pa.table({"customer": joined["customer"], "n": n}), pa.table({"n": n})
'''
HEADER = "at,customer,amount\n"
ORDERS = HEADER + "2026-01-05 08:00Z,ann,5\n2026-01-05 08:30Z,ann,7\n2026-01-05 09:01Z,ann,9\n2026-01-05 08:00Z,bob,2\n"
PAYMENTS = HEADER + "2026-01-05 08:45Z,ann,7\n2026-01-05 10:00Z,bob,2\n"


def test_stateful_tables_are_computed_from_all_rows(tmp_path: Path):
    folder = tmp_path / "shop"
    (folder / "data").mkdir(parents=True)
    (folder / "headwater.toml").write_text(TOML)
    (folder / "shop.py").write_text(SHOP)
    (folder / "data" / "orders.csv").write_text(ORDERS)
    (folder / "data" / "payments.csv").write_text(PAYMENTS)

    def hours(name):
        rows = Workspace(load(folder)).query(
            f"select customer, strftime(t.at, '%H:%M') as hour from {name} as t order by all"
        )
        return [tuple(row.values()) for row in rows.to_pylist()]

    Runner(load(folder), RunOptions()).run()
    assert hours("first_orders") == [("ann", "08:00"), ("ann", "09:01"), ("bob", "08:00")]
    assert hours("last_orders") == [("ann", "09:01"), ("bob", "08:00")]
    assert hours("unpaid") == [("ann", "09:01"), ("bob", "08:00")]
    assert hours("paid") == [("ann", "08:00"), ("ann", "08:30")]
    assert Workspace(load(folder)).query("select n from counts").to_pylist() == [{"n": 1}, {"n": 1}]
    (folder / "data" / "orders2.csv").write_text(HEADER + "2026-01-05 09:30Z,ann,1\n2026-01-05 10:02Z,ann,1\n")
    Runner(load(folder), RunOptions()).run()
    assert hours("first_orders") == [("ann", "08:00"), ("ann", "09:01"), ("ann", "10:02"), ("bob", "08:00")]
