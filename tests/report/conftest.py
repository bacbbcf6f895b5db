"""A small project with everything a report shows: lost rows, charts, a model, an empty mart, and HTML in the data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.governance import Catalog
from pipeline.project.project import load
from pipeline.report import write_report

TOML = '[project]\nname = "corner <shop>"\ndefinitions = "corner.py"\n'
DEFINITIONS = '''\
from dataclasses import dataclass
from pathlib import Path

from pipeline import Chart, drop, fail, files, mart, quarantine, source, sql, warn
from pipeline.core.definitions import Artifact, Verdict, caller
from pipeline.core.fingerprint import fingerprint

DATA = Path(__file__).parent / "data"
GOOD = DATA / "good"

raw_orders = source(
    files(DATA / "*.csv"),
    schema={"order_id": "bigint", "day": "date", "product": "varchar", "quantity": "integer", "price": "double"},
)
orders = sql(
    "select *, quantity * price as amount from raw_orders",
    key="order_id",
    expect=[
        fail("has_day", "day is not null"),
        quarantine("sold_something", "quantity > 0"),
        drop("is_real", "product <> 'test'"),
        warn("is_cheap", "price < 20 and '<i>' <> '</i>'"),
    ],
)
sales_by_day = mart(
    "select day, product, sum(amount) as amount_eur from orders group by all",
    chart=Chart("line", x="day", y="amount_eur", by="product", title="Sales by day & <product>"),
)
sales_by_product = mart(
    "select product, sum(amount) as amount from orders group by all", chart=Chart("bar", x="product", y="amount")
)
refunds = mart(
    "select day, amount from orders", expect=[drop("is_refund", "amount < 0")], chart=Chart("bar", x="day", y="amount")
)
misdrawn = mart("from (select day, count(*) as orders from orders group by day)", chart=Chart("line", x="days", y="orders"))


@dataclass(frozen=True, kw_only=True)
class Guess(Artifact):
    """A model that is as good as the file `good` says."""

    metric: str = "auc"
    at_least: float = 0.7

    @property
    def kind(self):
        return "model"

    @property
    def inputs(self):
        return ("orders",)

    @property
    def fingerprint(self):
        return fingerprint("guess")

    def verdict(self, bench):
        return Verdict(accepted=True, reason="up to date") if (DATA / "judged").exists() else None

    def build(self, bench):
        auc = float(GOOD.read_text())
        (DATA / "judged").write_text("")
        metrics = {"brier": 0.21, "baseline_brier": 0.24, "auc": auc, "baseline_auc": 0.61, "holdout_rows": 1200.0}
        return Verdict(auc >= 0.7, f"auc {auc} against <0.7>", metrics, "models:/guess/1", "1", rows=4800)

    def registered(self, store, name):
        del store, name
        return frozenset()


guess = Guess(place=caller())
'''
ORDERS = """\
order_id,day,product,quantity,price
1,2026-01-05,kettle,1,25.0
2,2026-01-05,<script>alert(1)</script>,2,18.5
3,2026-01-06,cup,6,4.0
4,2026-01-06,<img src=x onerror=alert(2)>,0,4.0
five,2026-01-06,cup,1,4.0
6,2026-01-07,test,1,0.0
7,2026-01-08,kettle,1,9.0
"""


@pytest.fixture
def corner(tmp_path: Path) -> Path:
    """The project's folder."""
    folder = tmp_path / "corner"
    (folder / "data").mkdir(parents=True)
    (folder / "headwater.toml").write_text(TOML)
    (folder / "corner.py").write_text(DEFINITIONS)
    (folder / "data" / "orders.csv").write_text(ORDERS)
    (folder / "data" / "good").write_text("0.8125")
    return folder


@pytest.fixture
def report(tmp_path: Path) -> Callable[[Path], str]:
    """A function that writes the report of a project's newest run and returns its text."""

    def written(folder: Path) -> str:
        project = load(folder)
        path = write_report(project, Catalog(project.settings.catalog), tmp_path / "out" / "report.html")
        return path.read_text(encoding="utf-8")

    return written
