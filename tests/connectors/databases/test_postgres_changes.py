"""Change data of a real PostgreSQL server: snapshot, changes, values, kills, lost slots."""

from __future__ import annotations

import datetime as dt
import json
import random
from decimal import Decimal
from typing import Any

import pytest

from pipeline.connectors.databases.changes.log import ChangeLog
from pipeline.connectors.databases.postgres_changes import draining
from pipeline.connectors.databases.postgres_changes.server import ChangeServer
from pipeline.core.cursors import Bound
from pipeline.core.errors import SchemaError, SourceError
from pipeline.core.schema import Schema
from pipeline.core.splits import SourceObject, SourceSplit
from tests.rigs.changes import KEPT, KilledError, Kills, kept_changes, ops, rows_of
from tests.rigs.postgres import PostgresDatabase
from tests.rigs.postgres_changes import changes as changes  # noqa: PLC0414 - the fixture
from tests.rigs.proofs import examples


def folded(rows: list[dict[str, Any]], key: str = "id") -> dict[Any, dict[str, Any]]:
    """Apply changes in the order of their sequences; a value that was not sent stays as it was."""
    current: dict[Any, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row["_sequence"]):
        if row["_op"] == "truncate":
            current.clear()
        elif row["_op"] == "delete":
            current.pop(row[key], None)
        else:
            before = current.get(row[key], {})
            kept = {name: before[name] for name in row.get("_unavailable", ()) if name in before}
            current[row[key]] = {n: v for n, v in row.items() if not n.startswith("_")} | kept
    return current


def stored(pg: PostgresDatabase, query: str) -> dict[Any, dict[str, Any]]:
    with pg.connected() as con:
        cursor = con.execute(query)
        names = [each.name for each in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    return {row["id"]: {name: value for name, value in row.items() if value is not None} for row in rows}


def test_the_snapshot_then_every_kind_of_change(pg: PostgresDatabase, changes):
    pg.run("create table orders (id int primary key, name text)", "insert into orders values (1, 'a'), (2, 'b')")
    table = changes("orders").table("orders")
    rows, cursor = rows_of(table)
    assert ops(rows) == [(1, "a", "read"), (2, "b", "read")]
    pg.run(
        "insert into orders values (3, 'c')",
        "update orders set name = 'B' where id = 2",
        "update orders set id = 30 where id = 3",
        "delete from orders where id = 1",
        "truncate orders",
        "begin; insert into orders values (1, 'x'), (2, 'y'); update orders set name = 'z'; commit",
    )
    more, cursor = rows_of(table, cursor)
    assert ops(more) == [
        *((3, "c", "insert"), (2, "B", "update"), (3, "delete"), (30, "c", "insert"), (1, "delete"), ("truncate",)),
        *((1, "x", "insert"), (2, "y", "insert"), (1, "z", "update"), (2, "z", "update")),
    ]
    sequences = [row["_sequence"] for row in [*rows[:1], *more]]
    assert sequences == sorted(sequences)
    assert len(set(sequences)) == len(sequences)
    assert rows_of(table, cursor)[0] == []
    assert rows_of(table)[0] == [*rows, *more]


def test_one_slot_serves_several_tables_also_one_that_is_added_later(pg: PostgresDatabase, changes):
    pg.run("create table a (id int primary key)", "create table b (id int primary key)", "insert into a values (1)")
    one = changes("a", slot="hw_shared")
    assert ops(rows_of(one.table("a"))[0]) == [(1, "read")]
    pg.run("insert into b values (1)", "insert into a values (2)")
    both = changes("a", "b", slot="hw_shared")
    pg.run("insert into b values (2)")
    assert ops(rows_of(both.table("b"))[0]) == [(1, "read"), (2, "read")]
    pg.run("insert into b values (3)", "insert into a values (3)")
    assert ops(rows_of(both.table("b"))[0]) == [(1, "read"), (2, "read"), (3, "insert")]
    assert ops(rows_of(both.table("a"))[0]) == [(1, "read"), (2, "insert"), (3, "insert")]


def test_changes_that_are_no_longer_kept(pg: PostgresDatabase, changes, monkeypatch):
    pg.run("create table t (id int primary key)", "create table u (id int primary key)")
    assert kept_changes(changes("t", "u", keep="1 day"), monkeypatch, pg.run) == KEPT


def test_without_a_snapshot_only_changes_are_read(pg: PostgresDatabase, changes):
    pg.run("create table t (id int primary key)", "insert into t values (1)")
    table = changes("t", snapshot=False).table("t")
    assert rows_of(table)[0] == []
    pg.run("insert into t values (2)")
    assert ops(rows_of(table)[0]) == [(2, "insert")]


def test_a_row_with_another_key_has_the_large_value_that_was_not_sent(pg: PostgresDatabase, changes):
    big, doc = "x'" * 1500, '{"a": "' + "y" * 3000 + '"}'
    pg.run(
        'create table t (a int, "B b" text, n int, big text, doc jsonb, primary key (a, "B b"))',
        *(f"alter table t alter {name} set storage external" for name in ("big", "doc")),
    )
    table = changes("t").table("t")
    _, cursor = rows_of(table)
    with pg.connected() as con:
        rows = "(1, 'k''', 1, %s, %s), (2, '', 1, %s, null)"
        con.execute(f"insert into t values {rows}", (big, doc, big))
    pg.run("update t set a = a + 10, n = 2", "update t set n = 3 where a = 11", "update t set a = 30 where a = 12")
    plan = table.plan(cursor)
    reading = table.read(plan.splits[0], table.schema(plan.splits[0].source_object))
    found = [[row[name] for name in ("a", "_op", "big", "doc", "_unavailable")] for row in reading.rows.to_pylist()]
    assert found == [
        *([1, "insert", big, doc, None], [2, "insert", big, None, None]),
        *([1, "delete", None, None, None], [11, "insert", big, doc, None], [2, "delete", None, None, None]),
        *(
            [11, "update", None, None, ["big", "doc"]],
            [12, "delete", None, None, None],
            [30, "insert", big, None, None],
        ),
    ]
    [lost] = reading.rejected.to_pylist()  # nobody can know any more what the row of key 12 had
    assert lost["reason"].endswith("which is gone: the database needs REPLICA IDENTITY FULL")
    assert (json.loads(lost["row"])["a"], lost["_position"]) == ("12", 5)


def test_a_value_that_was_not_sent_of_a_column_that_was_dropped(pg: PostgresDatabase, changes):
    pg.run("create table t (id int primary key, big text)", "alter table t alter big set storage external")
    table = changes("t").table("t")
    _, cursor = rows_of(table)
    pg.run("insert into t values (1, repeat('x', 3000))", "update t set id = 2", "alter table t drop column big")
    plan = table.plan(cursor)
    reading = table.read(plan.splits[0], table.schema(plan.splits[0].source_object))
    assert reading.rows.column("_op").to_pylist() == ["insert", "delete"]
    assert reading.rejected.num_rows == 1


VALUES = {
    "i8 bigint": ("9223372036854775807", 9223372036854775807),
    "n numeric(20, 4)": ("12345678901234.5678", Decimal("12345678901234.5678")),
    "free numeric": ("1.50", "1.50"),
    "f float8": ("0.1", 0.1),
    "f4 real": ("0.5", 0.5),
    "yes boolean": ("'t'", True),
    "bytes bytea": ("'\\x00ff'", b"\x00\xff"),
    "day date": ("'2024-02-29'", dt.date(2024, 2, 29)),
    "at timestamp": ("'2024-02-29 10:00:00.123456'", dt.datetime(2024, 2, 29, 10, 0, 0, 123456)),  # noqa: DTZ001 - it has no zone
    "zoned timestamptz": ("'2024-02-29 10:00:00.5+02'", dt.datetime(2024, 2, 29, 8, 0, 0, 500000, dt.UTC)),
    "clock time": ("'10:00:00.5'", "10:00:00.5"),
    "span interval": ("'1 mon 2 days'", "1 mon 2 days"),
    "code char(4)": ("'ab'", "ab  "),
    "id2 uuid": ("'00000000-0000-0000-0000-000000000001'", "00000000-0000-0000-0000-000000000001"),
    "doc jsonb": ("""'{"a": [1]}'""", '{"a": [1]}'),
    "host inet": ("'192.168.1.1'", "192.168.1.1"),
    "price money": ("'-$1,234.50'", "-1234.50"),
    "kind mood": ("'sad'", "sad"),
    "amount positive": ("7.5", Decimal("7.50")),
    "numbers int[]": ("'{1,NULL,3}'", [1, None, 3]),
    "none int[]": ("'{}'", []),
    "texts text[]": ("""'{a,"b c",NULL,"NULL","q\\"q","c,d",it''s,"back\\\\slash"}'""", ["a", "b c", None, "NULL", 'q"q', "c,d", "it's", "back\\slash"]),
}  # fmt: skip


def test_values_are_the_same_from_the_snapshot_and_from_changes(pg: PostgresDatabase, changes):
    pg.run(
        "create type mood as enum ('sad', 'ok')",
        "create domain positive as numeric(10, 2) check (value > 0)",
        f"create table v (id int primary key, {', '.join(VALUES)})",
        f"insert into v values (1, {', '.join(text for text, _ in VALUES.values())})",
        "insert into v (id) values (2)",
    )
    table = changes("v").table("v")
    first, cursor = rows_of(table)
    expected = {name.split()[0]: value for name, (_, value) in VALUES.items()}
    without = [{name: value for name, value in row.items() if not name.startswith("_")} for row in first]
    assert without == [{"id": 1, **expected}, {"id": 2}]
    pg.run("update v set id = id")
    again, _ = rows_of(table, cursor)
    assert [{name: value for name, value in row.items() if not name.startswith("_")} for row in again] == without


def test_values_that_no_type_can_represent_are_rejected(pg: PostgresDatabase, changes):
    pg.run("create table v (id int primary key, at timestamp, n numeric(4, 1), l int[])")
    table = changes("v").table("v")
    pg.run(
        "insert into v values (1, 'infinity', null, null)",
        "insert into v values (2, null, 'NaN', null)",
        "insert into v values (3, null, null, '{{1,2},{3,4}}')",
        "insert into v values (4, '2024-01-01', 1.5, '{1}')",
    )
    [split] = table.plan(None).splits
    reading = table.read(split, table.schema(split.source_object))
    assert reading.rows.column("id").to_pylist() == [4]
    assert reading.rows.column("l").to_pylist() == [[1]]
    assert [reason.partition(":")[0] for reason in reading.rejected.column("reason").to_pylist()] == [
        "column 'at' is not TIMESTAMP",
        "column 'n' is not DECIMAL(4,1)",
        "column 'l' is not INTEGER[]",
    ]
    texts = Schema.of({"id": "integer", "at": "varchar", "n": "varchar", "l": "varchar"})
    as_text = table.read(split, texts).rows.drop_columns(["_position"]).to_pylist()
    assert [tuple(row.values()) for row in as_text] == [
        (1, "infinity", None, None),
        (2, None, "NaN", None),
        (3, None, None, "{{1,2},{3,4}}"),
        (4, "2024-01-01 00:00:00", "1.5", "{1}"),
    ]


def test_a_large_value_that_did_not_change_is_named(pg: PostgresDatabase, changes):
    pg.run(
        "create table t (id int primary key, n int, big text, huge text)",
        "alter table t alter big set storage external, alter huge set storage external",
        "insert into t values (1, 1, repeat('x', 9000), repeat('y', 9000))",
    )
    table = changes("t").table("t")
    first, cursor = rows_of(table)
    pg.run("update t set n = 2", "update t set big = 'small'", "update t set id = 2")
    more, cursor = rows_of(table, cursor)
    assert ops(more) == [
        (1, 2, "update", ["big", "huge"]),
        (1, 2, "small", "update", ["huge"]),
        (1, "delete"),
        (2, 2, "small", "y" * 9000, "insert"),
    ]
    pg.run("alter table t replica identity full", "update t set n = 3", "update t set id = 3", "delete from t")
    whole, _ = rows_of(table, cursor)
    huge = "y" * 9000
    assert ops(whole) == [
        (2, 3, "small", huge, "update"),
        (2, 3, "small", huge, "delete"),
        (3, 3, "small", huge, "insert"),
        (3, 3, "small", huge, "delete"),
    ]
    assert first[0]["huge"] == huge


def test_a_table_without_a_key_needs_its_entire_rows(pg: PostgresDatabase, changes):
    pg.run("create table t (id int, n int)", "insert into t values (1, 1)")
    with pytest.raises(SourceError, match=r"the rows of public\.t have no identity.*REPLICA IDENTITY FULL"):
        changes("t").table("t").plan(None)
    pg.run("update t set n = 2", "alter table t replica identity full")  # it was not published, so it can be updated
    table = changes("t").table("t")
    _, cursor = rows_of(table)
    pg.run("update t set n = 3", "update t set n = n")
    assert ops(rows_of(table, cursor)[0]) == [(1, 2, "delete"), (1, 3, "insert"), (1, 3, "update")]


def test_columns_come_and_go(pg: PostgresDatabase, changes):
    pg.run("create table t (id int primary key, gone text)", "insert into t values (1, 'a')")
    table = changes("t").table("t")
    _, cursor = rows_of(table)
    pg.run(
        "insert into t values (2, 'b')",
        "alter table t add column extra int",
        "insert into t values (3, 'c', 30)",
        "alter table t drop column gone",
        "alter table t alter id type bigint",
        "insert into t values (5000000000, 50)",
    )
    more, _ = rows_of(table, cursor)
    assert ops(more)[-3:] == [(2, "b", "insert"), (3, "c", 30, "insert"), (5000000000, 50, "insert")]
    [split] = table.plan(cursor).splits
    old = Schema.of({"id": "bigint", "gone": "varchar"})
    with pytest.raises(SchemaError, match="new column 'extra'"):
        table.read(split, old)
    assert table.evolving("add").beyond(split, old).select(("extra",)).as_dict() == {"extra": "INTEGER"}
    aside = table.evolving("discard_row").read(split, old)
    assert (aside.rows.column("id").to_pylist(), aside.rejected.num_rows) == ([2], 2)


def test_a_partitioned_table_is_one_table(pg: PostgresDatabase, changes):
    pg.run(
        "create table p (id int primary key, n int) partition by range (id)",
        "create table p1 partition of p for values from (0) to (10)",
        "create table p2 partition of p for values from (10) to (20)",
        "insert into p values (1, 1), (11, 2)",
    )
    table = changes("p").table("p")
    _, cursor = rows_of(table)
    pg.run("update p set n = 5 where id = 11", "insert into p values (2, 2)")
    assert ops(rows_of(table, cursor)[0]) == [(11, 5, "update"), (2, 2, "insert")]


def test_a_tail_delivers_changes_as_they_are_committed(pg: PostgresDatabase, changes):
    pg.run("create table t (id int primary key)", "insert into t values (1)")
    table = changes("t").table("t")
    schema = Schema.of({"id": "integer", "_op": "varchar"})
    [(uri, extent)] = table.extents().items()
    with table.tail({uri: extent.begin}) as tail:
        seen: list[int] = []
        for number in range(2, 5):
            pg.run(f"insert into t values ({number})")
            while len(seen) < number:
                end = tail.ready(10).offsets[uri]
                split = SourceSplit(SourceObject(uri, 0, extent.stamp), len(seen), end, first=len(seen))
                seen += tail.reader([split]).read(split, schema).rows.column("id").to_pylist()
        assert seen == [1, 2, 3, 4]
        assert tail.ready(0).rows == 0


def test_offsets_are_found_by_the_time_of_the_commit(pg: PostgresDatabase, changes):
    pg.run("create table t (id int primary key)", "insert into t values (1)")
    table = changes("t").table("t")
    table.plan(None)
    with pg.connected() as con:
        between = con.execute("select clock_timestamp()").fetchone()[0]
    pg.run("insert into t values (2)")
    table.plan(None)
    assert table.offsets_at(between) == {table.uri: 1}
    assert table.offsets_at(between + dt.timedelta(days=1)) == {table.uri: 2}
    plan = table.plan(None, Bound(until=between))
    assert [(split.begin, split.end) for split in plan.splits] == [(0, 1)]


@pytest.mark.parametrize("seed", range(examples(1, 10)))
def test_kills_at_any_moment_lose_and_double_nothing(pg: PostgresDatabase, changes, monkeypatch, seed: int):
    """Ten processes are killed at random steps of a drain, while rows, columns and tables change."""
    draw = random.Random(seed)  # noqa: S311 - a test
    pg.run("create table t (id int primary key, n int, big text)", "alter table t alter big set storage external")
    pg.run("insert into t select i, i, repeat('x', 3000) from generate_series(1, 200) i")
    table, calls = changes("t").table("t"), Kills()
    monkeypatch.setattr(draining, "PEEKED_CHANGES", 100)
    monkeypatch.setattr(draining, "_CHUNK_ROWS", 70)

    for owner, name in (
        (ChangeLog, "append"),
        (ChangeLog, "store"),
        (ChangeServer, "advance"),
        (ChangeServer, "publish"),
    ):
        monkeypatch.setattr(owner, name, calls.at(getattr(owner, name)))
    kills = 0
    while kills < 10:
        number = draw.randrange(1000)
        pg.run(
            f"insert into t (id, n, big) values ({1000 + number}, {number}, repeat('z', 3000)) on conflict do nothing",
            f"update t set n = n + 1 where id % 7 = {number % 7}",
            f"update t set id = id + 100000 where id = {number % 200}",
            f"delete from t where id % 50 = {number % 50}",
            f"begin; update t set n = 0 where id < {number % 100}; update t set n = 5 where id < {number % 50}; commit",
        )
        if kills == 5:
            pg.run("alter table t add column if not exists extra int default 7")
        calls.after(draw.randrange(6))
        try:
            table.plan(None)
        except KilledError:
            kills += 1
    calls.after(None)
    rows, _ = rows_of(table)
    assert folded(rows) == stored(pg, "select * from t")
    positions = [row["_sequence"] for row in rows if row["_op"] != "read"]
    assert len(set(positions)) == len(positions)


def test_two_hundred_thousand_changes_equal_the_source(pg: PostgresDatabase, changes):
    count = examples(4000, 200_000)
    pg.run(
        "create table t (id int primary key, n int, name text)",
        "insert into t select i, 0, 'first' from generate_series(1, 1000) i",
    )
    table = changes("t").table("t")
    rows, cursor = rows_of(table)
    for part in range(4):
        pg.run(
            f"insert into t select i, i, 'name ' || i from generate_series({1001 + part * count // 8}, {1000 + (part + 1) * count // 8}) i",
            f"update t set n = n + 1 where id > 1000 + {part * count // 8}",
            f"delete from t where id % 4 = {part} and id > 1000 + {part * count // 8}",
        )
        more, cursor = rows_of(table, cursor)
        rows += more
    assert len(rows) >= count
    assert folded(rows) == stored(pg, "select * from t")
