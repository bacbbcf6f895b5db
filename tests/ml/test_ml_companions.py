"""Generated statements name columns that their tables are known to have."""

from __future__ import annotations

import pytest

from ml import experiment, outcome_metric
from ml.companions import StatementTransform
from pipeline import sql
from pipeline.core.definitions import caller
from pipeline.core.errors import DefinitionError

ROWS = sql("select {'a': 1, 'b': {'c': 2}} as place, x, list_value(1) as many from raw").named("rows")


def check(expression, table=ROWS):
    StatementTransform("", (table.name,), ((table.name, expression),)).check_inputs({table.name: table}, caller())


@pytest.mark.parametrize(
    "expression",
    [
        "x",
        "X + 1",
        "place",
        "place.a",
        "place.b.c",
        "rows.x",
        "rows.place.a",
        "of_rows.x",
        "many[1]",
        "list_sum(many)",
        "1",
    ],
)
def test_columns_and_fields_of_columns_are_known(expression):
    check(expression)


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("y", "table 'rows' has no column 'y'"),
        ("plaze.a", "table 'rows' has no column 'plaze'; did you mean 'place'"),
        ("rows.y", "table 'rows' has no column 'y'"),
        ("of_rows.y.a", "table 'rows' has no column 'y'"),
        ("x +", "invalid SQL"),
        ("1; select 2", "an expression over 'rows' must be one SELECT statement"),
    ],
)
def test_others_are_errors(expression, problem):
    with pytest.raises(DefinitionError, match=problem):
        check(expression)


def test_the_columns_of_a_table_may_be_unknown():
    check("anything.at.all", sql("select * from raw").named("open"))


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ({"unit": "user"}, "table 'seen' has no column 'user'"),
        ({"variant": "arm"}, "table 'seen' has no column 'arm'"),
        ({"time": "t"}, "table 'seen' has no column 't'"),
        ({"metrics": {"unit": "who"}}, "table 'orders' has no column 'who'"),
        ({"metrics": {"time": "t"}}, "table 'orders' has no column 't'"),
        ({"metrics": {"value": "amont * 2"}}, "table 'orders' has no column 'amont'; did you mean 'amount'"),
    ],
)
def test_the_columns_of_an_experiment_are_known(option, problem):
    tables = {
        "seen": sql("select id, variant, at from raw").named("seen"),
        "orders": sql("select id, amount, at from raw").named("orders"),
    }
    outcome = {"of": "orders", "value": "amount", "unit": "id", "time": "at", **option.get("metrics", {})}
    chosen = {"unit": "id", "time": "at", **option, "metrics": [outcome_metric("m", **outcome)]}
    defined = experiment(variants={"a": 1, "b": 1}, exposures="seen", **chosen).named("e")
    with pytest.raises(DefinitionError, match=problem) as raised:
        defined.companions[0].transform.check_inputs(tables, defined.place)
    assert raised.value.place == defined.place
