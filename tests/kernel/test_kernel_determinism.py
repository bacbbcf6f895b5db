"""Statements whose result SQL leaves undefined return the same result for any order of rows."""

from __future__ import annotations

import random

import duckdb
import pytest

from pipeline import sql
from pipeline.core.errors import DefinitionError
from pipeline.kernel.planner.determinism import deterministic
from pipeline.kernel.planner.strategy import choose_strategy
from pipeline.kernel.sql import SqlTransform, parse

OPEN = [
    "select k, any_value(v) as a, any_value(v) filter (where v > 1) as b from t group by k",
    "select mode(v) as m, mode(k) filter (where v > 0) as n from t",
    "select k, arg_max(id, v) as a, arg_min(id, v) filter (where v < 3) as b, max_by(id, v, 2) as c from t group by all",
    "select k, list(v) as a, array_agg(id) as b, string_agg(k, '|') as c, list(distinct v) as d from t group by k",
    "select k, list(id order by v) as a, first(id order by v) as b, last(id order by v desc) as c from t group by k",
    "select any_value(id order by v) as a, string_agg(id::varchar, ',' order by v) as b from t",
    "select list_transform(list(v), x -> x + 1) as l from t",
    "select id, v from t limit 4",
    "select * from t order by v limit 4",
    "select v, count(*) as n from t group by v order by n limit 2",
    "select id, v from t union all select v, id from t limit 5",
    "select k, (select v from t as r where r.id = t.id limit 1) as v from t",
    "with some as (select * from t limit 5) select count(*) as n, sum(v) as s from some",
    "select distinct on (k) k, v from t",
    "select distinct on (k) k, v, id from t order by v",
    "select id, row_number() over (partition by k order by v) as n, rank() over (order by v) as r from t",
    "select id, row_number() over w as n, rank() over w as r from t window w as (partition by k order by v)",
    "select *, row_number() over () as n from t",
    "select * from t qualify row_number() over (partition by id order by v) = 1",
    "select id as v, lag(v) over (order by v) as p from t",
    "select k, count(*) as n, row_number() over (order by count(*)) as r from t group by k",
    "select id, sum(v) over (order by v rows between 1 preceding and current row) as s from t",
    "select id, first(v) over (partition by k) as f, last_value(id) over (order by v) as l from t",
]
CLOSED = [
    "select k, count(*) as n, sum(v) as s, max(id) as m from t group by k order by k",
    "select id, rank() over (order by v) as r, sum(v) over (order by v) as s from t",
    "select arg_max(id, (v, id)) as a from t",
    "select upper(k) as k, v from t where v > 1",
    "select id, v from t order by all",
]


@pytest.mark.share(8)
@pytest.mark.parametrize("statement", OPEN)
def test_the_order_of_rows_does_not_matter(statement):
    dice = random.Random(7)  # noqa: S311 - shuffles rows
    rows = [(dice.randint(0, 3), dice.choice(["a", "b", None]), dice.choice([0, 1, 2, 3, None])) for _ in range(30)]
    answers = set()
    for _ in range(6):
        dice.shuffle(rows)
        with duckdb.connect() as con:
            con.execute("create table t (id bigint, k varchar, v bigint)")
            con.executemany("insert into t values (?, ?, ?)", rows)
            answers.add(str(sorted(map(str, con.sql(SqlTransform(statement).sql).fetchall()))))
    assert len(answers) == 1


@pytest.mark.parametrize("statement", OPEN)
def test_a_deterministic_statement_is_not_changed(statement):
    once = SqlTransform(statement).sql
    assert SqlTransform(once).sql == once


@pytest.mark.parametrize("statement", CLOSED)
def test_statements_with_a_unique_result_are_unchanged(statement):
    tree = parse(statement)
    assert deterministic(tree) is tree


@pytest.mark.parametrize("call", ["first(v)", "last(v)", "arbitrary(v)", "first(v) filter (where v > 1)"])
def test_a_missing_order_is_rejected(call):
    with pytest.raises(DefinitionError, match=r"depends on the order of rows.*\(v order by \.\.\.\), or use min\(v\)"):
        sql(f"select k, {call} as f from t group by k")


def test_ties_are_decided_by_value():
    with duckdb.connect() as con:
        con.execute("create table t as select * from (values (2, 5), (1, 5), (3, 4), (9, null)) as v(id, v)")
        statement = "select arg_max(id, v) as a, arg_min(v, id % 2) as b, any_value(id) as c, list(id) as d from t"
        assert con.sql(SqlTransform(statement).sql).fetchall() == [(2, 5, 1, [1, 2, 3, 9])]


@pytest.mark.parametrize(
    "call", ["any_value(v)", "mode(v)", "arg_max(id, v)", "arg_min(id, v) filter (where v > 1)", "list(v)"]
)
def test_states_still_merge(call):
    assert choose_strategy(SqlTransform(f"select k, {call} as a from t group by k").tree).strategy == "partial"
