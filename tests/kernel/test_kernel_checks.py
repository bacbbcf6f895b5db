"""The outcome of each row of a small table with expectations."""

from __future__ import annotations

import json

import duckdb
import pytest

from pipeline.core.definitions import Action, Expectation
from pipeline.core.errors import DefinitionError
from pipeline.kernel.checks import MarkedRows, key_expectations, mark, mark_duplicates, mark_known, rank
from pipeline.kernel.engine import connect

FLIGHTS = """
    select * from (values
        ('a', 1,    'EWR'),
        ('b', null, 'JFK'),
        ('c', -5,   'JFK'),
        ('d', 7,    null ),
        (null, 3,   'LGA')
    ) as v(id, delay, origin)
"""


@pytest.fixture
def con():
    with connect() as con:
        yield con


def expect(action, **conditions):
    return tuple(Expectation(name, condition, Action(action)) for name, condition in conditions.items())


def ids(con, query):
    return [row[0] for row in con.execute(query).fetchall()]


def rejected(con, marked):
    rows = con.execute(marked.rejected()).fetchall()
    return [(reasons, json.loads(row)) for reasons, _, _, row in rows]


def test_null_condition_is_a_violation(con):
    marked = mark(con, FLIGHTS, expect("quarantine", on_time="delay >= 0", somewhere="origin is not null"))
    assert marked.violations(con) == {"on_time": 2, "somewhere": 1}
    assert ids(con, marked.kept()) == ["a", None]
    assert [(reasons, row["id"]) for reasons, row in rejected(con, marked)] == [
        ("on_time", "b"),
        ("on_time", "c"),
        ("somewhere", "d"),
    ]
    assert marked.counts(con) == (5, 3, 0)


def test_a_row_that_is_quarantined_and_dropped_is_quarantined(con):
    marked = mark(con, FLIGHTS, expect("quarantine", late="delay > 0") + expect("drop", jfk="origin = 'JFK'"))
    assert marked.violations(con) == {"late": 2, "jfk": 3}
    assert ids(con, marked.kept()) == []
    assert [row["id"] for _, row in rejected(con, marked)] == ["b", "c"]
    assert marked.counts(con) == (5, 2, 3)


def test_all_reasons_are_given(con):
    marked = mark(con, FLIGHTS, expect("quarantine", late="delay > 0", east="origin = 'EWR'"))
    assert [reasons for reasons, _ in rejected(con, marked)] == ["late, east", "late, east", "east", "east"]


def test_warn_and_fail_keep_the_rows(con):
    marked = mark(con, FLIGHTS, expect("warn", late="delay > 0") + expect("fail", named="id is not null"))
    assert marked.violations(con) == {"late": 2, "named": 1}
    assert len(ids(con, marked.kept())) == 5
    assert marked.counts(con) == (5, 0, 0)


def test_without_expectations_all_rows_are_kept(con):
    marked = mark(con, FLIGHTS, ())
    assert marked.violations(con) == {}
    assert marked.counts(con) == (5, 0, 0)
    assert len(ids(con, marked.kept())) == 5


def test_without_rows_nothing_is_violated(con):
    marked = mark(con, f"{FLIGHTS} where false", key_expectations(("id",)) + expect("drop", late="delay > 0"))
    mark_duplicates(con, marked, ("id",))
    assert marked.violations(con) == {"key_is_not_null": 0, "key_is_unique": 0, "late": 0}
    assert marked.counts(con) == (0, 0, 0)
    assert rejected(con, marked) == []


DOUBLES = """
    select * from (values
        (1, 'x', 10),   -- the first
        (1, 'x', 20),   -- a duplicate
        (1, 'y', 30),   -- another key
        (2, 'x', -1),   -- quarantined for its value
        (2, 'x', 40),   -- so this one is the first
        (null, 'x', 50),
        (null, 'x', 60),
        (1, 'x', 70)    -- a duplicate
    ) as v(a, b, n)
"""


def validated(con, key, *more, existing=None):
    marked = mark(con, DOUBLES, (*more, *key_expectations(key)))
    mark_duplicates(con, marked, key)
    if existing is not None:
        mark_known(con, marked, key, existing)
    kept = [row[2] for row in con.execute(marked.kept()).fetchall()]
    return kept, {row["n"]: reasons for reasons, row in rejected(con, marked)}


def test_first_row_of_a_key_is_kept(con):
    kept, violations = validated(con, ("a", "b"))
    assert kept == [10, 30, -1]
    assert violations == {
        20: "key_is_unique",
        40: "key_is_unique",
        70: "key_is_unique",
        50: "key_is_not_null",
        60: "key_is_not_null",
    }


def test_quarantined_rows_do_not_count_for_key_uniqueness(con):
    kept, violations = validated(con, ("a", "b"), *expect("quarantine", positive="n > 0"))
    assert kept == [10, 30, 40]
    assert violations[-1] == "positive"


def test_dropped_rows_do_not_count_for_key_uniqueness_but_warned_rows_do(con):
    assert validated(con, ("a", "b"), *expect("drop", positive="n > 0"))[0] == [10, 30, 40]
    assert validated(con, ("a", "b"), *expect("warn", positive="n > 0"))[0] == [10, 30, -1]


def test_first_row_by_rank_is_kept(con):
    rows = "(1, 'b.csv', 1, 5), (1, 'a.csv', 2, 6), (1, 'a.csv', 9, 4), (2, 'a.csv', 3, 8), (2, 'a.csv', 3, 7)"
    query = f"select * from (values {rows}) as v(id, _source, _position, n)"
    marked = mark(con, query, key_expectations(("id",)), hidden=("_source", "_position"))
    mark_duplicates(con, marked, ("id",), rank(("id", "n", "_source", "_position")))
    assert con.execute(f"select * from ({marked.kept()}) order by id").fetchall() == [(1, 6), (2, 7)]


def test_existing_keys_are_rejected(con):
    kept, violations = validated(con, ("a", "b"), existing="select 1 as a, 'x' as b union all select null, 'x'")
    assert kept == [30, -1]
    assert violations[10] == "key_is_unique"
    assert violations[50] == "key_is_not_null"


def test_nan_is_one_key_and_lists_and_structs_are_compared_by_value(con):
    query = (
        "select * from (values ('nan'::double, [1, 2], {'a': 1}), ('nan', [1, 2], {'a': 1}), ('nan', [1, 3], {'a': 1}))"
        " as v(d, l, s)"
    )
    key = ("d", "l", "s")
    marked = mark(con, query, key_expectations(key))
    mark_duplicates(con, marked, key)
    assert marked.counts(con) == (3, 1, 0)


def test_many_rows_keep_their_order(con):
    query = "select range // 3 as id, range as n from range(300_000)"
    marked = mark(con, query, key_expectations(("id",)))
    mark_duplicates(con, marked, ("id",))
    assert con.execute(f"select count(*), bool_and(n = id * 3) from ({marked.kept()})").fetchone() == (100_000, True)


@pytest.mark.parametrize("name", ["it's", 'so "called"', "", "a, b", "select", "ü"])
def test_names_with_quotes(con, name):
    column = '"' + name.replace('"', '""') + '"' if name else "plain"
    marked = mark(con, f"select 1 as {column}, 2 as other", expect("quarantine", **{name: f"{column} > 1"}))
    assert marked.violations(con) == {name: 1}
    assert rejected(con, marked) == [(name, {name or "plain": 1, "other": 2})]


@pytest.mark.parametrize("column", ["q", "v", "x", "_made", "reasons", "row", "_headwater_made", "d", "first_row"])
def test_columns_named_like_internal_columns(con, column):
    query = f"select * from (values (1), (2), (1)) as v({column})"
    marked = mark(con, query, (*expect("drop", small=f"{column} < 2"), *key_expectations((column,))))
    mark_duplicates(con, marked, (column,))
    assert ids(con, marked.kept()) == [1]
    assert marked.counts(con) == (3, 1, 1)
    assert rejected(con, marked) == [("key_is_unique", {column: 1})]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("select 1 as _bits", "reserved column name '_bits'"),
        ("select 1 as RowId", "reserved column name 'RowId'"),
        ("select 1 as x, 2 as x", "duplicate column name 'x'"),
        ("select 1 as x, 2 as X", "duplicate column name 'X'"),
    ],
)
def test_columns_that_cannot_be_stored(con, query, words):
    with pytest.raises(DefinitionError, match=words):
        mark(con, query, ())


def test_number_of_expectations_is_limited_by_the_bits(con):
    conditions = {f"not_{i}": f"n <> {i}" for i in range(62)}
    marked = mark(con, "select range as n from range(62)", expect("quarantine", **conditions))
    assert set(marked.violations(con).values()) == {1}
    assert marked.counts(con) == (62, 62, 0)
    with pytest.raises(DefinitionError, match="at most 62 expectations: got 63"):
        mark(con, "select 1 as n", expect("warn", **conditions, one_more="true"))


def test_conditions_with_comments_and_or(con):
    marked = mark(con, FLIGHTS, expect("drop", a="delay > 0 or origin = 'JFK' -- either", b="true"))
    assert marked.violations(con) == {"a": 0, "b": 0}


def test_a_query_that_ends_in_a_comment(con):
    assert mark(con, "select 1 as x -- the only one", ()).counts(con) == (1, 0, 0)


def test_errors_of_a_condition_are_raised(con):
    with pytest.raises(duckdb.ConversionException, match="Could not convert string 'EWR'"):
        mark(con, FLIGHTS, expect("warn", number="origin::integer > 0"))
    with pytest.raises(DefinitionError, match=r"expectation 'typo' .*does not fit .*nowhere"):
        mark(con, FLIGHTS, expect("warn", typo="nowhere > 0"))


def test_a_value_that_does_not_fit_its_stored_type_fails(con):
    marked = mark(con, "select sum(9223372036854775807) as s from range(2)", ())
    with pytest.raises(duckdb.ConversionException, match="out of range"):
        con.execute(marked.kept({"s": "BIGINT"})).fetchall()


def test_hidden_columns_are_the_origin_of_a_quarantined_row(con):
    query = "select 1 as x, 'a.csv' as _source, 7::bigint as _position"
    marked = mark(con, query, expect("quarantine", none="false"), hidden=("_source", "_position"))
    assert marked.columns == ("x",)
    assert con.execute(marked.rejected()).fetchall() == [("none", "a.csv", 7, '{"x":1}')]


def test_position_that_is_not_a_number_is_null(con):
    marked = mark(con, "select 'here' as _position, 5 as _source", expect("quarantine", none="false"))
    assert con.execute(marked.rejected()).fetchall()[0][1:3] == ("5", None)


def test_a_table_without_a_key_has_no_key_expectations():
    assert key_expectations(()) == ()
    assert (
        MarkedRows(key_expectations(("a", "b c")), (), ()).expectations[0].condition
        == '"a" is not null and "b c" is not null'
    )
