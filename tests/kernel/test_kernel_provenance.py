"""Provenance of rows in statements."""

from __future__ import annotations

import pytest

from pipeline.kernel.engine import connect
from pipeline.kernel.planner.provenance import passed_through, with_provenance
from pipeline.kernel.sql import parse

COLUMNS = ("x", "_source", "_position", "_ingested_at")
BOTH = ("_source", "_position")


@pytest.mark.parametrize(
    ("statement", "added", "row"),
    [
        ("select x from t", BOTH, (1, "a.csv", 7)),
        ("select x from T as f", BOTH, (1, "a.csv", 7)),
        ('select f.x, u._position as theirs from "T" f join u on f.x = u.x', BOTH, (1, 99, "a.csv", 7)),
        ("select x, _source from t", ("_position",), (1, "a.csv", 7)),
        ("select x, _SOURCE from t", ("_position",), (1, "a.csv", 7)),
        ("select x from t -- the end", BOTH, (1, "a.csv", 7)),
        ("select * from t", (), (1, "a.csv", 7)),
        ("select t.* from t", (), (1, "a.csv", 7)),
        ("select columns('x') from t", (), (1,)),
        ("with c as (select x from t) select x from c", (), (1,)),
        ("with t as (select x from t) select x from t", (), (1,)),
        ("select x from (select x from t) as s", (), (1,)),
        ("select x from t union all select x from t limit 1", (), (1,)),
    ],
)
def test_which_provenance_columns_are_added(statement, added, row):
    text, carried = with_provenance(parse(statement), "t", COLUMNS)
    assert carried == added
    with connect() as con:
        con.execute("create view t as select 1 as x, 'a.csv' as _source, 7 as _position")
        con.execute("create view u as select 1 as x, 'u.csv' as _source, 99 as _position")
        assert con.execute(text).fetchall() == [row]


def test_no_provenance_is_added_for_tables_without_it():
    assert with_provenance(parse("select x from t"), "t", ("x",))[1] == ()
    assert with_provenance(parse("select x from t"), "t", ("x", "_source"))[1] == ("_source",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("select id, b from t", ("id",)),
        ("select b, ID as key from t", ("key",)),
        ("select * from t", ("id",)),
        ("select x.* from t as x join u using (id)", ("id",)),
        ("select x.id as k, u.* from t as x join u on u.id = x.id", ("k",)),
        ("select u.id from t join u on u.id = t.id", None),
        ("select * from t join u on u.id = t.id", None),
        ("select upper(id) as id from t", None),
        ("select b as id from t", None),
        ("select * exclude (id) from t", None),
        ("select * replace (b as id) from t", None),
        ("select id from (select id + 1 as id from t)", None),
        ("with t as (select 1 as id from s) select id from t", None),
        ("select columns('i.*') from t", None),
    ],
)
def test_which_columns_are_passed_through_unchanged(text, expected):
    assert passed_through(parse(text), "t", ("id",)) == expected


def test_all_columns_of_a_key_must_be_passed_through():
    assert passed_through(parse("select b as y, a as x, c from t"), "t", ("a", "b")) == ("x", "y")
    assert passed_through(parse("select a from t"), "t", ("a", "b")) is None
