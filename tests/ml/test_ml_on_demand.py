"""On-demand features: the same values in a training set as online, and clear errors for what could differ."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from ml import feature_service, feature_view, features, on_demand, training_set
from ml.features.online_features import OnlineFeatures
from pipeline.core.errors import DefinitionError, RequestError
from pipeline.core.schema import Column, Schema
from pipeline.kernel.planner.exchange import exchange
from pipeline.project import Workspace, load
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner

SHOP = """
from ml import feature_service, feature_view, features, on_demand, training_set
from pipeline import files, source

raw_orders = source(
    files("orders/*.csv"), schema={"id": "bigint", "customer": "bigint", "at": "timestamp", "amount": "decimal(9,2)"}
)
customers = feature_view(
    "select customer, at, avg(amount) over (partition by customer order by at) as mean_amount, at as last_at from raw_orders",
    entity="customer", event_time="at", online=True,
)
examples = training_set(
    "select id, customer, at, amount from raw_orders", key="id", event_time="at",
    features=feature_service(
        features("customers", strict=True),
        on_demand("amount / nullif(mean_amount, 0) as ratio", "ratio > 1 as is_large"),
        on_demand("date_diff('hour', last_at, at) as hours", "amount * 3 as triple"),
    ),
)
"""
ROWS = "id,customer,at,amount\n1,1,2024-01-01 10:00,5.50\n2,1,2024-01-02 10:00,7.25\n3,2,2024-01-02 11:00,1\n4,1,2024-01-03 10:00,9\n"


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "shop"\ndefinitions = "shop.py"\n')
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders" / "1.csv").write_text(ROWS)
    return tmp_path


def run(folder):
    assert "failed" not in {step.decision for step in Runner(load(folder), RunOptions()).run().steps}


def test_online_values_and_types_are_those_of_the_training_set(shop):
    (shop / "orders" / "1.csv").write_text("\n".join(ROWS.splitlines()[:-1]) + "\n")
    run(shop)
    at = datetime(2024, 1, 3, 10, tzinfo=UTC)
    online = OnlineFeatures(load(shop))
    read = online.get("examples", [{"customer": 1, "amount": 9}], at=at)
    text = online.get(
        "examples",
        pa.table({"customer": ["1"], "amount": ["9.00"], "at": [datetime(2024, 1, 3, 10, tzinfo=UTC)]}),
        at=at,
    )
    online.close()

    (shop / "orders" / "2.csv").write_text("id,customer,at,amount\n4,1,2024-01-03 10:00,9\n")
    run(shop)
    names = ["mean_amount", "last_at", "ratio", "is_large", "hours", "triple"]
    learned = Workspace(load(shop)).query(f"select {', '.join(names)} from examples where id = 4")
    assert read.equals(learned)
    assert text.equals(learned)
    assert learned.to_pylist()[0]["hours"] == 24


def test_a_request_without_a_column_or_with_another_type_is_an_error(shop):
    run(shop)
    online = OnlineFeatures(load(shop))
    with pytest.raises(
        RequestError,
        match="no column 'amount', which an on-demand feature reads: got 'customer', 'amont'; pass 'amount'",
    ):
        online.get("examples", [{"customer": 1, "amont": 9}])
    with pytest.raises(RequestError, match=r"an on-demand feature cannot be computed: got .*Could not convert string"):
        online.get("examples", [{"customer": 1, "amount": "much"}])
    online.close()


def test_columns_are_found_in_any_case(shop):
    """A request has the columns as the labelled rows spell them, also where an expression spells them differently."""
    (shop / "shop.py").write_text(
        SHOP.replace("amount / nullif(mean_amount", "AMOUNT / nullif(Mean_Amount").replace(
            "last_at, at)", "LAST_AT, At)"
        )
    )
    run(shop)
    online = OnlineFeatures(load(shop))
    chosen = online.chosen("examples")
    assert chosen.request_columns == ("customer", "amount")
    assert {column for each in chosen.computed for column in each.columns} == {"amount", "mean_amount", "last_at", "at"}
    assert online.get("examples", [{"customer": 2, "amount": 3}])["ratio"].to_pylist() == [3.0]
    assert online.get([features("customers"), on_demand("MEAN_AMOUNT * 2 as x")], [{"customer": 2}])[
        "x"
    ].to_pylist() == [2.0]
    online.close()


def test_a_training_set_may_have_on_demand_features_only():
    table = training_set(
        "select id, t, a.b as c from rows a", key="id", event_time="t", features=[on_demand("c + 1 as d")]
    )
    rows = table.named("examples").transform.over({})(rows=pa.table({"id": [1], "t": [2], "b": [3]}))
    assert rows.to_pylist() == [{"id": 1, "t": 2, "c": 3, "d": 4}]


def test_a_service_of_on_demand_features_only_needs_no_store(shop):
    online = OnlineFeatures(load(shop))
    read = online.get([on_demand("a + 1 as b", "b * 2 as c")], [{"a": 1}, {"a": None}])
    online.close()
    assert read.to_pylist() == [{"b": 2, "c": 4}, {"b": None, "c": None}]


def test_large_views_are_still_joined_in_buckets_of_the_entity():
    view = feature_view("select e, t, x from rows", entity="e", event_time="t").named("shown")
    service = feature_service(features("shown"), on_demand("x + n as y"))
    table = training_set("select id, e, t, n from labels", key="id", event_time="t", features=service).named("examples")
    kinds = {"id": "BIGINT", "e": "VARCHAR", "t": "TIMESTAMP", "x": "BIGINT", "n": "BIGINT"}
    schemas = dict.fromkeys(("labels", "shown"), Schema(tuple(Column(*each) for each in kinds.items())))
    tree = table.transform.over({"labels": view, "shown": view}).tree
    assert exchange(tree, schemas, dict.fromkeys(schemas, 1 << 40), 1 << 20).keys == {
        "labels": ('"e"',),
        "shown": ('"e"',),
    }


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("amount", r"not a SQL expression with a name: got 'amount'; write 'SQL as name'"),
        ("amount +", r"not a SQL expression: got 'amount \+'"),
        ("a as b, c as d", "not a SQL expression with a name"),
        ("* ", "not a SQL expression with a name"),
        ("sum(amount) as total", r"must not read other rows: got SUM\(amount\) needs all rows at once"),
        ("lag(amount) over () as before", "must not read other rows: got a window function"),
        ("(select 1) as one", "must not read other rows"),
        ("a from b as c", "must not read other rows|with a name"),
        ("now() - at as age", r"must have the same value in training and in use: got .*; use the event time"),
        ("random() as chance", r"must have the same value in training and in use: got RAND.*; use the event time"),
        ("my_function(amount) as x", "is not known to work row by row"),
    ],
)
def test_expressions_that_could_differ_are_errors(expression, message):
    with pytest.raises(DefinitionError, match=message):
        on_demand(expression)


@pytest.mark.parametrize(
    ("computed", "message"),
    [
        (
            on_demand("amout * 2 as x"),
            r"reads 'amout', which is neither a column of the labelled rows nor a feature; did you mean",
        ),
        (on_demand("amount * 2 as Amount"), r"two columns 'Amount', of the labelled rows and of on_demand"),
        (on_demand("amount * 2 as x", "x * 2 as x"), r"two columns 'x'"),
    ],
)
def test_columns_that_do_not_fit_are_errors(computed, message):
    table = training_set("select id, t, amount from rows", key="id", event_time="t", features=[computed])
    with pytest.raises(DefinitionError, match=message):
        table.transform.over({})


def test_names_that_differ_in_case_only_are_one_name(shop):
    view = feature_view("select e, t, x from rows", entity="e", event_time="t").named("shown")
    table = training_set("select e, t, X from rows", key="e", event_time="t", features=[features("shown")])
    with pytest.raises(DefinitionError, match=r"two columns 'x', of the labelled rows and of 'shown'"):
        table.transform.over({"shown": view})
    online = OnlineFeatures(load(shop))
    with pytest.raises(RequestError, match="two features have the name 'Mean_Amount'"):
        online.chosen([features("customers", "mean_amount as Mean_Amount"), features("customers")])
    online.close()


def test_on_demand_needs_an_expression():
    with pytest.raises(DefinitionError, match=r"on_demand\(…\) has no features; pass 'SQL as name'"):
        on_demand()
