"""Parsing SQL: errors with their line, descriptions, and statements as functions of tables."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipeline import Chart, mart
from pipeline.core.definitions import Action, Expectation
from pipeline.core.errors import DefinitionError, Place
from pipeline.kernel.sql import SqlTransform, parse, sql


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("select a,\n  b c d from t", r"line 2, column 7: .*got 'd'"),
        ("select (1 from t", r"line 1, column 14: Expecting \): got 'from'"),
        ("select * from t where", "line 1, column 21: "),
        ("select 'a from t", "invalid SQL: Error tokenizing"),
        ("", "one SELECT statement: got nothing"),
        ("-- only words", "one SELECT statement: got nothing"),
        ("select 1; select 2", "one SELECT statement: got SELECT, SELECT"),
        ("insert into t values (1)", "one SELECT statement: got INSERT"),
        ("drop table t", "one SELECT statement: got DROP"),
        ("pivot t on x using sum(y)", "one SELECT statement: got PIVOT"),
    ],
)
def test_syntax_errors(text, words):
    with pytest.raises(DefinitionError, match=words) as caught:
        parse(text, place=Place("flights.py", 31))
    assert str(caught.value).endswith("(flights.py:31)")


def test_statement_without_a_table_is_rejected():
    with pytest.raises(
        DefinitionError, match="the SELECT reads no table; name a source or a table after FROM"
    ) as caught:
        sql("select 1 as one")
    assert caught.value.place.file == __file__


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("x >", "is not a SQL condition"),
        ("x > 'a", "is not a SQL condition"),
        ("x > 0) or (y > 0", "is not a SQL condition"),
        ("x > 0, y > 0", "is not a SQL condition"),
        ("x > 0) from t; drop table t; --", "is not a SQL condition"),
        ("", "is not a SQL condition"),
        ("count(*) > 5", "must not read more than one row"),
        ("row_number() over () < 5", "must not read more than one row"),
        ("x in (select x from u)", "must not read more than one row"),
        ("exists (select 1 from u)", "must not read more than one row"),
    ],
)
def test_invalid_conditions(condition, words):
    with pytest.raises(DefinitionError, match=words) as caught:
        sql("select x from t", expect=[Expectation("odd", condition, Action.WARN)])
    assert caught.value.got == repr(condition)
    assert caught.value.place.file == __file__


@pytest.mark.parametrize("condition", ["x > 0 -- or so", "x in (1, 2)", "(x > 0) or (y > 0)", "list_sum(l) > 3", "b"])
def test_conditions_of_one_row(condition):
    assert sql("select x from t", expect=[Expectation("fine", condition, Action.WARN)]).expect[0].condition == condition


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ("-- One row per day.\nselect x from t", "One row per day."),
        ("/* One row\n   per day. */ select x from t", "One row\n   per day."),
        ("-- One row.\nwith c as (select x from t) select x from c", "One row."),
        ("select x from t", ""),
    ],
)
def test_a_leading_comment_is_the_description(text, description):
    assert sql(text).description == description
    assert sql(text, description="given").description == "given"


def test_fingerprint_ignores_layout_and_comments():
    first = SqlTransform("select x, y + 1 as z from t where x > 0").fingerprint
    assert first == SqlTransform("-- words\nSELECT x,\n   y+1 AS z -- more\nFROM t WHERE x > 0").fingerprint
    assert first != SqlTransform("select x, y + 2 as z from t where x > 0").fingerprint


def test_a_statement_is_a_function_of_its_tables():
    t, u = pa.table({"x": [1, 2]}), pa.table({"x": [2], "y": ["b"]})
    joined = sql("select x, (select count(*) from u) as n, u.y from t join u using (x)")
    assert joined.inputs == ("t", "u")
    assert joined(t, u).to_pylist() == [{"x": 2, "n": 1, "y": "b"}]
    assert joined(u=u, t=t) == joined(t, u=u)


@pytest.mark.parametrize(
    ("chart", "problem"),
    [
        (Chart("bar", x="day", y="sale"), r"Chart\(y='sale'\) names a column .*; did you mean 'sales'"),
        (Chart("line", x="at", y="sales"), r"Chart\(x='at'\) names a column"),
        (Chart("line", x="day", y="sales", by="shop"), r"Chart\(by='shop'\) names a column"),
    ],
)
def test_a_chart_of_a_column_that_does_not_exist_is_refused(chart, problem):
    with pytest.raises(DefinitionError, match=problem):
        mart("select day, sum(x) as sales from t group by day", chart=chart)
    assert mart("select * from t", chart=chart).chart == chart
    assert mart("select day, sales, sale, at, shop from t", chart=chart).chart == chart


@pytest.mark.parametrize(
    "text",
    [
        "select Day, sum(n) as SALES from t group by day",
        "select day, max(n) from t group by day",
        "select day, t.* exclude (day) from t",
        "select day, unnest(facts) from t",
        "select day, unnest(facts) as facts from t",
        "select day, columns(c -> c like 'sales%') as '\\0' from t",
        "select day from t union all by name select day, sales from u",
        "(select day, sales from t)",
        "from t select day, sales",
    ],
)
def test_a_chart_of_columns_that_the_text_may_have_is_accepted(text):
    chart = Chart("bar", x="day", y="sales")
    assert mart(text, chart=chart).chart == chart


@pytest.mark.parametrize(
    "text",
    [
        "select day, n from t",
        "(select day, n from t)",
        "select day, n from t union all select day, sales from u",
        "select day, n from t union all by name select day, m from u",
    ],
)
def test_a_chart_of_a_column_that_no_part_of_the_text_has_is_refused(text):
    with pytest.raises(DefinitionError, match=r"Chart\(y='sales'\) names a column that the SELECT does not have"):
        mart(text, chart=Chart("bar", x="day", y="sales"))
