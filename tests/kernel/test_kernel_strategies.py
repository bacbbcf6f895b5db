"""For any plan, the rows computed over 1, 3 and 7 splits equal those of the direct query."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from pipeline.kernel.sql_text import literal
from tests.rigs.proofs import PROOFS, examples, some

VALUES = {
    "i bigint": [None, "0", "1", "2", "-3", "9007199254740993"],
    "d double": [None, "0", "1.5", "-2.25", "0.1", "1e6", "nan", "inf"],
    "s varchar": [None, "", "a", "A", "b'c", "é"],
    "dt date": [None, "2013-01-01", "2013-02-28", "1969-12-31"],
    "m decimal(9,2)": [None, "0.01", "-3.10", "9999999.99"],
    "b boolean": [None, "true", "false"],
    "f float": [None, "0.5", "-1.25", "nan"],
    "k tinyint": [None, "1", "-128", "127"],
    '"Mixed" integer': [None, "1", "2"],
}
SMALL = """
    select * from (values (1, 'a', 10, date '2013-01-01'), (1, 'A', 11, null), (2, 'a', null, date '2013-03-01'),
                          (null, null, 13, null)) as v(i, s, w, dt)
"""

# A WITH clause if required, and the FROM item, always with the alias `a`.
SOURCES = [
    ("", "t a"),
    ("", "T as A"),
    ("", '(select * from "t" where i is not null) a'),
    ("", "(select * from t limit 3) a"),
    ("", "(select * from (select * from t) where s <> 'a') as a"),
    ("with c as (select *, i + 1 as j from t) ", "c a"),
    ("with c as (select *, i + 1 as j from t), e as (select * from C where j > 1) ", "E a"),
    ("with t as (select * from t where b) ", "t a"),
    ("with c as (select distinct * from t) ", "c a"),
    ("with c as (select *, row_number() over (order by i) as j from t) ", "c a"),
    ("with c as (select * from t union all select * from t) ", "c a"),
    ("with u as (select * from u where i = 1) ", "t a join u using (i, s)"),
    ("with c as materialized (select * from t semi join u using (i)) ", "c a"),
    ("", "t a join (select i, max(w) as w from u group by i) g on a.i = g.i"),
    ("", "t a, (select count(*) as rows_of_u from u) g"),
    ("", "t a, lateral (select max(u.w) as most from u where u.i = a.i) g"),
    ("", "t a, lateral (select sum(a.k) as most from u) g"),
    ("", "t a, unnest([1, a.i]) as g(each)"),
    ("", "t a positional join u g"),
    ("", "u join t a on a.i = u.i"),
    ("", "t a join T g on a.i = g.i"),
]
JOINS = ["join", "left join", "right join", "full join", "semi join", "anti join", "asof join", "asof left join"]
FILTERS = [
    "",
    "where a.i > 0",
    "where a.s = 'a' or a.b",
    "where a.d <> 'nan' and a.m between -5 and 5",
    "where a.i in (select i from u)",
    "where not exists (select 1 from u where u.i = a.i)",
    "where a.i >= (select min(i) from t)",
    "where a.dt is null or year(a.dt) = 2013",
]
PROJECTIONS = [
    "a.*",
    "a.i, a.d * 2 as twice, upper(a.s) as s",
    'A.I, a."mixed" as Mixed',
    "a.i as s, a.s as i",
    "distinct a.s",
    "distinct on (a.s) a.s, 1 as one",
    "a.i, unnest([a.k, 1]) as each",
    "a.i, (select max(u.w) from u where u.i = a.i) as most",
    "(select sum(a.i)) as outer_sum",
    "a.i, row_number() over (partition by a.i order by a.d, a.s, a.dt, a.m, a.b, a.f, a.k, a.Mixed) as n",
    "a.i, count(*) over () as n",
    "a.*, case when a.i > 1 then a.s else 'low' end as word, a.i::varchar || '!' as text",
    "a.i + 1 as next, next * 2 as after",
    "columns('^(i|s)$')",
]
PLAIN_TAILS = [
    "order by all",
    "order by all limit 2",
    "offset 1",
    "qualify row_number() over () < 3",
    "union all select i, s from t",
    "except select i, s from u",
    "using sample 100 percent (bernoulli)",
]
KEYS = [
    ("", ""),
    ("a.i, ", "group by a.i"),
    ("a.i, ", "group by 1"),
    ("a.i, ", "group by all"),
    ("a.S, upper(a.s) as big, ", 'group by "a"."s"'),
    ("a.d, a.f, ", "group by all"),
    ("a.i % 2 as i, ", "group by a.i"),
    ("a.i % 2 as parity, ", "group by parity"),
    ("a.i % 2 as parity, a.dt as day, ", "group by parity, DAY"),
    ("month(a.dt) as month, a.b, ", "group by ALL"),
    ("a.i as k, a.k as i, ", "group by a.i, a.k"),
    ("a.k as i, ", "group by i, k"),
    ("a.i % 2 as i, ", "group by i"),
    ("-a.i as i, ", "group by a.i"),
    ("'x' as s, ", "group by s"),
    ("sum(a.i) as i, ", "group by a.i"),
    ("sum(a.k) as i, ", "group by i"),
    ("a.dt as b, ", "group by b, dt"),
    ("coalesce(a.s, 'none') as s, ", "group by coalesce(a.S, 'none')"),
    ("'x' as kind, a.m + 1 as more, ", "group by all"),
    ("a.i, a.s, ", "group by rollup (a.i, a.s)"),
    ("", "group by a.i, a.b"),
    ("a.i::hugeint as h, a.dt::timestamp as ts, md5(a.s)::uuid as u, ", "group by all"),
]
ARGUMENTS = ["a.i", "a.d", "a.m", "a.f", "a.k", "a.i * 2 + 1", "a.m / 3", 'a."Mixed"']
AGGREGATES = [
    *(f"{name}({{0}})" for name in ("count", "sum", "min", "max", "avg", "variance", "stddev", "var_pop")),
    "stddev_pop({0})",
    "count(*)",
    "count()",
    "sum({0}) filter (where a.b)",
    "count(*) filter (where a.s = 'a')",
    "1 + sum({0}) / count(*)",
    "sum({0}) * 2",
    "min(a.s)",
    "max(a.dt)",
    "sum(a.b)",
    "avg(a.dt)",
    "max({{'x': {0}}})",
    "max([{0}])",
    "case when count(*) > 1 then max(a.b) end",
    "count_if(a.b)",
    "bool_or(a.b)",
    "bit_xor(a.k)",
    "product(a.k / 100)",
    "corr(a.k, {0})",
    "regr_slope({0}, a.k)",
    "arg_max({0}, {0})",
    "arg_min(a.s, (a.s, {0})) filter (where a.b)",
    "max_by({0}, (a.dt, {0}))",
    "approx_count_distinct({0})",
    "count(distinct {0})",
    "count(distinct a.s) filter (where a.i > 0)",
    "sum(distinct {0})",
    "avg(distinct {0})",
    "count(distinct {0}) - count(distinct a.dt) + count(*)",
    "median({0})",
    "quantile_cont({0}, [0.1, 0.5])",
    "quantile_disc(a.dt, 0.9) filter (where a.b)",
    "mad({0})",
    "list({0} order by {0})",
    "list(a.s order by a.s desc nulls last, {0}) filter (where a.k > 0)",
    "list(distinct {0} order by {0})",
    "string_agg(a.s, ',' order by a.s)",
    "string_agg(distinct a.s, '|' order by a.s desc)",
    "first({0} order by {0})",
    "any_value(a.s order by a.s desc)",
    "max({0}, 2)",
    "min(a.s, 3) filter (where a.b)",
    "histogram({0})",
    "histogram(a.dt) filter (where a.b)",
    "entropy({0})",
    "len(histogram(a.s))",
    "sum(distinct {0} + 1) / nullif(count(distinct {0}), 0)",
    "first({0})",
    "last(a.s)",
    "list({0})",
    "string_agg(a.s, ',') filter (where a.b)",
    "mode(a.i is null and a.i is not null)",
    "sum({0} order by {0})",
    "list(distinct {0})[1:0]",
]
HAVING = [
    "",
    "having count(*) > 1",
    "having n > 1",
    "having max(a.i) is not null",
    "having i > 0",
    "having first_one is not null",
]
TAILS = [
    "",
    "order by all",
    "order by all limit 2",
    "order by count(*), i limit 2",
    "order by i + 0 limit 1",
    "order by i limit 1",
    "order by n desc, 1",
]


@st.composite
def tables(draw):
    """A table of up to 12 rows, as a query."""
    row = st.tuples(*(st.sampled_from(values) for values in VALUES.values()))
    return table_of(draw(st.lists(row, max_size=12)))


def table_of(rows):
    """Return rows of texts as a query of the types in `VALUES`."""
    casts = ", ".join(f"c{i}::{kind} as {name}" for i, (name, kind) in enumerate(key.split(" ", 1) for key in VALUES))
    names = ", ".join(f"c{i}" for i in range(len(VALUES)))
    blank = (None,) * len(VALUES)
    values = ", ".join(f"({', '.join('null' if v is None else literal(v) for v in row)})" for row in rows or [blank])
    return f"select {casts} from (values {values}) as v({names}) {'' if rows else 'limit 0'}"


@st.composite
def sources(draw):
    """Return a WITH clause and a FROM clause; the driving table is called `a`."""
    if draw(st.booleans()):
        return draw(st.sampled_from(SOURCES))
    join = draw(st.sampled_from(JOINS))
    order = " and a.dt >= g.dt" if join.startswith("asof") else ""
    return "", f"t a {join} u g on a.s = g.s{order}"


@st.composite
def plain(draw):
    """A SELECT that may be row-wise."""
    with_, source = draw(sources())
    projection, where = draw(st.sampled_from(PROJECTIONS)), draw(st.sampled_from(FILTERS))
    statement = f"{with_}select {projection} from {source} {where}"
    return f"{statement} {draw(st.just('') | st.just('') | st.sampled_from(PLAIN_TAILS))}"


@st.composite
def grouped(draw):
    """A SELECT with aggregates."""
    with_, source = draw(sources())
    keys, group = draw(st.sampled_from(KEYS))
    chosen = draw(st.lists(st.sampled_from(AGGREGATES), min_size=1, max_size=3))
    calls = ", ".join(f"{call.format(draw(st.sampled_from(ARGUMENTS)))} as c{i}" for i, call in enumerate(chosen))
    where, having = draw(st.sampled_from(FILTERS)), draw(st.sampled_from(HAVING))
    tail = draw(st.sampled_from(TAILS))
    return f"{with_}select {keys}count(*) as n, {calls} from {source} {where} {group} {having} {tail}"


def check_statement(splits, statement, parts=(1, 3, 7)):
    """Check a statement over each number of splits and return the strategy; `None` if DuckDB cannot run it."""
    try:
        kinds, rows = splits.direct(statement)
    except duckdb.Error:
        return None
    for count in parts:
        chosen, types, got = splits.planned(statement, count)
        assert types == kinds, (statement, chosen)
        assert splits.same(got, rows), (statement, chosen, count, got, rows)
        if chosen.strategy == "gather":
            break
    return chosen.strategy


ROWS = [
    ["1", "0.1", "a", "2013-01-01", "0.01", "true", "0.5", "1", "1"],
    ["1", "0.1", "a", "2013-01-01", "0.01", "true", "0.5", "1", "1"],
    ["2", "nan", "A", "2013-02-28", "-3.10", "false", "-1.25", "-128", "2"],
    ["-3", "1.5", "a", None, None, None, None, None, None],
    [None, None, None, "1969-12-31", "9999999.99", "true", "nan", "127", "1"],
    ["0", "1e6", "b'c", "2013-02-28", "0.01", "false", "0.5", "1", "2"],
    ["2", "-2.25", "", "2013-01-01", "0.01", None, "0.5", "127", None],
]
PLAIN = [
    *(f"{w}select {p} from {s}" for w, s in SOURCES for p in ("a.*", "a.i, a.s || '!' as text", "distinct a.s")),
    *(f"select a.* from t a {j} u g on a.s = g.s{' and a.dt >= g.dt' if 'asof' in j else ''}" for j in JOINS),
    *(f"select {p} from t a {f}" for p in PROJECTIONS for f in FILTERS[:3]),
    *(f"select a.i, a.s from t a {f} {t}" for f in FILTERS for t in ("", *PLAIN_TAILS)),
]
GROUPED = [
    *(f"{w}select a.s, count(*) as n, sum(a.k) as k from {s} group by a.s" for w, s in SOURCES),
    *(
        f"select count(g.w) as n from t a {j} u g on a.s = g.s{' and a.dt >= g.dt' if 'asof' in j else ''}"
        for j in JOINS
    ),
    *(f"select {k}count(*) as n, sum(a.k) as c from t a {g} {h} {t}" for k, g in KEYS for h in HAVING for t in TAILS),
    *(f"select a.s, {c.format(x)} as c from t a group by a.s" for c in AGGREGATES for x in ARGUMENTS),
    *(f"select {c.format('a.i')} as c from t a {f}" for c in AGGREGATES for f in FILTERS),
]


@pytest.mark.parametrize(
    ("statements", "strategies"),
    [(PLAIN, {"blockwise", "broadcast", "partial", "gather"}), (GROUPED, {"partial", "gather"})],
    ids=["plain", "grouped"],
)
def test_every_clause_over_splits_equals_the_direct_query(splits, statements, strategies):
    splits.give(t=table_of(ROWS), u=SMALL)
    results = [check_statement(splits, statement, parts=(3,)) for statement in some(statements, 60)]
    assert len(results) - results.count(None) > len(results) / 2  # most of them are valid SQL
    assert set(results) - {None} <= strategies
    assert not PROOFS or set(results) - {None} == strategies


@settings(max_examples=examples(33, 300))
@given(table=tables(), statement=plain())
def test_a_plain_select_over_splits_equals_the_direct_query(splits, table, statement):
    splits.give(t=table, u=SMALL)
    strategy = check_statement(splits, statement)  # asserts that both results are equal
    assume(strategy is not None)
    event(strategy)
    assert strategy in {"blockwise", "broadcast", "partial", "gather"}  # DISTINCT is grouped


@settings(max_examples=examples(27, 250))
@given(table=tables(), statement=grouped())
def test_a_grouped_select_over_splits_equals_the_direct_query(splits, table, statement):
    splits.give(t=table, u=SMALL)
    strategy = check_statement(splits, statement)  # asserts that both results are equal
    assume(strategy is not None)
    event(strategy)
    assert strategy in {"partial", "gather"}
