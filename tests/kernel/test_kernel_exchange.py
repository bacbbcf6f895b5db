"""For any exchange, the rows computed in 1, 3 and 7 buckets equal those of the direct query."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from pipeline.core.refusal import Refusal
from pipeline.core.schema import Schema
from pipeline.kernel.planner.exchange import BUCKETS, exchange
from pipeline.kernel.sql import parse
from pipeline.kernel.sql_text import literal
from tests.rigs.proofs import PROOFS, examples, some

COLUMNS = {
    "t": {"k": "bigint", "j": "integer", "s": "varchar", "x": "double", "d": "date"},
    "u": {"k": "integer", "j": "integer", "s": "varchar", "y": "bigint"},
    "v": {"k": "bigint", "z": "integer", "s": "varchar"},
    "w": {"k": "bigint", "w": "integer", "s": "varchar"},
}
VALUES = {
    "k": ["1", "1", "1", "1", None, "2", "3", "4"],  # one key has most of the rows
    "j": [None, "1", "2", "3"],
    "s": [None, "", "a", "A", "b"],
    "x": [None, "1.5", "-2", "0"],
    "d": [None, "2013-01-01", "2013-02-28"],
    "y": [None, "1", "2", "30"],
    "z": [None, "1", "2"],
    "w": [None, "1", "2"],
}
LARGE = frozenset({"t", "u", "v"})

# Always as `a`; each has the columns k, j and s.
LEFT = [
    ("", "t a"),
    ("", "t a"),
    ("", "u a"),
    ("", "w x join t a on x.k = a.k"),
    ("", "w x, t a"),
    ("", "w x left join t a on x.k = a.k"),
    ("", "(select * from t where j > 1) a"),
    ("", "(select distinct k, j, s from t) a"),
    ("", "(select k, max(j) as j, min(s) as s from t group by k) a"),
    ("", "(select j, max(k) as k, min(s) as s from t group by j) a"),
    ("", "(select k, j, s from t union select k, j, s from u) a"),
    ("", "(select k, j, s from t union all select k, y, s from u) a"),
    ("", "(select k, j, s from t union all select k, w, s from w) a"),
    ("", "(select k, j, s from t intersect select k, w, s from w) a"),
    ("", "(select *, row_number() over (partition by k order by j, s, x, d) as n from t) a"),
    ("", "(select t.k, u.j, t.s from t left join u on t.k = u.k) a"),
    ("", "(select u.k, u.j, u.s from t left join u on t.k = u.k) a"),
    ("", "(select k, j, s from t order by all limit 3) a"),
    ("", "(select k + 1 as k, j, s from t) a(k)"),
    ("", "(select * from t where exists (select 1 from u where u.k = t.k)) a"),
    ("with c as (select k, j, upper(s) as s from t) ", "c a"),
    ("with c(k, s, j) as (select k, s, j from t), e as (select * from c where k > 1) ", "E a"),
    ("with c as (select * from t) ", "c a join c on a.k = c.k"),
    ("with t as (select * from u where k = 1) ", "t a"),
    ("", "t a full join v x on a.k = x.k"),
    ("", "t as a, unnest([1, a.j]) as g(each)"),
]
RIGHT = [
    "u b",
    "u b",
    "t b",
    "w b",
    "v b",
    "(select k, s, count(*) as j from u group by k, s) b",
    "(select k, j, s from u semi join v using (k)) b",
    "(select distinct on (k) k, j, s from u order by k, j, s) b",
    "(select w as k, k as j, s from w) b",
]
KINDS = ["join", "left join", "right join", "full join", "semi join", "anti join", "asof join", "asof left join"]
CONDITIONS = [
    "on a.k = b.k",
    "on a.k = b.k",
    "on b.K = A.k and a.s = b.s",
    "on a.k = b.k and a.s > b.s",
    "on a.k = b.k and a.j = 1",
    "on a.k is not distinct from b.k",
    "on a.s = b.s",
    "on lower(a.s) = lower(b.s)",
    "on a.k = b.k or a.s = b.s",
    "on a.k > b.k",
    "on a.k + 1 = b.k",
    "on (a.k, a.s) = (b.k, b.s)",
    "on a.k = b.k and exists (select 1 from v e where e.k = a.k)",
    "on a.k = b.k and a.j in (select w from w)",
    "using (k)",
    "using (k, s)",
]
THIRD = [
    "",
    "",
    "",
    "join v f on a.k = f.k",
    "left join v f on b.k = f.k",
    "left join v f on coalesce(a.k, b.k) = f.k",
    "full join v f using (k)",
    "right join v f on f.k = b.k",
    "full join v f on f.k = a.k",
    "semi join v f on f.k = a.k and f.z > a.j",
    "cross join (select count(*) as many from w) f",
    ", v f",
    ", w f",
]
FILTERS = [
    "",
    "",
    "where a.k = 1",
    "where b.k is null",
    "where a.k = f.k",
    "where a.k = b.k",
    "where a.k = b.k and b.k = f.k",
    "where a.s = 'a' or a.k > 1",
    "where a.k in (select k from v)",
    "where (a.k, a.s) in (select k, s from v)",
    "where a.s = 'a' or a.k in (select k from v where z > 1)",
    "where a.k not in (select k from v)",
    "where a.k not in (select k from w)",
    "where not (a.k in (select k from v))",
    "where (a.k in (select k from v)) is null",
    "where exists (select 1 from v where v.k = a.k and v.z <> a.j)",
    "where not exists (select 1 from v where v.k = a.k)",
    "where not exists (select 1 from v where v.k = a.k and exists (select 1 from u where u.k = v.k and u.s = a.s))",
    "where not exists (select 1 from v left join u on v.k = u.k where u.k = a.k)",
    "where exists (select 1 from v where v.k > a.k)",
    "where exists (select 1 from v)",
    "where a.j >= (select avg(z) from v where v.k = a.k)",
    "where a.j >= (select min(z) from v)",
    "where a.j >= (select min(w) from w)",
    "where a.j not in (select z from v where v.k = a.k)",
    "where a.j in (select count(*) from v group by k)",
    "where a.k in (select k from v group by k having count(*) > 1)",
    "where a.k in (select max(k) from v)",
    "where a.k in (select k from v order by k limit 1)",
]
LISTS = [
    ("a.k, a.s", ""),
    ("a.k as one, a.j as two, a.s as three", ""),
    ("a.k, b.k as bk, b.s as bs", ""),
    ("a.*", ""),
    ("k as merged", ""),
    ("distinct a.k, a.s", ""),
    ("distinct a.s, a.j", ""),
    ("distinct b.k", ""),
    ("a.k, (select max(z) from v where v.k = a.k) as most", ""),
    ("a.j, (select max(z) from v) as most", ""),
    ("a.k, (select count(*) from v where v.k = a.k and v.z = a.j) as n", ""),
    ("a.k, a.k in (select k from v) as has", ""),
    ("a.k, sum(a.j) over (partition by a.k) as total", ""),
    ("a.s, sum(a.j) over (partition by a.k, a.s) as total, count(*) over w as n", "window w as (partition by a.k)"),
    ("a.s, sum(a.j) over (partition by a.s) as total, count(*) over (partition by a.k) as n", ""),
    ("a.s, sum(a.j) filter (a.j > 1) over (partition by a.k) as total", ""),
    ("a.s, arg_max(a.s, a.j) over (partition by a.k order by a.j) as most", ""),
    ("a.s, count(*) over () as n", ""),
    ("a.k, a.s", "qualify count(*) over (partition by a.k) > 1"),
    ("a.k, a.s", "qualify dense_rank() over (order by a.k) < 3"),
    ("a.k, count(*) as n, count(distinct a.s) as ss, list(a.j order by a.j) as js", "group by a.k"),
    ("a.k, a.s as word, median(a.j) as m", "group by all having count(*) > 1"),
    ("b.k as bk, count(*) as n, count(distinct a.j) as js", "group by b.k"),
    ("coalesce(a.k, b.k) as ck, count(distinct a.j) as js", "group by 1"),
    ("a.s, count(distinct a.k) as ks", "group by a.s"),
    ("upper(a.s) as word, string_agg(a.s, '' order by a.s) as all_s", "group by word"),
    ("a.s, count(*) as n, max(a.j) as j", "group by a.s"),
    ("count(*) as n, sum(a.j) as total", ""),
    ("count(distinct a.k) as n", ""),
    ("a.k, a.s, count(*) as n", "group by rollup (a.k, a.s)"),
    ("a.k, a.s, count(*) as n", "group by a.k, cube (a.s, a.j)"),
    ("a.k, count(*) as n, sum(count(*)) over (partition by a.k) as total", "group by a.k, a.s"),
    ("-a.k as k, count(distinct a.s) as n", "group by a.k"),
    ("a.s as k, count(distinct a.j) as n", "group by k"),
    ("a.k, max(a.j) as top", "group by a.k having max(a.j) > (select min(z) from v where v.k = a.k)"),
]
TAILS = [
    *[""] * 6,
    "order by all",
    "order by all limit 2",
    "order by all desc limit 3 offset 1",
    "order by 1 nulls first, 2 limit 0",
    "order by a.k desc, 1, 2 limit 2",
    "limit 2",
    "union select k, s from v",
    "union all select z, s from v",
    "except select k, s from u",
    "except all select k, s from w",
    "intersect select k, s from u order by all limit 2",
]


def rows_as_query(table, rows):
    """Return rows of texts as a query of a table's types."""
    columns = COLUMNS[table]
    casts = ", ".join(f"c{i}::{kind} as {name}" for i, (name, kind) in enumerate(columns.items()))
    names = ", ".join(f"c{i}" for i in range(len(columns)))
    blank = (None,) * len(columns)
    values = ", ".join(f"({', '.join('null' if v is None else literal(v) for v in row)})" for row in rows or [blank])
    return f"select {casts} from (values {values}) as v({names}) {'' if rows else 'limit 0'}"


@st.composite
def tables(draw):
    """The tables of COLUMNS, each of up to 12 rows, as queries."""
    return {
        name: rows_as_query(
            name, draw(st.lists(st.tuples(*(st.sampled_from(VALUES[c]) for c in columns)), max_size=12))
        )
        for name, columns in COLUMNS.items()
    }


@st.composite
def statements(draw):
    """A statement of one to four tables."""
    with_, left = draw(st.sampled_from(LEFT))
    source = left
    if draw(st.integers(0, 4)):
        right, kind, condition = (
            draw(st.sampled_from(RIGHT)),
            draw(st.sampled_from(KINDS)),
            draw(st.sampled_from(CONDITIONS)),
        )
        if kind.startswith("asof"):
            condition = draw(st.sampled_from(["on a.k = b.k and a.j >= b.j", "on a.j >= b.j"]))
        source += draw(
            st.sampled_from([f" {kind} {right} {condition}"] * 4 + [f", {right}", f" natural {kind} {right}"])
        )
        source += f" {draw(st.sampled_from(THIRD))}"
    where = draw(st.sampled_from(FILTERS))
    columns, after = draw(st.sampled_from(LISTS))
    return f"{with_}select {columns} from {source} {where} {after} {draw(st.sampled_from(TAILS))}"


def check_statement(splits, statement, buckets=(1, 3, 7), large=LARGE):
    """Check a statement with each number of buckets, and return its exchange or the refusal.

    `None` for a statement that DuckDB cannot run.
    """
    try:
        kinds, rows = splits.direct(statement)
    except duckdb.Error:
        return None
    chosen = None
    for count in buckets:
        chosen, types, got = splits.exchanged(statement, count, large)
        if isinstance(chosen, Refusal):
            return chosen
        assert types == kinds, (statement, chosen)
        assert splits.same(got, rows), (statement, chosen, count, got, rows)
        if "order by all" in statement and chosen.finish is not None:
            assert list(map(repr, got)) == list(map(repr, rows)), (statement, chosen, count, got, rows)
    return chosen


ROWS = {
    "t": [
        *[("1", j, s, x, d) for j, s, x, d in [("1", "a", "1.5", None), ("2", "A", "0", "2013-01-01"), (None, "b", None, None)]],
        *[("1", "3", "a", "-2", "2013-02-28"), ("1", "3", "a", "-2", "2013-02-28"), (None, "1", "a", "0", None)],
        *[(None, "2", None, None, None), ("2", "1", "a", "1.5", "2013-01-01"), ("3", "1", "", "1.5", None)],
        *[("4", "3", None, "-2", "2013-01-01"), ("5", None, "b", "0", None), ("6", "2", "A", "1.5", None)],
    ],
    "u": [
        *[("1", "1", "a", "1"), ("1", "2", "A", "30"), ("1", None, None, "2"), (None, "1", "a", "1"), (None, None, None, None)],
        *[("2", "3", "a", "2"), ("3", "1", "b", None), ("7", "2", "", "1"), ("4", "1", "A", "2"), ("4", "3", None, "1")],
    ],
    "v": [("1", "1", "a"), ("1", "2", "b"), (None, "1", "a"), ("2", "2", "a"), ("4", None, "A"), ("5", "1", None), ("8", "2", "")],
    "w": [("1", "1", "a"), ("2", "2", "A"), (None, None, None), ("9", "1", "a"), ("4", "3", "b")],
}  # fmt: skip
ON = "on a.k = b.k"
ALIKE = [
    *(f"{w}select a.k, a.s, b.k as bk from {s} {kind} u b {ON}" for w, s in LEFT for kind in KINDS[:4]),
    *(f"select a.k, a.s from t a {kind} {right} {on}" for kind in KINDS[:6] for right in RIGHT for on in CONDITIONS[1::3]),
    *(f"select a.k, a.s, b.k as bk, b.s as bs from t a {kind} u b {on} {f}" for kind in KINDS[:4] for on in CONDITIONS[::2] for f in THIRD[2::2]),
    *(f"select a.k, b.k as bk from t a {kind} u b {ON} {f}" for kind in KINDS for f in THIRD[2:]),
    *(f"select a.k, b.k as bk from t a {kind} u b {ON}, v f {w}" for kind in KINDS[:2] for w in FILTERS[2:7]),
    *(f"select {c} from t a {kind} u b {ON} {after}" for c, after in LISTS for kind in KINDS[:4]),
    *(f"select a.k, a.j from t a {where} {tail}" for where in FILTERS for tail in sorted(set(TAILS))[::3]),
    *(f"select {c} from t a {after} {tail}" for c, after in LISTS for tail in sorted(set(TAILS))[::2]),
]  # fmt: skip
SCHEMAS = {name: Schema.of(columns) for name, columns in COLUMNS.items()}
COVERED = """
    select * from t join u using (k)
    select t.k from t join u on t.k = u.k and t.s = u.s and t.x > u.y
    select t.k from t left join u on t.k = u.k
    select t.k from t right join u on t.k = u.k
    select t.k from t full join u on t.k = u.k
    select k, count(*) as n, list(x) as xs from t full join u using (k) group by k
    select coalesce(t.k, u.k) as k, median(x) as m from t full join u on t.k = u.k group by 1
    select t.k from t, u where t.k = u.k and t.j > 1
    select t.k from t, u where (t.k = u.k and t.j > 1) or (u.k = t.k and t.k = u.k and u.j > 1)
    select t.k from t natural join u
    select t.k from t join u on t.k = u.k join v on u.k = v.k join w on w.w = t.j
    select t.k from t left join u on t.k = u.k left join v on u.k = v.k
    select t.k from t, u, v where t.k = v.k and v.k = u.k
    select * from t semi join u using (k)
    select * from t anti join u on t.k = u.k
    select * from w left join t on w.k = t.k
    select t.k from t asof join u on t.k = u.k and t.j >= u.j
    select * from t where exists (select 1 from u where u.k = t.k and u.y > t.x)
    select * from t where not exists (select 1 from u where u.k = t.k)
    select * from t where k in (select k from u)
    select * from t where j = 1 or k in (select k from u where y > 1)
    select * from t where j not in (select y from u where u.k = t.k)
    select * from t where k not in (select k from w) qualify count(*) over (partition by k) = 1
    select k, (select max(y) from u where u.k = t.k) as most from t
    select k, count(distinct x) as n, list(s) as s from t group by k having count(*) > 1 order by 2 desc, k limit 3
    select k, s, count(distinct x) as n from t group by all
    select upper(s) as big, count(distinct x) as n from t group by big
    select distinct k, s from t
    select distinct on (k) k, x from t order by k, x
    select k from t union select k from u
    select k, s from t union all select k, s from u order by all limit 3 offset 2
    select k, s from t except select k, s from u
    select k, s from t intersect all select k, s from u
    select row_number() over (partition by k order by x) as n, sum(x) over w as m from t window w as (partition by k, s)
    select * from t qualify row_number() over (partition by k order by x) = 1
    select a.k from t a join T b on a.k = b.k and a.x < b.x
    with c as (select k, sum(x) as total from t group by k) select * from c join u using (k) order by total, y limit 4
    with c as (select k, s from t) select * from c where s > (select min(s) from c as d where d.k = c.k)
    select t.k from t join u on t.k = u.k where t.j > (select avg(w) from w)
    select t.j, count(*) as n, sum(u.y) as y from t join u on t.k = u.k group by t.j order by n desc
    select sum(x) as x from t where exists (select 1 from u where u.k = t.k)
    select t.k from t join u on upper(t.s) = upper(u.s)
    select t.k from t join u on t.k is not distinct from u.k
    select k, s from t union all select k, s from w
    select k, s from w except select k, s from t
    select k, s from t union select s, s from u
"""
REFUSED = """
    select t.k from t join u on t.k > u.k
    select t.k from t join u on t.x = u.y
    select t.k from t join u on t.s = u.k
    select t.k from t join u on t.k = u.k or t.s = u.s
    select t.k from t join u on t.k = u.k join v on u.s = v.s
    select t.k from t left join u on t.k = u.k join v on u.k is not distinct from v.k
    select u.k, list(t.x) as xs from t left join u on t.k = u.k group by u.k
    select distinct u.k from t left join u on t.k = u.k
    select v.k from v join (select u.k from t left join u on t.k = u.k) b on v.k is not distinct from b.k
    select t.k from t cross join u where u.k is not distinct from 1
    select * from t where k not in (select k from u)
    select * from t where not (k in (select k from u))
    select k in (select k from u) as has from t
    select * from t where exists (select 1 from u)
    select * from t where x > (select avg(x) from t)
    select * from t where k in (select max(k) from u)
    select * from t where k in (select k from u order by k limit 3)
    select count(distinct k) as n from t
    select k, count(distinct s) as n from t group by rollup (k)
    select k, s from t order by x limit 3
    select k, s from t limit 3
    select k, sum(x) over (partition by k) as a, sum(x) over (partition by s) as b from t
    select k, random() as r from t qualify count(*) over (partition by k) = 1
    select k, count(distinct x) as n from t where d < current_date group by k
    select k, count(distinct x) as n from t tablesample 10 percent group by k
    select t.k from t join u on t.s = u.s collate nocase
    select t.k from t positional join u
    select w.k, t.s from w asof join t on w.w >= t.j semi join u on u.k = t.k
    with recursive c as (select k from t union select k + 1 from c where k < 3) select k from c
    select k, list(x) as xs from (select * from t limit 3) group by k
    select x, count(distinct k) as n from t group by x
    select k, s, count(distinct j) as n from t group by grouping sets ((k), (s))
    select j, list(n) as ns from (select k, j, count(*) as n from t where k = j group by k, rollup (j)) group by j
    select t.k from t semi join u using (k) cross join (select w.k from w semi join u using (k)) b
    with c as (select k, s from t union all select j, s from u), d as (select t.k from t semi join u using (k)) select k, list(s) as ss from c semi join d using (k) group by k
    select t.j, list(u.y) as ys from t join v on t.k = v.k left join u on t.k = u.k and t.k = t.j group by t.j
"""


def exchange_of(statement):
    return exchange(parse(statement), SCHEMAS, {"t": 4, "u": 3, "v": 2, "w": 1}, 2)


@pytest.mark.parametrize("statement", [line.strip() for line in COVERED.strip().splitlines()])
def test_statements_that_can_run_in_buckets(statement):
    assert not isinstance(exchange_of(statement), Refusal), exchange_of(statement)


@pytest.mark.parametrize("statement", [line.strip() for line in REFUSED.strip().splitlines()])
def test_statements_that_cannot_run_in_buckets(statement):
    assert isinstance(exchange_of(statement), Refusal), exchange_of(statement)


def test_keys_have_common_types_and_positions_and_are_extended():
    chosen = exchange_of("select t.k from t join u on t.s = u.s and u.k = t.k")
    assert {name: sorted(keys) for name, keys in chosen.keys.items()} == {
        "t": ['"k"::BIGINT', '"s"'],
        "u": ['"k"::BIGINT', '"s"'],
    }
    assert chosen.keys["t"] == chosen.keys["u"]
    assert exchange_of("select upper(s) as s2, list(x) as xs from t group by s2").keys == {"t": ('try(UPPER("s"))',)}


def test_small_inputs_are_replicated_if_that_is_correct():
    assert set(
        exchange_of("select t.k from t join w on t.k = w.k qualify count(*) over (partition by t.k) = 1").keys
    ) == {"t"}
    assert set(exchange_of("select t.k from w left join t on t.k = w.k").keys) == {"t", "w"}
    assert set(exchange_of("select t.k from t full join w on t.k = w.k").keys) == {"t", "w"}
    assert set(exchange_of("select * from w semi join t using (k)").keys) == {"t", "w"}
    assert set(exchange_of("select * from w where k in (select k from t)").keys) == {"t", "w"}


@pytest.mark.parametrize(
    ("expected", "statement"),
    [
        (True, "select t.k from t left join u on t.k = u.k"),
        (True, "select * from t where not exists (select 1 from u where u.k = t.k) order by x limit 3"),
        (True, "select t.j, sum(u.y) as y from t join u on t.k = u.k group by t.j"),  # its groups can be merged
        (False, "select t.k from t right join u on t.k = u.k"),
        (False, "select t.k, list(u.y) as ys from t join u on t.k = u.k group by t.k"),
        (False, "select distinct t.k from t join u on t.k = u.k"),
        (False, "select a.k from t a join t b on a.k = b.k"),
        (False, "select k from t union all select k from u"),
        (False, "select t.k from t join u on t.k = u.k qualify count(*) over (partition by t.k) = 1"),
    ],
)
def test_a_hot_key_may_be_split_if_driving_rows_are_independent(expected, statement):
    chosen = exchange_of(statement)
    assert set(chosen.keys) >= {"t"}
    assert chosen.driving_may_split is expected


def test_order_and_limit_are_applied_again_to_the_union_of_buckets():
    chosen = exchange_of("select k, count(distinct x) as n from t group by k order by n desc, t.k + 1 limit 3 offset 2")
    assert chosen.statement.endswith("LIMIT 5")
    assert chosen.finish == f'SELECT * FROM {BUCKETS} ORDER BY 2 DESC, "k" + 1 LIMIT 3 OFFSET 2'
    assert exchange_of("select k, list(x) as xs from t group by k").finish is None


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("select t.k from t join u on t.k > u.k", "'t', 'u' have no common key"),
        ("select t.k from t join u on t.k = u.k join v on u.s = v.s", "'t', 'u', 'v' have no common key"),
        ("select * from t where k not in (select k from u)", "needs rows of other buckets"),
        ("select list(distinct j) as n from t join u using (k)", "it aggregates all rows at once"),
        ("select k, s from t order by x limit 3", "no key partitions 't'"),
        ("select distinct k from t order by x", "it orders by x, which is not one of its columns"),
        ("select k, now() as at from t", "may differ from bucket to bucket"),
        ("select k from nobody", "the columns of 'nobody' are not known"),
    ],
)
def test_refusal_has_a_reason(statement, why):
    assert why in str(exchange_of(statement))


@pytest.fixture(scope="module")
def tpch():
    """The text of each query of TPC-H, by its number."""
    text = (Path(__file__).parent / "tpch.sql").read_text()
    queries = re.findall(r"^-- (\d+)\n(.*?);$", text, re.MULTILINE | re.DOTALL)
    return {int(number): query for number, query in queries}


TPCH = {
    "lineitem": """
        select o as l_orderkey, (h % 9)::bigint as l_partkey, (h // 9 % 3)::bigint as l_suppkey, n::integer as l_linenumber,
               (h % 50)::decimal(15, 2) as l_quantity, (h % 997)::decimal(15, 2) as l_extendedprice,
               (h % 10 / 100)::decimal(15, 2) as l_discount, 0.1::decimal(15, 2) as l_tax,
               ['A', 'N', 'R'][(h % 3 + 1)::int] as l_returnflag, ['F', 'O'][(h % 2 + 1)::int] as l_linestatus,
               date '1994-01-01' + (h % 900)::int as l_shipdate, date '1994-01-01' + (h // 7 % 900)::int as l_commitdate,
               date '1994-01-01' + (h // 3 % 900)::int as l_receiptdate,
               ['MAIL', 'SHIP', 'AIR'][(h // 5 % 3 + 1)::int] as l_shipmode
        from (select o, n, hash(o, n) % 1000003 as h from range(40) a(o), range(6) b(n) where o <> 3 or n > 1)
    """,
    "orders": """
        select o as o_orderkey, (h % 11)::bigint as o_custkey, ['F', 'O'][(h % 2 + 1)::int] as o_orderstatus,
               (h % 100)::decimal(15, 2) as o_totalprice, date '1993-07-01' + (h % 900)::int as o_orderdate,
               ['1-URGENT', '2-HIGH', '3'][(h % 3 + 1)::int] as o_orderpriority, 0 as o_shippriority,
               ['some special packed requests', 'x'][(h % 2 + 1)::int] as o_comment
        from (select o, hash(o) % 1000003 as h from range(2, 45) a(o))
    """,
    "customer": """
        select c as c_custkey, 'c' || c as c_name, '' as c_address, (c % 4)::integer as c_nationkey,
               ['13-1', '31-2', '99'][(c % 3 + 1)::int] as c_phone, (c * 7 % 5)::decimal(15, 2) as c_acctbal,
               ['BUILDING', 'x'][(c % 2 + 1)::int] as c_mktsegment, '' as c_comment
        from range(14) a(c)
    """,
    "part": """
        select p as p_partkey, ['forest', 'green'][(p % 2 + 1)::int] || p as p_name, 'm' as p_mfgr,
               ['Brand#12', 'Brand#23', 'Brand#45'][(p % 3 + 1)::int] as p_brand,
               ['x BRASS', 'PROMO', 'ECONOMY ANODIZED STEEL'][(p % 3 + 1)::int] as p_type, 15::integer as p_size,
               'MED BOX' as p_container
        from range(8) a(p)
    """,
    "partsupp": """
        select p as ps_partkey, s as ps_suppkey, (p * s * 7 + 1)::bigint as ps_availqty,
               (p + s)::decimal(15, 2) as ps_supplycost
        from range(9) a(p), range(3) b(s)
    """,
    "supplier": """
        select s as s_suppkey, 's' || s as s_name, '' as s_address, (s % 4)::integer as s_nationkey, '' as s_phone,
               s::decimal(15, 2) as s_acctbal, '' as s_comment
        from range(3) a(s)
    """,
    "nation": """
        select n::integer as n_nationkey, ['GERMANY', 'SAUDI ARABIA', 'CANADA', 'BRAZIL'][n + 1] as n_name,
               (n % 3)::integer as n_regionkey
        from range(4) a(n)
    """,
    "region": "select r::integer as r_regionkey, ['EUROPE', 'ASIA', 'AMERICA'][r + 1] as r_name from range(3) a(r)",
}
LARGE_OF_TPCH = frozenset({"lineitem", "orders", "partsupp"})


@pytest.mark.parametrize(
    ("large", "covered"),
    [
        (LARGE_OF_TPCH | {"part", "customer"}, {1, 2, 4, 12, 13, 14, 16, 17, 19, 21}),
        (LARGE_OF_TPCH, {1, 2, 3, 4, 5, 7, 8, 10, 12, 13, 14, 16, 17, 18, 19, 20, 21}),
    ],
    ids=["parts and customers in buckets", "parts and customers replicated"],
)
def test_tpch_queries_in_buckets_equal_the_direct_query(splits, tpch, large, covered):
    splits.give(**TPCH)
    results = {number: check_statement(splits, query, buckets=(3,), large=large) for number, query in tpch.items()}
    assert len(results) == 22
    assert {number for number, chosen in results.items() if not isinstance(chosen, Refusal)} == covered


def test_every_clause_in_buckets_equals_the_direct_query(splits):
    splits.give(**{name: rows_as_query(name, rows) for name, rows in ROWS.items()})
    results = [check_statement(splits, statement, buckets=(3,)) for statement in some(dict.fromkeys(ALIKE), 80)]
    sql = [chosen for chosen in results if chosen is not None]
    covered = [chosen for chosen in sql if not isinstance(chosen, Refusal)]
    assert len(sql) > len(results) / 2  # most of them are valid SQL
    if PROOFS:
        assert len(covered) > 0.55 * len(sql), (len(covered), len(sql))  # the others mostly have no key in common
        assert any(chosen.merges for chosen in covered)
        assert any(chosen.driving_may_split for chosen in covered)


@settings(max_examples=examples(33, 300))
@given(given_tables=tables(), statement=statements(), large=st.sets(st.sampled_from("tuv")).map(frozenset))
def test_a_statement_in_buckets_equals_the_direct_query(splits, given_tables, statement, large):
    splits.give(**given_tables)
    chosen = check_statement(splits, statement, large=large)  # asserts that both results are equal
    assume(chosen is not None)
    event("refused" if isinstance(chosen, Refusal) else "covered")
    assert isinstance(chosen, Refusal) or chosen.keys
