"""States of aggregates: every type that merges, through Arrow, gives the direct query's value and type."""

from __future__ import annotations

import duckdb
import pytest

from pipeline.kernel.aggregates import MERGEABLE, take_apart
from pipeline.kernel.plan import plan
from pipeline.kernel.sql import parse

VALUES = {
    "tinyint": ["-1", "2", "100"],
    "smallint": ["-1", "2", "30000"],
    "integer": ["-1", "2", "2000000000"],
    "bigint": ["-1", "9007199254740993", "2"],
    "hugeint": ["-1", "2", "170141183460469231731687303715884105"],
    "utinyint": ["0", "2", "255"],
    "usmallint": ["0", "2", "65535"],
    "uinteger": ["0", "2", "4294967295"],
    "ubigint": ["0", "2", "9223372036854775807"],
    "float": ["-1.5", "2.25", "1000000.0"],
    "double": ["-1.5", "2.25", "0.1"],
    "decimal(4,1)": ["-1.5", "2.2", "99.9"],
    "decimal(18,3)": ["-1.5", "2.25", "0.001"],
    "decimal(38,10)": ["-1.5", "2.25", "0.0000000001"],
    "boolean": ["true", "false", "true"],
    "varchar": ["'a'", "'a text that is longer than twelve letters'", "''"],
    "blob": ["'a'", "'bc'", "''"],
    "date": ["'2013-01-01'", "'1969-12-31'", "'2013-02-28'"],
    "timestamp": ["'2013-01-01 10:00:00.000001'", "'1969-12-31'", "'2013-02-28'"],
    "timestamptz": ["'2013-01-01 10:00:00+02'", "'1969-12-31'", "'2013-02-28'"],
    "timestamp_ns": ["'2013-01-01 10:00:00.000000001'", "'1969-12-31'", "'2013-02-28'"],
    "time": ["'10:00'", "'23:59:59'", "'00:00'"],
    "interval": ["'1 day'", "'2 months'", "'-3 hours'"],
    "uuid": ["'00000000-0000-0000-0000-000000000001'", "'ffffffff-0000-0000-0000-000000000001'"],
    "enum('b', 'a')": ["'a'", "'b'", "'a'"],
    "integer[]": ["[1, 2]", "[]", "[3]"],
    "struct(a integer, b varchar)": ["{'a': 1, 'b': 'x'}", "{'a': 2, 'b': null}"],
    "json": ["'1'", "'{}'"],
}


@pytest.mark.parametrize("kind", VALUES)
def test_every_aggregate_of_a_type_over_splits(splits, kind):
    values = " union all ".join(f"select {v} as v" for v in VALUES[kind])
    splits.give(t=f"select v::{kind} as x, row_number() over () % 2 as k from ({values} union all select null)")
    for function in sorted(MERGEABLE):
        statement = f"select k, {function}(x) as a, {function}(x) filter (where k = 1) as b from t group by k"
        try:
            kinds, rows = splits.direct(statement)
        except (duckdb.BinderException, duckdb.OutOfRangeException):
            continue  # the function does not take the type, or the sum its size
        for parts in (1, 3):
            chosen, found, got = splits.planned(statement, parts)
            assert chosen.strategy == "partial"
            assert found == kinds, statement
            assert splits.same(got, rows), statement


@pytest.mark.parametrize("kind", [kind for kind in VALUES if kind != "json"])
def test_keys_of_every_type_over_splits(splits, kind):
    values = " union all ".join(f"select {v} as v" for v in VALUES[kind])
    splits.give(t=f"select v::{kind} as x from ({values} union all {values} union all select null)")
    statement = "select x, count(*) as n from t group by all"
    kinds, rows = splits.direct(statement)
    chosen, found, got = splits.planned(statement, 3)
    assert (chosen.strategy, found) == ("partial", kinds)
    assert splits.same(got, rows)


def test_without_rows_there_is_one_answer_or_no_group(splits):
    splits.give(t="select 1 as x where false")
    assert splits.planned("select count(*) as n, sum(x) as s from t", 3)[2] == [(0, None)]
    assert splits.planned("select x, count(*) as n from t group by x", 3)[2] == []
    assert splits.planned("select count(*) as n from t having count(*) > 0", 3)[2] == []


def test_one_call_is_one_state():
    statement = 'select X as key, sum(y) as s, sum(T.Y) / count(*) as m from t group by x having SUM("y") > 3'
    assert plan(parse(statement)).strategy == "partial"
    apart = take_apart(parse(statement))
    assert [call.function for call in apart.calls] == ["sum", "count"]
    assert apart.partial() == (
        'SELECT x as _k0, SUM("y") export_state as _a0, COUNT(*) export_state as _a1 FROM t group by 1'
    )
    assert apart.finish == (
        'SELECT _merged._k0 AS "key", _merged._a0 AS "s", _merged._a0 / _merged._a1 AS "m" '
        "FROM _merged WHERE _merged._a0 > 3"
    )


def test_the_statement_is_left_as_it_was():
    tree = parse("select x, count(*) as n from t group by x having n > 1 order by n limit 3")
    before = tree.sql("duckdb")
    take_apart(tree)
    assert tree.sql("duckdb") == before
