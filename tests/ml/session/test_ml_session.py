"""A session with a project: its tables in every form, pinned versions, charts, runs, and errors for wrong arguments."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from ml.session.display import shown
from ml.session.given import given_table
from pipeline import Chart, connect
from pipeline.core.errors import ConflictError, ExpectationError, HeadwaterError, RequestError, StorageError
from pipeline.governance.run_leases import RunLease, holding
from pipeline.report.lines import line_chart
from pipeline.report.plot import plot_of
from pipeline.report.words import ABSENT

DEFINITIONS = """
from pipeline import fail, files, quarantine, source, sql

raw_orders = source(files("data/*.csv"), schema={
    "id": "bigint", "day": "date", "product": "varchar", "amount": "double", "sold_at": "timestamptz",
})
orders = sql(
    "-- Orders & <amounts>.\\nselect *, [id, 2] as pair from raw_orders",
    key="id", expect=[quarantine("is_sold", "amount > 0"), fail("is_real", "product is distinct from 'unreal'")],
)
sales = sql("select day, product, sum(amount) as amount from orders group by all")
"""


def write(folder, number, product="<b>tea</b>", rows=30):
    """Write orders of March: one of each file has no amount above 0, and one no product."""
    lines = ["id,day,product,amount,sold_at"]
    for i in range(number * rows, (number + 1) * rows):
        name = "" if i % rows == 3 else product if i % 2 else "cup"
        lines.append(f"{i},2026-03-{1 + i % 28:02},{name},{i % rows / 4},2026-03-01T{i % 24:02}:00:00Z")
    (folder / "data" / f"{number}.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "shop"\ndefinitions = "shop.py"\n')
    (tmp_path / "shop.py").write_text(DEFINITIONS)
    (tmp_path / "data").mkdir()
    write(tmp_path, 0)
    return tmp_path


@pytest.fixture
def shop(folder):
    with connect(folder) as session:
        session.run()
        yield session


def test_a_session_shows_its_definitions_before_and_after_a_run(folder):
    session = connect(folder)
    assert [row["rows"] for row in session.tables.arrow().to_pylist()] == [None, None, None]
    steps = session.run("+sales").arrow().to_pylist()
    assert [(step["name"], step["decision"], step["quarantined"]) for step in steps] == [
        ("raw_orders", "create", 0),
        ("orders", "create", 1),
        ("sales", "create", 0),
    ]
    assert {row["name"]: row["rows"] for row in session.tables.arrow().to_pylist()} == {
        "raw_orders": 30,
        "orders": 29,
        "sales": 28,
    }
    assert "Orders &amp; &lt;amounts&gt;." in session._repr_html_()
    assert "project shop" in repr(session)
    assert "Orders & <amounts>." in repr(session)
    assert {step["decision"] for step in session.run().arrow().to_pylist()} == {"skip"}
    assert {step["decision"] for step in session.run("sales", full=True).arrow().to_pylist()} == {"rebuild"}


def test_rows_are_the_same_in_every_form(shop):
    rows = shop.sql("select id, product, amount, day, sold_at from orders order by id;")
    table = rows.arrow()
    assert table.num_rows == len(rows) == 29
    assert rows.columns == table.column_names == ["id", "product", "amount", "day", "sold_at"]
    assert rows.polars().equals(pl.from_arrow(table))
    assert pl.DataFrame(rows).equals(pl.from_arrow(table))
    assert pa.table(rows).equals(table)
    assert rows.relation().fetchall() == duckdb.from_arrow(table).fetchall()
    frame = rows.pandas()
    assert (len(frame), frame.amount.sum()) == (29, sum(table["amount"].to_pylist()))
    assert frame.day[0] == pd.Timestamp("2026-03-02")


def test_relations_of_a_session_can_be_joined(shop):
    orders, sales = shop.table("orders"), shop.sql("with s as (from sales) select day, amount as total from s")
    joined = orders.relation().set_alias("o").join(sales.relation().set_alias("s"), "o.day = s.day")
    assert joined.aggregate("count(*) as n").fetchall() == [(29,)]
    orders.arrow()  # in memory now
    assert orders.relation().aggregate("count(*) as n").fetchall() == [(29,)]


def test_rows_keep_their_version(folder, shop):
    orders, total = shop.table("orders"), shop.sql("select count(*) as n, sum(amount) as amount from orders")
    write(folder, 1)
    shop.run()
    assert (len(orders), orders.arrow().num_rows) == (29, 29)
    assert total.arrow()["n"].to_pylist() == [29]
    assert len(shop.table("orders")) == 58
    assert len(shop.table("orders", version=0)) == 29
    with connect(folder, at={"orders": 0}) as before:
        assert before.sql("select count(*) as n from orders").arrow()["n"].to_pylist() == [29]
        assert len(before.table("orders", version=1)) == 58
        for change in (before.run, before.stream):
            with pytest.raises(RequestError, match=r"this session reads tables as they were.*; open one without at="):
                change()


def test_the_first_rows_are_shown_escaped_and_shortened(shop):
    shown = shop.table("orders")
    html = shown._repr_html_()
    assert "&lt;b&gt;tea&lt;/b&gt;" in html
    assert "<b>" not in html
    assert html.count("<tr>") == 21
    assert "the first 20 of 29 rows" in html
    assert '<td class="null">null</td>' in html
    assert "[1, 2]" in html
    query = shop.sql("from orders")
    assert "the first 20 rows; there are more" in query._repr_html_()
    assert len(query) == 29
    assert "the first 20 of 29 rows" in repr(query)
    few = shop.sql(
        "select repeat('x', 200) as long, true as yes, timestamptz '2026-01-01 12:00+02' as sold, 0.1 + 0.2 as sum, 'a\nb' as lines"
    )
    assert f"<td>{'x' * 79}…</td>" in few._repr_html_()
    assert repr(few).splitlines() == [
        f"long{' ' * 38}yes   sold                 sum  lines",
        f"{'x' * 39}…  true  2026-01-01 10:00:00  0.3  a b",
        "1 row",
    ]
    none = shop.sql("select id, product from orders where false")
    assert repr(none) == "id  product\n0 rows"


def test_columns_beyond_what_fits_are_counted(shop):
    wide = shop.sql(f"select {', '.join(f'{i} as a_long_name_{i}' for i in range(60))}")
    assert "1 row; 20 more columns" in wide._repr_html_()
    assert repr(wide).endswith("1 row; 50 more columns")


def test_a_chart_is_that_of_the_report_with_its_style(shop):
    plot = shop.sql(
        "select * from (values (1, 0.5, 'a'), (2, 0.7, 'a'), (2, 0.9, '<i>'), (2, 0.1, '<i>'), (null, 1, 'a')) as t(x, on_time_share, k)"
    ).plot("x", "on_time_share", by="k", title="Times & <tides>")
    points = [(1, 0.5, "a"), (2, 0.9, "<i>"), (2, 0.7, "a")]
    drawn = line_chart(plot_of(plot_chart(), points, title="Times & <tides>"))
    html = plot._repr_html_()
    assert str(drawn) in html
    assert "<figcaption>Times &amp; &lt;tides&gt;</figcaption>" in html
    assert "Not drawn: 1 row without x or on_time_share." in html
    assert "Several rows have the same x: the highest on_time_share is drawn." in html
    assert ".headwater .chart .line" in html
    assert ":root" not in html
    assert '[data-jp-theme-light="false"] .headwater' in html
    assert repr(plot).splitlines()[:4] == ["Times & <tides>", "x  <i>  a", f"1  {ABSENT}  50.0 %", "2  90.0 %  70.0 %"]


def plot_chart():
    return Chart("line", "x", "on_time_share", "k", "Times & <tides>")


@pytest.mark.parametrize("kind", ["line", "bar"])
def test_charts_of_every_type_of_x(shop, kind):
    for x in ("id", "day", "product", "sold_at", "amount", "amount::decimal(9, 2)", "amount > 2"):
        html = shop.sql(f"select {x} as x, amount as y from orders").plot("x", "y", kind=kind)._repr_html_()
        assert "<svg" in html
    nothing = shop.sql("select id, null as y from orders").plot("id", "y", kind=kind)
    assert "<svg" not in nothing._repr_html_()
    assert "Not drawn: 29 rows without id or y." in nothing._repr_html_()


def test_a_failed_step_is_raised_when_the_others_have_ended(folder, shop):
    write(folder, 1, product="unreal")
    with pytest.raises(ExpectationError, match="is_real"):
        shop.run()
    assert len(shop.table("orders")) == 29


def test_two_runs_do_not_compute_a_table_at_the_same_time(shop):
    lease = RunLease("other", shop.workspace.settings.lake, ["sales"])
    with holding(shop.workspace.catalog, lease):
        with pytest.raises(ConflictError, match="another run computes 'sales'"):
            shop.run()
        assert len(shop.run("orders").arrow()) == 1


def test_a_closed_session_can_be_used_again(shop):
    relation = shop.table("orders").relation()
    shop.close()
    with pytest.raises(duckdb.Error, match=r"[Cc]onnection"):
        relation.fetchall()
    assert len(shop.table("orders").relation().fetchall()) == 29


WRONG = {
    "unknown table": (lambda s: s.table("order"), RequestError, "'order' is not defined; did you mean 'orders'"),
    "unknown version": (lambda s: s.table("orders", 7), RequestError, "table 'orders' has no version 7; the newest is 0"),
    "version of another type": (lambda s: s.table("orders", "0"), RequestError, "this is no version of a table: got '0'; pass its"),
    "version true": (lambda s: s.table("orders", version=True), RequestError, "this is no version of a table: got True"),
    "unknown table in SQL": (lambda s: s.sql("from order_s"), RequestError, "there is no table 'order_s'; did you mean 'orders'"),
    "unknown column in SQL": (lambda s: s.sql("select nam from orders"), RequestError, 'this query failed: got .*"nam"'),
    "no SELECT": (lambda s: s.sql("drop table orders"), RequestError, "SELECT"),
    "two SELECTs": (lambda s: s.sql("select 1; select 2"), RequestError, "one"),
    "a table's name": (lambda s: s.sql("orders"), RequestError, "SELECT"),
    "unknown x": (lambda s: s.table("orders").plot("dayy", "amount"), RequestError, "no column 'dayy'; did you mean 'day'"),
    "unknown by": (lambda s: s.table("orders").plot("day", "amount", by="k"), RequestError, "no column 'k'"),
    "no numbers": (lambda s: s.table("orders").plot("day", "product"), RequestError, "the column 'product' has no numbers to draw: got string; choose another y"),
    "unknown kind": (lambda s: s.table("orders").plot("day", "amount", kind="pie"), RequestError, "no kind of chart: got 'pie'; use 'line'"),
    "dataset of a query": (lambda s: s.sql("from orders").dataset(), RequestError, "only the rows of a table are a dataset"),
    "unknown step": (lambda s: s.run("order"), RequestError, "'order' is not defined; did you mean 'orders'"),
    "unknown stream": (lambda s: s.stream(), RequestError, "this project has no streams"),
    "no stream": (lambda s: s.verify("orders"), HeadwaterError, "orders"),
    "no feature view": (lambda s: s.features("orders", [{"id": 1}]), RequestError, "'orders' is neither a training set nor a feature view"),
    "unknown model": (lambda s: s.model("late"), RequestError, "no model 'late' is registered"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_explained(shop, case):
    call, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        call(shop)


def test_a_table_that_does_not_exist_yet(folder):
    with pytest.raises(StorageError, match=r"table 'sales' does not exist yet; run `headwater run --select \+sales`"):
        connect(folder).table("sales")
    with pytest.raises(RequestError, match="cannot be parsed"):
        connect(folder, at="yesterday-ish")


@pytest.mark.parametrize(
    "rows",
    [
        pa.table({"a": [1, 2], "b": ["x", None]}),
        pd.DataFrame({"a": [1, 2], "b": ["x", None]}, index=[7, 8]),
        pl.DataFrame({"a": [1, 2], "b": ["x", None]}),
        [{"a": 1, "b": "x"}, {"a": 2}],
        ({"a": 1, "b": "x"}, {"a": 2, "b": None}),
        duckdb.from_arrow(pa.table({"a": [1, 2], "b": ["x", None]})),
    ],
    ids=lambda rows: type(rows).__name__,
)
def test_rows_that_a_user_passes(rows):
    assert given_table(rows).to_pylist() == [{"a": 1, "b": "x"}, {"a": 2, "b": None}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a": 1}, r"these are no rows: got dict; pass a list of rows: \[row\]"),
        (7, "these are no rows: got int; pass a table, or a list of objects"),
        ("ab", "these are no rows: got str"),
        ([1, 2], "these are no rows: got list"),
        ([], "these rows have no columns: got list of 0; pass rows with values"),
        ([{}], "these rows have no columns"),
        ([{"a": 1}, {"a": "x"}], "these rows are no table: got .*"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "these rows are no table: got Duplicate column names"),
        ([{"a": 1 << 70}], "these rows are no table"),
    ],
)
def test_what_is_no_rows(rows, message):
    with pytest.raises(RequestError, match=message):
        given_table(rows)


def test_values_are_shown_as_they_are():
    values = [None, True, 1, 1.0, 0.1 + 0.2, math.nan, math.inf, "a", b"\x00", date(2026, 3, 1), [1, None], {"a": "<"}]
    assert [shown(value) for value in values] == [
        "null", "true", "1", "1", "0.3", "nan", "inf", "a", "b'\\x00'", "2026-03-01", "[1, null]", '{"a": "<"}',
    ]  # fmt: skip
    assert shown(datetime(2026, 3, 1, 12, tzinfo=UTC)) == "2026-03-01 12:00:00"
