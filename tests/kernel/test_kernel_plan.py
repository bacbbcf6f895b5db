"""The strategy of many statements, one per line; statements that cannot be split correctly are gathered."""

from __future__ import annotations

import duckdb
import pytest
from sqlglot.generator import Generator

from pipeline.core.errors import DefinitionError
from pipeline.kernel.planner.strategy import choose_strategy
from pipeline.kernel.sql import parse, tables_of


def strategy(statement):
    return choose_strategy(parse(statement)).strategy


@pytest.mark.parametrize(
    ("expected", "statement"),
    [
        ("blockwise", "select x, y + 1 as y from t where x > 0"),
        ("blockwise", "from t"),
        ("blockwise", "with c as (select * from t where x > 1), d as (select *, y as z from c) select x, z from D"),
        ("blockwise", "with t as (select * from t) select * from t"),
        ("blockwise", "select x from (select * from t) as s"),
        ("blockwise", "select x, unnest(l) as each from t"),
        ("blockwise", "select t.*, e.each from t, unnest(t.l) as e(each)"),
        ("blockwise", "select list_sum(l) as s, split_part(name, '-', 1) as p from t"),
        ("broadcast", "select t.x, u.y from t join u on t.x = u.x left join v using (y)"),
        ("broadcast", "select x from t semi join u using (x)"),
        ("broadcast", "select x from t left join (select x, sum(y) as y from u group by x) as s using (x)"),
        ("broadcast", "select x from t where exists (select 1 from u where u.x = t.x)"),
        ("broadcast", "select x from t where x in (select x from u order by y limit 3)"),
        ("broadcast", "select x, (select max(u.y) from u where u.x = t.x) as y from t"),
        ("broadcast", "select * from t asof left join u on t.x = u.x and t.at >= u.at"),
        ("broadcast", "select * from t cross join u"),
        ("broadcast", "with u as (select * from u where y > 1) select * from t join u using (x)"),
        ("partial", "select x, count(*) as n from t group by x"),
        ("partial", 'select X, sum(y) filter (where y > 2) as s from t group by t."x" having s > 3 order by s limit 4'),
        ("partial", "select month(d) as month, count(*) as n from t group by month"),
        ("partial", "select sum(y) as y from t"),
        ("partial", "select x from t group by x"),
        ("partial", "select u.name, avg(t.y) as m from t join u on t.x = u.x group by all order by all"),
        ("partial", "with c as (select x, y * 2 as y from t) select x, avg(y) as m from c group by 1"),
        ("partial", "select distinct x, y + 1 as z from t join u using (x) order by z limit 3"),
        ("partial", "select x, count(distinct y) as n, any_value(y) as a, max(y, 2) as m from t join u using (x) group by x"),
        ("partial", "with c as (select * from t where y > 1) select x, first(y) as f, list(y) as l from c group by x"),
    ],
)  # fmt: skip
def test_the_strategy_of(expected, statement):
    assert strategy(statement) == expected


@pytest.mark.parametrize(
    "statement",
    [
        # the driving table is read twice
        "select a.x from t as a join T as b using (x)",
        "select x from t where y > (select avg(y) from t)",
        "select x from t as a where exists (select 1 from t as b where b.x = a.x and b.y > a.y)",
        "with c as (select * from t) select c.x from c join c as d using (x)",
        "with c as (select * from t), d as (select max(x) as m from C) select c.x from c, d",
        "select x, (select count(*) from t) as n from t",
        "select x from t union all select x from t",
        # all rows at once
        "select x from t limit 3",
        "select x from t offset 3",
        "select x from t order by x",
        "select distinct on (x) x, y from t",
        "select x from t qualify row_number() over (partition by x order by y) = 1",
        "select x, sum(y) over (partition by x) as s from t",
        "select x, sum(y) over w as s from t window w as (partition by x)",
        "select x from t order by row_number() over (order by y)",
        "with c as (select * from t limit 3) select * from c",
        "with c as (select x, count(*) as n from t group by x) select * from c where n > 1",
        "select * from (select distinct x from t) as s",
        "select x from t union select x from u",
        "select x from t except select x from u",
        "with c as (select x from t union all select x from u) select * from c",
        "with recursive c as (select x from t union all select x + 1 from c where x < 3) select * from c",
        "select * from t tablesample 10 percent",
        "select * from t using sample 5",
        "select t.x from t join (select * from u using sample 5) as s using (x)",
        "select * from t pivot (sum(y) for x in (1, 2))",
        "select * from t unpivot (v for n in (x, y))",
        # joins that need all rows of the left
        "select * from t right join u using (x)",
        "select * from t full join u using (x)",
        "select * from t positional join u",
        "select * from t right semi join u using (x)",
        "with c as (select * from t full join u using (x)) select * from c",
        "select * from (t join u using (x))",
        # not a table of the project
        "select * from main.t",
        "select * from read_csv('t.csv') as t",
        "select * from t, range(3) as r",
        "select * from (values (1)) as t(x)",
        "select 1 as one",
        # volatile: randomness, time, session
        "select x, random() as r from t",
        "select x, uuid() as r from t",
        "select x, now() as r from t",
        "select x, current_date as r from t",
        "select x, current_timestamp as r from t",
        "select x, localtimestamp as r from t",
        "select x from t where x > (select max(y) * random() from u)",
        "select x, nextval('s') as r from t",
        "select x, getvariable('v') as r from t",
        # aggregates without an exactly mergeable state, or in an unsupported form
        "select x, list(distinct y) as l from t group by x",
        "select x, first(t.y) as l from t join u using (x) group by x",
        "select x, list(y) as l from (select t.y, t.x from t semi join u using (x)) as s group by x",
        "select x, string_agg(y, ',') as l from t where x in (select x from u) group by x",
        "select x, last(y) as l from t, lateral (select t.x + 1 as z) as s group by x",
        "select x, list(y order by all) as l from t group by x",
        "select x, min(y, z) as l from t group by x",
        "select count(distinct (x, y), z) as n from t",
        "select x, reservoir_quantile(y, 0.5) as l from t group by x",
        "select distinct x from t qualify row_number() over () = 1",
        "select distinct x, row_number() over () as n from t",
        "select distinct * from t",
        "select distinct unnest(l) as e from t",
        "select x, sum(y order by y) as s from t group by x",
        "select x, mode() within group (order by y) as l from t group by x",
        "select x, geomean(y) as l from t group by x",
        "select x, weighted_avg(y, z) as l from t group by x",
        "select geomean(y) as l from t",
        "select x, y.sum() as s from t group by x",
        "select sum(columns(*)) from t",
        # grouping sets, and other clauses with grouping
        "select x, count(*) as n from t group by rollup (x)",
        "select x, count(*) as n from t group by cube (x)",
        "select x, count(*) as n from t group by grouping sets ((x), ())",
        "select x, y, count(*) as n from t group by grouping sets (x, y)",
        "select x, grouping(x) as g, count(*) as n from t group by rollup (x)",
        "select x, count(*) as n from t group by ()",
        "select distinct x, count(*) as n from t group by x, y",
        "select x, count(*) as n, row_number() over (order by x) as r from t group by x",
        "select x, rank() over (order by count(*)) as r from t group by x",
        "select x, count(*) as n from t group by x qualify row_number() over () = 1",
        "select x, count(*) as n from t group by x having n > (select avg(y) from u)",
        "select x, (select max(y) from u) as m, count(*) as n from t group by x",
        "select *, count(*) as n from t group by all",
        "select unnest(l) as e, count(*) as n from t group by all",
        "select x, (select sum(t.y)) as s from t",
        "select x, (select sum(t.y) from u) as s from t",
        "select x, (select sum(y) from u) as s from t",
        "select count(*) as n from t full join u using (x)",
        "select count(*) as n from t where x > (select avg(x) from t)",
        # ambiguous names: column or alias
        "select y as k, count(*) as n from t group by k, y",
        "select 'all' as x, count(*) as n from t group by x",
        "select sum(y) as x from t group by x",
        "select sum(y) as y, count(*) as n from t having y > 3",
        "select -x as x, count(*) as n from t group by t.x order by x + 0",
        "select x + 1 as y, sum(y) as s from t group by t.x",
        "select x, sum(y) as s, s + 1 as more from t group by x",
        "select x + 1 as y, count(*) as n from t where y > 3 group by all",
        "select sum(y) as x, count(*) as n from t group by t.x having x > 3",
        "select x, x, count(*) as n from t group by x",
        # unnamed columns
        "select x, count(*) from t group by x",
        "select sum(y) from t",
    ],
)  # fmt: skip
def test_gathered(statement):
    assert strategy(statement) == "gather"


def _functions(condition):
    with duckdb.connect() as con:
        query = f"select distinct function_name from duckdb_functions() where {condition} order by all"
        return [name for (name,) in con.execute(query).fetchall() if name.isidentifier() and not name.startswith("pg_")]


@pytest.mark.parametrize("arguments", ["", "x", "x, y", "x, y, 1"])
def test_no_aggregate_of_duckdb_is_treated_as_row_wise(arguments):
    taken = [
        name
        for name in _functions("function_type = 'aggregate'")
        if _strategy_if_sql(f"select {name}({arguments}) as a from t") in {"blockwise", "broadcast"}
    ]
    assert taken == []


@pytest.mark.parametrize("arguments", ["", "x", "x, y"])
def test_no_volatile_function_of_duckdb_is_split(arguments):
    taken = [
        name
        for name in _functions("function_type = 'scalar' and stability <> 'CONSISTENT'")
        if _strategy_if_sql(f"select {name}({arguments}) as a from t") not in {"gather", None}
    ]
    assert [name for name in taken if name != "error"] == []  # it always raises


def test_no_macro_with_an_aggregate_or_the_time_is_split():
    hidden = r"function_type = 'macro' and regexp_matches(macro_definition, '(?i)\b(sum|avg|count|list|now|current_\w+|get_current\w*|json_group\w*|group_\w+)\(')"
    taken = [name for name in _functions(hidden) if _strategy_if_sql(f"select {name}(x) as a from t") == "blockwise"]
    assert [name for name in taken if not name.startswith(("list_", "array_", "map_"))] == []
    assert strategy("select list_sum(l) as a from t") == "blockwise"  # list_aggr is row-wise


def _strategy_if_sql(statement):
    try:
        return strategy(statement)
    except DefinitionError:
        return None


@pytest.mark.parametrize(
    ("statement", "tables"),
    [
        ("select x, (select max(y) from u) as m from t", ("t", "u")),
        ("with a as (select * from u), b as (select * from t join a using (x)) select * from b", ("t", "u")),
        ("select * from t join T using (x) join U using (y)", ("t", "U")),
        ("with t as (select * from t) select * from t", ("t",)),
        ("with t as (select * from u) select * from t join v using (x) where x in (select x from T)", ("u", "v")),
        ("select * from t where x in (with t as (select 1 as x) select x from t)", ("t",)),
        ("with recursive r as (select 1 as x union all select x + 1 from r where x < 3) select * from t join r using (x)", ("t",)),
        ('select * from "Odd name"', ("Odd name",)),
        ("select * from u except select * from t", ("u", "t")),
    ],
)  # fmt: skip
def test_the_driving_table_is_the_first_input(statement, tables):
    assert tables_of(parse(statement)) == tables


def test_plan_has_a_reason():
    chosen = choose_strategy(
        parse("with c as (select x from t) select c.x, u.y, v.z from c join u using (x) left join v using (y)")
    )
    assert (chosen.driving, chosen.reason) == ("t", "'u', 'v' joined to each split of 't'")
    assert choose_strategy(parse("select x, count(*) from t group by x")).reason == "COUNT(*) has no name: add an alias"


def test_nested_conditions_are_not_printed_once_for_each_level_when_a_statement_is_planned():
    def nested(depth):
        return "0" if depth == 0 else f"case when x < {depth} then {depth} else {nested(depth - 1)} end"

    printed = 0
    original = Generator.case_sql

    def counted(self, expression):
        nonlocal printed
        printed += 1
        return original(self, expression)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Generator, "case_sql", counted)
        assert strategy(f"select {nested(20)} as y from t") == "blockwise"
    assert printed == 0


def test_approx_top_k_is_printed_without_a_warning(caplog):
    assert parse("select approx_top_k(x, 3) as most from t").sql("duckdb") == "SELECT APPROX_TOP_K(x, 3) AS most FROM t"
    assert caplog.text == ""
