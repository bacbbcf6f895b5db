"""Which columns of a statement depend on others, by statements and by running them on rows that differ in one column."""

from __future__ import annotations

import duckdb
import pytest

from pipeline.kernel.planner.impact import dependent_columns
from pipeline.kernel.sql import parse

STATEMENTS = {
    "select a, b from t": {"a"},
    "select a + 1 as x, b from t": {"x"},
    "select * from t": {"a"},
    "select t.* from t": {"a"},
    "select * exclude (a) from t": set(),
    "select * exclude (b) from t": {"a"},
    "select b, count(*) as n from t group by b": set(),
    "select a, count(*) as n from t group by a": None,
    "select b from t where a > 1": None,
    "select b, row_number() over (order by a) as n from t": {"n"},
    "select b from t qualify row_number() over (order by a) = 1": None,
    "select b from t order by a limit 1": None,
    "select distinct b from t": set(),
    "select t.b, u.c from t join u on t.a = u.c": None,
    "select b, (select max(a) from t) as m from t": None,
    "with x as (select b from t) select b from x": set(),
    "with x as (select a as b from t) select b from x": None,
    "select b from t union all select a from t": None,
    "select columns(*) from t": None,
    "select A as x from t": {"x"},
    # columns of the result are named by others
    "select a + 1 as d, d * 2 as e, b from t": {"d", "e"},
    "select a + 1 as d, D * 2 as e, e - 1 as f, b from t": {"d", "e", "f"},
    "select b + 1 as d, d * 2 as e, a from t": {"a"},
    "select a + 1 as d, b from t where d > 1": None,
    "select a + 1 as d, b from t qualify row_number() over (order by d) = 1": None,
    "select a + 1 as d, b from t order by d limit 1": None,
    "select a + 1 as d, count(*) as n from t group by d": None,
    "select max(a) as d, b from t group by b having d > 1": None,
    # by position, or all
    "select a, b from t order by 1 limit 1": None,
    "select a, b from t order by 2, 2 limit 3": {"a"},
    "select * from t order by 1 limit 1": None,
    "select a, count(*) as n from t group by 1": None,
    "select b, max(a) as m from t group by 1": {"m"},
    "select a, count(*) as n from t group by all": None,
    "select b, max(a) as m from t group by all": {"m"},
    "select a, b from t order by all limit 1": None,
    "select distinct a, b from t": None,
    "select distinct on (b) b, 1 as x from t": set(),
    "select distinct on (a) a, b from t": None,
    # stars
    "select * replace (a + 1 as b) from t": {"a", "b"},
    "select * replace (1 as a) from t": set(),
    "select * replace (b + 1 as a) from t": set(),
    "select * exclude (a) replace (a + 1 as b) from t": {"b"},
    "select * rename (a as x) from t": {"x"},
    "select *, a as x from t": {"a", "x"},
    "select count(*) as n from t": set(),
    "from t": {"a"},
    # rows
    "select unnest(range(abs(a))) as x, b from t": None,
    "select b from t where exists (select 1 from u where a = 1)": None,
    "select b from t where b in (select c from u)": set(),
    "select b from t, range(t.a) r(x)": None,
}


@pytest.mark.parametrize(("statement", "expected"), STATEMENTS.items())
def test_columns_that_depend_on_a_column(statement, expected):
    found = dependent_columns(parse(statement), "t", frozenset({"a"}))
    assert found == (None if expected is None else frozenset(expected))


@pytest.mark.parametrize("statement", STATEMENTS)
def test_other_columns_are_the_same_whatever_the_column_contains(statement):
    found = dependent_columns(parse(statement), "t", frozenset({"a"}))
    if found is None:
        return
    results = []
    for values in ("(1, 1), (2, 2), (3, 2)", "(7, 1), (-2, 2), (-2, 2)"):
        with duckdb.connect() as con:
            con.execute(f"create table t as select * from (values {values}) t(a, b); create table u as select 1 as c")
            rows = con.execute(statement)
            names = [column[0] for column in rows.description]
            results.append(
                sorted([v for n, v in zip(names, row, strict=True) if n not in found] for row in rows.fetchall())
            )
    assert results[0] == results[1]


def test_all_columns_of_the_input_make_all_dependent():
    assert dependent_columns(parse("select b from t"), "t", None) is None
