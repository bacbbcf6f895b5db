"""States of aggregates: for every type, merging states via Arrow gives the value and type of the direct query."""

from __future__ import annotations

import duckdb
import pytest

from pipeline.kernel.aggregates.decomposition import decompose
from pipeline.kernel.aggregates.states import ExportedState
from pipeline.kernel.planner.strategy import choose_strategy
from pipeline.kernel.sql import parse
from tests.rigs.proofs import some

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


PLAIN = [
    *("count(x)", "sum(x)", "min(x)", "max(x)", "avg(x)", "mean(x)", "product(x)"),
    *("variance(x)", "var_samp(x)", "var_pop(x)", "stddev(x)", "stddev_samp(x)", "stddev_pop(x)", "sem(x)"),
    *("skewness(x)", "kurtosis(x)", "kurtosis_pop(x)", "fsum(x)", "favg(x)", "kahan_sum(x)", "sumkahan(x)"),
    *("bit_and(x)", "bit_or(x)", "bit_xor(x)", "bool_and(x)", "bool_or(x)", "count_if(x)"),
    *("corr(x, i)", "covar_samp(i, x)", "covar_pop(x, i)"),
    *(f"regr_{name}(x, i)" for name in ("avgx", "avgy", "count", "intercept", "r2", "slope", "sxx", "sxy", "syy")),
    *(f"arg_{end}{null}(x, i)" for end in ("min", "max") for null in ("", "_null", "_nulls_last")),
    *(f"arg_{end}{null}(i, (x, i))" for end in ("min", "max") for null in ("", "_null", "_nulls_last")),
    *("max_by(x, i)", "min_by(i, (x, i))", "arg_max(i, x)"),
    *("first(x)", "last(x)", "any_value(x)", "arbitrary(x)", "list(x)", "array_agg(x)", "string_agg(x, '|')"),
    "group_concat(x)",
    *("approx_count_distinct(x)", "approx_quantile(x, 0.5)", "approx_quantile(x, [0.1, 0.9])", "approx_top_k(x, 5)"),
]
"""Calls with a state exported by DuckDB; sketches are exact for so few rows."""
HELD = [
    *("count(distinct x)", "sum(distinct x)", "avg(distinct x)", "max(distinct x)", "stddev(distinct x)"),
    *("median(x)", "mad(x)", "quantile(x, 0.3)", "quantile_cont(x, 0.25)", "quantile_disc(x, [0.1, 0.9])"),
    *("median(distinct x)", "quantile_cont(x, [0.2, 0.7])"),
    *("list(x order by x)", "list(x order by i desc)", "list(distinct x order by x desc nulls last)"),
    *("string_agg(x, '|' order by i)", "string_agg(distinct x, ', ' order by x)", "list(i order by x, i)"),
    *("first(x order by i desc)", "last(x order by i)", "any_value(x order by i)", "arbitrary(i order by x, i)"),
    *("min(x, 2)", "max(x, 3)", "arg_max(x, i, 2)", "arg_min(i, (x, i), 2)"),
    *("histogram(x)", "entropy(x)"),
]
"""Calls that are repeated over values kept by each split."""


@pytest.mark.share(1)
@pytest.mark.parametrize("kind", VALUES)
def test_every_aggregate_of_a_type_over_splits(splits, kind):
    values = " union all ".join(f"select {v} as v" for v in [*VALUES[kind], *VALUES[kind][:1]])
    splits.give(
        t=f"select v::{kind} as x, row_number() over () % 2 as k, row_number() over () as i"
        f" from ({values} union all select null)"
    )
    calls = [call for call in [*PLAIN, *HELD] if _is_answered(splits, f"select {call} as a from t")]
    assert {"count(x)", "max(x)", "count(distinct x)", "histogram(x)"} <= set(calls)
    for group in (calls[at : at + 12] for at in range(0, len(calls), 12)):
        called = ", ".join(f"{call} as c{i}, {call} filter (where k = 1) as f{i}" for i, call in enumerate(group))
        statement = f"select k, {called} from t group by k order by k"
        kinds, rows = splits.direct(statement)
        chosen, strategy, got = splits.planned(statement, 3)
        assert chosen.strategy == "partial", chosen
        assert strategy == kinds, statement
        for is_, ought in zip(got, rows, strict=True):
            assert splits.same([is_], [ought]), (statement, is_, ought)


@pytest.mark.share(2)
@pytest.mark.parametrize("kind", VALUES)
def test_merged_states_of_a_type_give_the_values(splits, kind):
    """States that are kept are merged with those of new rows, and need not be grouped again."""
    values = " union all ".join(f"select {v} as v" for v in [*VALUES[kind], *VALUES[kind][:1]])
    splits.give(
        t=f"select v::{kind} as x, row_number() over () % 2 as k, row_number() over () as i"
        f" from ({values} union all select null)"
    )
    texts = {call: f"select {call} as a from t" for call in PLAIN}
    calls = [call for call, text in texts.items() if _is_answered(splits, text) and _is_kept(text)]
    assert {"count(x)", "max(x)", "any_value(x)"} <= set(calls)
    called = ", ".join(f"{call} as c{i}, {call} filter (where k = 1) as f{i}" for i, call in enumerate(calls))
    statement = f"select k, {called} from t group by k having count(*) > 0 order by k"
    kinds, rows = splits.direct(statement)
    got_kinds, got = splits.refreshed(statement, 3)
    assert got_kinds == kinds
    for is_, ought in zip(got, rows, strict=True):
        assert splits.same([is_], [ought]), (statement, is_, ought)


def _is_kept(statement):
    return all(isinstance(call, ExportedState) and not call.order for call in decompose(parse(statement)).calls)


def _is_answered(splits, statement):
    try:
        splits.direct(statement)
    except (duckdb.BinderException, duckdb.OutOfRangeException, duckdb.ConversionException):
        return False  # the function does not support the type, or the sum overflows
    return True


@pytest.mark.parametrize("kind", [kind for kind in VALUES if kind != "json"])
def test_keys_of_every_type_over_splits(splits, kind):
    values = " union all ".join(f"select {v} as v" for v in VALUES[kind])
    splits.give(t=f"select v::{kind} as x from ({values} union all {values} union all select null)")
    statement = "select x, count(*) as n from t group by all"
    kinds, rows = splits.direct(statement)
    chosen, strategy, got = splits.planned(statement, 3)
    assert (chosen.strategy, strategy) == ("partial", kinds)
    assert splits.same(got, rows)


def test_empty_input_gives_one_row_or_no_group(splits):
    splits.give(t="select 1 as x where false")
    assert splits.planned("select count(*) as n, sum(x) as s from t", 3)[2] == [(0, None)]
    assert splits.planned("select x, count(*) as n from t group by x", 3)[2] == []
    assert splits.planned("select count(*) as n from t having count(*) > 0", 3)[2] == []


@pytest.mark.share(1)
@pytest.mark.parametrize("rows", ["limit 0", "", "where k = 1"])
def test_all_kinds_of_states_in_one_statement(splits, rows):
    splits.give(t=f"select * from (select n, n % 3 as k, nullif(n % 5, 0) as x, -n as i from range(30) r(n)) {rows}")
    calls = [call for call in [*PLAIN, *HELD] if "bool_" not in call and "_if" not in call and "entropy" not in call]
    for group in (calls[at::6] for at in range(6)):
        called = ", ".join(f"{call} filter (where x > 2) as f{n}, {call} as c{n}" for n, call in enumerate(group))
        for statement in (f"select k, {called} from t group by k", f"select {called} from t"):
            kinds, expected = splits.direct(statement)
            for parts in some((1, 3, 7), 1):
                chosen, strategy, got = splits.planned(statement, parts)
                assert (chosen.strategy, strategy) == ("partial", kinds)
                assert splits.same(got, expected), (statement, parts)


def test_distinct_rows_are_groups(splits):
    splits.give(
        t="select n % 3 as x, if(n % 4 = 0, 'nan', '1')::double as y, nullif(n % 5, 0) as z from range(40) r(n)"
    )
    statement = (
        "select distinct x, y as value, z + 1 as more from t where x > 0 order by more nulls last, x, value limit 9"
    )
    kinds, rows = splits.direct(statement)
    chosen, strategy, got = splits.planned(statement, 3)
    assert (chosen.strategy, strategy, len(got)) == ("partial", kinds, 9)
    assert splits.same(got, rows)


def test_first_and_last_follow_the_input_order(splits):
    splits.give(t="select n, n % 2 as k, if(n in (0, 1, 18), null, n) as x from range(20) r(n)")
    statement = """
        select k, first(x) as f, last(x) as l, first(n) filter (where n > 12) as g, list(n) as ns,
               string_agg(n, ' ') filter (where x > 5) as texts from t group by k order by k
    """
    chosen, _, rows = splits.planned(statement, 7)
    assert chosen.strategy == "partial"
    assert rows[0] == (0, None, None, 14, list(range(0, 20, 2)), "6 8 10 12 14 16")
    assert rows[1] == (1, None, 19, 13, list(range(1, 20, 2)), "7 9 11 13 15 17 19")


def test_ties_are_broken_by_value(splits):
    splits.give(t="select n, n % 4 as x, n // 10 as y from range(40) r(n)")
    chosen, _, rows = splits.planned(
        "select arg_max(n, y) as a, mode(x) as m, any_value(n) as v, mode(y) as z from t", 7
    )
    assert chosen.strategy == "partial"
    assert rows == [(30, 0, 0, 0)]  # `any_value` of the first split, and the smallest of the most frequent values
    splits.give(t="select unnest([3, 1, 3, 2, 2, 3, null, null, null, null]) as x")
    assert splits.planned("select mode(x) as m from t", 7)[2] == [(3,)]
    for values in (range(50), range(49, -1, -1)):
        splits.give(t=f"select unnest({list(values)}) as x")
        assert splits.planned("select mode(x) as m from t", 3)[2] == [(0,)]


def test_states_keep_only_required_values(splits):
    splits.give(t="select n % 3 as x, n as y from range(60) r(n)")
    statement = "select count(distinct x) as n, max(y, 2) as m, first(x order by y) as f, histogram(x) as h from t"
    ((distinct, top, first, counts),) = splits.direct(decompose(parse(statement)).partial())[1]
    assert (sorted(distinct), top, len(first), len(counts)) == ([0, 1, 2], [59, 58], 1, 3)


def test_sketches_keep_their_error(splits):
    splits.give(
        t="select n % 40000 as x, (n * 7919 % 100000)::double as y, floor(sqrt(n % 100)) as s from range(100000) r(n)"
    )
    for parts in (1, 3, 7):
        statement = """
            select approx_count_distinct(x) as n, approx_quantile(y, 0.5) as half,
                   approx_quantile(y, [0.01, 0.99]) as ends, approx_top_k(s, 3) as most from t
        """
        chosen, _, [(distinct, half, ends, most)] = splits.planned(statement, parts)
        assert chosen.strategy == "partial"
        assert [(distinct,)] == splits.direct("select approx_count_distinct(x) as n from t")[
            1
        ]  # its states merge without loss
        assert abs(half - 50_000) < 1_000
        assert abs(ends[0] - 1_000) < 200
        assert abs(ends[1] - 99_000) < 200
        assert most == [9, 8, 7]


def test_equal_calls_share_one_state():
    statement = 'select X as key, sum(y) as s, sum(T.Y) / count(*) as m from t group by x having SUM("y") > 3'
    assert choose_strategy(parse(statement)).strategy == "partial"
    apart = decompose(parse(statement))
    assert apart.partial() == (
        'SELECT x as _k0, SUM("y") export_state as _a0, COUNT(*) export_state as _a1 FROM t group by 1'
    )
    assert apart.finish == (
        'SELECT _merged._k0 AS "key", _merged._a0 AS "s", _merged._a0 / _merged._a1 AS "m" '
        "FROM _merged WHERE _merged._a0 > 3"
    )


def test_decomposition_does_not_modify_the_statement():
    tree = parse("select x, count(*) as n from t group by x having n > 1 order by n limit 3")
    before = tree.sql("duckdb")
    decompose(tree)
    assert tree.sql("duckdb") == before
