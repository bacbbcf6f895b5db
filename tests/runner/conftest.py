"""A small shop as a project: two sources, a keyed table, a star schema and a mart, with rows of every outcome."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from tests.rigs.conservation import conservation as conservation  # noqa: PLC0414 - re-exported fixture

TOML = """\
[project]
name = "shop"
definitions = "shop.py"
"""
SHOP = '''\
from pathlib import Path

from pipeline import dimension, drop, fact, fail, files, lookup, mart, quarantine, source, sql, warn

DATA = Path(__file__).parent / "data"

raw_orders = source(
    files(DATA / "orders*.csv"),
    schema={"order_id": "bigint", "day": "date", "product": "varchar", "quantity": "integer", "price": "double"},
)
raw_products = source(files(DATA / "products.csv"), key="product")

orders = sql(
    """
    -- One row per order.
    select order_id, day, product, quantity, quantity * price as amount from raw_orders
    """,
    key="order_id",
    expect=[
        fail("has_day", "day is not null"),
        quarantine("sold_something", "quantity > 0"),
        drop("is_real", "product <> 'test'"),
        warn("is_small", "quantity < 5"),
    ],
)
dim_product = dimension("select product, maker from raw_products", key="product")
fact_order = fact(
    "select order_id, day, product, amount from orders",
    key="order_id",
    lookups={"product_key": lookup("dim_product", "product")},
)
sales = mart("select day, count(*) as orders, sum(amount) as amount from fact_order group by day", key="day")
'''
ORDERS = """\
order_id,day,product,quantity,price
1,2026-01-05,kettle,1,25.0
2,2026-01-05,teapot,2,18.5
3,2026-01-06,cup,6,4.0
4,2026-01-06,cup,0,4.0
2,2026-01-06,teapot,1,18.5
five,2026-01-06,cup,1,4.0
6,2026-01-07,test,1,0.0
7,2026-01-07,unheard,1,9.0
"""
MORE = """\
order_id,day,product,quantity,price
8,2026-01-07,cup,2,4.0
1,2026-01-08,cup,2,4.0
9,2026-01-08,kettle,-1,25.0
"""
PRODUCTS = """\
product,maker
kettle,Alessi
teapot,Rosenthal
cup,Arzberg
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The project folder."""
    folder = tmp_path / "shop"
    (folder / "data").mkdir(parents=True)
    (folder / "headwater.toml").write_text(TOML)
    (folder / "shop.py").write_text(SHOP)
    (folder / "data" / "orders1.csv").write_text(ORDERS)
    (folder / "data" / "products.csv").write_text(PRODUCTS)
    return folder


def rows_of(folder: Path) -> dict[str, list[str]]:
    """Return the rows of every table, quarantine and warehouse table as sorted text, without run ids and times."""
    workspace = Workspace(load(folder))
    rows = {}
    for name in workspace.table_names:
        if workspace.version(name) is not None:
            rows[name] = _texts(workspace.lake.rows(workspace.table(name)).to_pylist())
        quarantined = workspace.lake.quarantine(name)
        if quarantined.version() is not None:
            rows[f"quarantine/{name}"] = _texts(workspace.lake.rows(quarantined).to_pylist())
    for name in workspace.warehouse.loaded():
        with workspace.warehouse.read() as con:
            rows[f"warehouse/{name}"] = _texts(con.sql(f'from "{name}"').to_arrow_table().to_pylist())
    return rows


def _texts(rows: list[dict[str, object]]) -> list[str]:
    changing = {"_ingested_at", "_run", "_quarantined_at"}
    return sorted(repr({k: v for k, v in row.items() if k not in changing}) for row in rows)


@pytest.fixture
def rows() -> Callable[[Path], dict[str, list[str]]]:
    """The function `rows_of`."""
    return rows_of
