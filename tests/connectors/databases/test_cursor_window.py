"""Rows are read by a cursor column: equal, late and missing values are neither lost nor doubled."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import asdict

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import sql_database, sqlite
from pipeline.connectors.databases import cursor_window
from pipeline.connectors.databases import sql_database as alchemy
from pipeline.connectors.databases.cursor_values import check_lag, cuts, less_lag
from pipeline.connectors.databases.cursor_window import QueryRange
from pipeline.connectors.databases.seen_rows import MOST_HASHES, SeenRows, hashes_of
from pipeline.core.cursors import Bound, Cursor
from pipeline.core.errors import DefinitionError, SourceError
from pipeline.core.schema import Schema
from tests.rigs.proofs import examples


class Runs:
    """Runs that follow each other: each one continues from the cursor of the previous one."""

    def __init__(self, reader):
        self.reader, self.cursor, self.rows, self.plan = reader, None, [], None

    def run(self, bound=None, between=lambda: None):
        self.plan = self.reader.plan(self.cursor, *([] if bound is None else [bound]))
        assert self.plan.changed == ""
        between()
        rows = []
        for split in self.plan.splits:
            rows += self.reader.read(split, self.reader.schema(split.source_object)).rows.to_pylist()
        if self.plan.splits:
            self.cursor = Cursor(**json.loads(json.dumps(asdict(self.plan.cursor))))
        self.rows += rows
        return sorted(row["id"] for row in rows)


@pytest.fixture
def events(tmp_path):
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as con:
        con.execute("pragma synchronous = off")
        con.execute("pragma journal_mode = memory")
        con.execute("create table events (id integer primary key, at integer, v text)")
        yield con


def runs(tmp_path, **options):
    return Runs(sqlite(tmp_path / "a.db", "events", **{"cursor": "at", **options}))


def insert(con, *rows):
    con.execute("begin")
    con.executemany("insert into events (id, at) values (?, ?)", rows)
    con.execute("commit")


def test_equal_values_at_the_boundary_are_neither_lost_nor_doubled(events, tmp_path):
    reading = runs(tmp_path)
    insert(events, (1, 15), (2, 16), (3, 16))
    assert reading.run() == [1, 2, 3]
    assert reading.run() == []
    insert(events, (4, 16))
    assert reading.run() == [4]
    for _ in range(2):
        assert reading.run() == []
    insert(events, (5, 17))
    assert reading.run() == [5]
    assert [row["_position"] for row in reading.rows] == [1, 2, 3, 4, 5]


def test_a_late_row_is_read_once_if_it_is_within_the_lag(events, tmp_path):
    reading = runs(tmp_path, lag=10)
    insert(events, (1, 100), (2, 95))
    reading.run()
    insert(events, (3, 90), (4, 89), (5, 99))
    assert reading.run() == [3, 5]
    insert(events, (6, 105), (7, 94))
    assert reading.run() == [6, 7]
    insert(events, (8, 94))
    assert reading.run() == []


def test_a_row_whose_value_changes_is_read_again(events, tmp_path):
    reading = runs(tmp_path)
    insert(events, (1, 1), (2, 2))
    reading.run()
    events.execute("update events set at = 3 where id = 1")
    assert reading.run() == [1]


def test_rows_that_come_between_planning_and_reading_belong_to_the_next_plan(events, tmp_path):
    reading = runs(tmp_path, lag=5)
    insert(events, (1, 10))
    assert reading.run(between=lambda: insert(events, (2, 10), (3, 8), (4, 11))) == [1]
    assert reading.run() == [2, 3, 4]
    assert reading.run() == []


@pytest.mark.parametrize(
    "case",
    [
        (18, [(7, 22)], 5),
        (22, [(7, 22)], None),
        *(
            pytest.param((value, newer, lag), marks=pytest.mark.proof)
            for value in (18, 19, 20, 21, 22, 23, 40, None)
            for newer in ([], [(7, 22)])
            for lag in (None, 5)
            if value is None or value >= (20 if not newer else 22) - (lag or 0)
        ),
    ],
)
def test_a_row_that_arrives_between_two_queries_of_a_plan_is_read_once(events, tmp_path, monkeypatch, case):
    r"""SQLAlchemy's SQLite has no snapshot: each query of a plan sees what was committed before it.

    read   10 ... 20            planned   18?  19?  20?  21?  22  23?  40?
                  |--- lag ---|                ^ committed before the first, second, ... query
    """
    query = alchemy._Session.table  # noqa: SLF001 - where the queries of a plan pass
    (value, newer, lag), queries, arrives_before = case, 0, 0

    def table(session, text):
        nonlocal queries
        queries += 1
        if queries == arrives_before:
            insert(events, (3, value))
        return query(session, text)

    monkeypatch.setattr("pipeline.connectors.databases.sql_database._Session.table", table)
    for arrives_before in range(3, 20):
        events.execute("delete from events")
        queries = -1000
        reading = Runs(sql_database(f"sqlite:///{tmp_path}/a.db", "events", cursor="at", lag=lag))
        insert(events, (1, 10), (2, 20), (8, None))
        reading.run()
        insert(events, *newer)
        queries = 0
        reading.run()
        if queries < arrives_before:
            break
        reading.run()
        reading.run()
        ids = Counter(row["id"] for row in reading.rows)
        assert ids == Counter([1, 2, 3, 8, *(row[0] for row in newer)]), f"before query {arrives_before}"
    assert arrives_before > 3


@pytest.mark.parametrize(("policy", "ids"), [("include", [1, 2, 3, 4]), ("exclude", [1, 3])])
def test_null_cursors(events, tmp_path, policy, ids):
    reading = runs(tmp_path, null_cursors=policy)
    insert(events, (1, 1), (2, None))
    reading.run()
    insert(events, (3, 2), (4, None))
    reading.run()
    assert reading.run() == []
    assert sorted(row["id"] for row in reading.rows) == ids


def test_only_null_cursors(events, tmp_path):
    reading = runs(tmp_path)
    insert(events, (1, None), (2, None))
    assert reading.run() == [1, 2]
    insert(events, (3, 5))
    assert reading.run() == [3]


def test_null_cursors_can_be_refused(events, tmp_path):
    insert(events, (1, None))
    with pytest.raises(SourceError, match="the cursor 'at' is null: got 1 row"):
        runs(tmp_path, null_cursors="refuse").run()


def test_a_bound_keeps_equal_values_together(events, tmp_path):
    reading = runs(tmp_path)
    insert(events, (1, 1), (2, 2), (3, 2), (4, 2), (5, 3))
    assert reading.run(Bound(rows=2)) == [1, 2, 3, 4]
    assert reading.plan.has_more
    assert reading.run(Bound(rows=2)) == [5]
    assert not reading.plan.has_more


def test_many_equal_values_do_not_fill_the_cursor(events, tmp_path):
    reading = runs(tmp_path)
    insert(events, *((n, 7) for n in range(MOST_HASHES + 1)))
    assert len(reading.run()) == MOST_HASHES + 1
    assert len(json.dumps(asdict(reading.cursor))) < 500
    assert reading.run() == []
    insert(events, (10**6, 8))
    assert reading.run() == [10**6]
    again = runs(tmp_path)
    again.run(Bound(rows=1))
    insert(events, (10**6 + 1, 7))
    again.run()
    assert again.plan.notes[0].startswith("2,002 rows near the cursor are read again")


def test_large_reads_are_divided(events, tmp_path, monkeypatch):
    monkeypatch.setattr(cursor_window, "SPLIT_ROWS", 10)
    insert(events, *((n, n // 2) for n in range(95)))
    by_cursor, full = runs(tmp_path), Runs(sqlite(tmp_path / "a.db", "events"))
    for reading in (by_cursor, full):
        assert reading.run() == list(range(95))
        assert len(reading.plan.splits) >= 9
        assert [row["_position"] for row in reading.rows] == list(range(1, 96))


@pytest.mark.parametrize("read_by", ["sqlite", "sqlalchemy"])
@pytest.mark.parametrize(
    ("keys", "divided"),
    [([*range(25), None, None], True), ([None] * 12, False), ([*range(12), "word", 2.5, b"\0", 10**12], True)],
    ids=["some keys are null", "all keys are null", "keys of other types"],
)
def test_rows_whose_key_has_no_place_between_integers_are_in_a_part(tmp_path, monkeypatch, keys, divided, read_by):
    monkeypatch.setattr(cursor_window, "SPLIT_ROWS", 10)
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as con:
        con.execute("create table t (n integer unique, row integer)")
        con.executemany("insert into t values (?, ?)", [(each, row) for row, each in enumerate(keys)])
    if read_by == "sqlite":
        reader = sqlite(tmp_path / "a.db", "t", key="n")
    else:
        reader = sql_database(f"sqlite:///{tmp_path}/a.db", "t", key="n")
    contract, rows = Schema.of({"n": "bigint", "row": "bigint"}), []
    splits = reader.plan(None).splits
    for split in splits:
        result = reader.read(split, contract)
        rows += result.rows["row"].to_pylist()
        rows += [json.loads(each)["row"] for each in result.rejected["row"].to_pylist()]
    assert sorted(map(int, rows)) == list(range(len(keys)))
    assert (len(splits) > 1) is (divided and not (read_by == "sqlalchemy" and "word" in keys))


def test_a_value_of_another_type_is_read_once_although_it_lies_within_the_lag(events, tmp_path):
    reading = runs(tmp_path, lag=5)
    insert(events, (1, 10), (2, 9.5))
    plan = reading.reader.plan(None)
    assert sum(split.end - split.begin for split in plan.splits) == 2


def test_a_table_without_a_cursor_is_read_whenever_the_file_changes(events, tmp_path):
    reader = sqlite(tmp_path / "a.db", "events")
    insert(events, (1, 1))
    plan = reader.plan(None)
    assert reader.plan(plan.cursor).splits == ()
    assert reader.plan(plan.cursor).changed == ""
    events.execute("delete from events")
    assert reader.plan(plan.cursor).changed == "the database was written to"


def test_a_changed_type_of_the_cursor_means_that_everything_is_read_again(events, tmp_path):
    insert(events, (1, 1))
    reader = sqlite(tmp_path / "a.db", "events", cursor="at")
    plan = reader.plan(None)
    events.execute("alter table events rename column at to before")
    events.execute("alter table events add column at text default 'x'")
    assert reader.plan(plan.cursor).changed == "the type of the cursor changed from BIGINT to VARCHAR"


def test_what_a_cursor_needs(events, tmp_path):
    events.execute("create table nokey (at integer)")
    events.execute("create view w as select * from events")
    with pytest.raises(SourceError, match=r"a cursor needs a key.*got no primary key of nokey"):
        sqlite(tmp_path / "a.db", "nokey", cursor="at").plan(None)
    with pytest.raises(SourceError, match="there is no column 'att'; did you mean 'at'"):
        sqlite(tmp_path / "a.db", "events", cursor="att").plan(None)
    with pytest.raises(SourceError, match="there is no column 'ids'; did you mean 'id'"):
        sqlite(tmp_path / "a.db", "w", key="ids", cursor="at").plan(None)
    with pytest.raises(DefinitionError, match="the lag does not suit the type BIGINT of the cursor: got '1 hour'"):
        sqlite(tmp_path / "a.db", "events", cursor="at", lag="1 hour").plan(None)
    assert sqlite(tmp_path / "a.db", query="select * from events;", key="id", cursor="at").plan(None).splits == ()


def test_options_that_contradict_each_other():
    with pytest.raises(DefinitionError, match="either a table or a query"):
        sqlite("a.db")
    with pytest.raises(DefinitionError, match="either a table or a query"):
        sqlite("a.db", "t", query="select 1")
    with pytest.raises(DefinitionError, match="a query with a cursor needs a key"):
        sqlite("a.db", query="select 1 as a", cursor="a")
    with pytest.raises(DefinitionError, match="lag= needs the name of a column"):
        sqlite("a.db", "t", lag=1)
    with pytest.raises(DefinitionError, match="null_cursors= must be"):
        sqlite("a.db", "t", null_cursors="drop")
    with pytest.raises(DefinitionError, match="columns= must be a list of names"):
        sqlite("a.db", "t", columns="id")


def test_compound_keys_are_compared_column_by_column():
    rows = pa.table({"a": ["a", "ab", None, "", "1"], "b": ["bc", "c", "x", "x", "23"]})
    hashes = hashes_of(rows, ["a", "b"]).to_pylist()
    assert len(set(hashes)) == 5
    assert hashes == hashes_of(rows, ["a", "b"]).to_pylist()


def test_seen_rows_are_json_and_back():
    few = SeenRows.of(pa.chunked_array([["a1", "b2"]]))
    assert SeenRows.of_json(json.loads(json.dumps(few.to_json()))) == few
    assert few.unseen(pa.chunked_array([["b2", "c3"]])) == ("c3",)
    many = SeenRows.of(pa.chunked_array([[f"{n:016x}" for n in range(MOST_HASHES + 1)]]))
    assert many.hashes is None
    assert many.unseen(pa.chunked_array([["a1"]])) is None
    assert QueryRange.of("") == QueryRange()


@pytest.mark.parametrize(
    ("text", "kind", "lag", "low"),
    [
        ("10", "BIGINT", 3, "7"),
        ("10.50", "DECIMAL(10,2)", 3, "7.50"),
        ("10", "BIGINT", None, "10"),
        ("2026-01-01", "DATE", "1 day", "2025-12-31"),
        ("2026-01-01 00:00:00.000001", "TIMESTAMP", "1 second", "2025-12-31 23:59:59.000001"),
        ("2024-10-20T15:30:00-00:30", "TIMESTAMPTZ", "1 hour", "2024-10-20 15:00:00+00:00"),
        ("2026-01-01T00:00:00.5Z", "VARCHAR", "1 hour", "2025-12-31T23:00:00"),
        ("0001-01-01 00:00:00", "TIMESTAMP", "1 day", "0001-01-01 00:00:00"),
    ],
)
def test_a_value_less_the_lag(text, kind, lag, low):
    check_lag(lag, kind)
    assert less_lag(text, kind, lag) == low


def test_values_that_have_no_lag():
    with pytest.raises(SourceError, match="a cursor is not a date or a time: got 'abc'"):
        less_lag("abc", "VARCHAR", "1 day")
    with pytest.raises(SourceError, match="a cursor is no number: got 'abc'"):
        less_lag("abc", "DOUBLE", 1)
    with pytest.raises(DefinitionError, match="the lag does not suit the type BLOB"):
        check_lag("1 day", "BLOB")


def test_ranges_are_cut_evenly():
    assert cuts("0", "100", "BIGINT", 4) == ["25", "50", "75"]
    assert cuts("2026-01-01", "2026-01-05", "DATE", 2) == ["2026-01-03"]
    assert cuts("a", "z", "VARCHAR", 4) == []
    assert cuts("1", "2", "BIGINT", 1) == []


@settings(max_examples=examples(20, 300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("insert"), st.one_of(st.none(), st.integers(0, 5))),
            st.tuples(st.sampled_from(["run", "bounded"]), st.none()),
        ),
        max_size=30,
    )
)
def test_any_order_of_inserts_and_runs_reads_every_row_once(events, tmp_path, steps):
    events.execute("delete from events")
    reading = runs(tmp_path, lag=5)  # no row is later than that
    for number, (step, value) in enumerate([*steps, ("run", None), ("run", None)]):
        if step == "insert":
            insert(events, (number, value))
        else:
            reading.run(Bound(rows=1) if step == "bounded" else None)
    assert reading.run() == []
    ids = [row[0] for row in events.execute("select id from events")]
    assert Counter(row["id"] for row in reading.rows) == Counter(ids)
