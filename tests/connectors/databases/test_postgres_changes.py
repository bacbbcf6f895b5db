"""Change data of a real PostgreSQL server: snapshot, changes, values, kills, lost slots."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import random
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline import postgres_changes
from pipeline.connectors.databases.changes.log import ChangeLog
from pipeline.connectors.databases.postgres_changes import PostgresChanges, draining
from pipeline.connectors.databases.postgres_changes.server import ChangeServer, SlotInUseError, connected
from pipeline.core.cursors import Bound
from pipeline.core.errors import DefinitionError, SchemaError, SourceError, SourceUnavailableError
from pipeline.core.schema import Schema
from pipeline.core.splits import SourceObject, SourceSplit
from tests.rigs.changes import KEPT, KilledError, Kills, kept_changes, ops, rows_of
from tests.rigs.postgres import PostgresDatabase
from tests.rigs.proofs import examples


@pytest.fixture
def changes(pg: PostgresDatabase, tmp_path: Path):
    """Create a source of changes with a slot of its own, which is dropped at the end."""
    slots = []

    def create(*tables: str, **options: Any) -> PostgresChanges:
        slot = options.pop("slot", f"hw_{uuid.uuid4().hex[:12]}")
        slots.append(slot)
        return postgres_changes(pg.url, *tables, slot=slot, spool=str(tmp_path / "log"), **options)

    yield create
    for slot in slots:
        pg.run(f"select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '{slot}'")
        pg.run(f"drop publication if exists {slot}")


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


def test_lost_changes_are_an_error_and_a_full_run_begins_again(pg: PostgresDatabase, changes):
    pg.run("create table t (id int primary key)", "insert into t values (1)")
    source = changes("t")
    table = source.table("t")
    rows, cursor = rows_of(table)
    drop = f"select pg_drop_replication_slot('{source.slot}')"
    pg.run(drop, "insert into t values (2)")
    with pytest.raises(SourceError, match=r"are lost: the replication slot .* does not exist any more.*run --full"):
        table.plan(cursor)
    with pytest.raises(SourceError, match="does not exist any more"):
        table.extents()
    assert ops(rows_of(table)[0]) == [(1, "read"), (2, "read")]
    after = table.plan(cursor)
    assert "deleted and recreated" in after.changed
    pg.run("insert into t values (3)", f"select pg_replication_slot_advance('{source.slot}', pg_current_wal_lsn())")
    with pytest.raises(SourceError, match="another consumer advanced the slot"):
        table.plan(after.cursor)
    pg.run(drop, f"select pg_create_logical_replication_slot('{source.slot}', 'test_decoding')")
    with pytest.raises(SourceError, match="belongs to another database or output plugin"):
        table.plan(after.cursor)
    assert len(rows) == 1


def test_a_server_that_removed_its_log_or_is_another_one(pg: PostgresDatabase, changes):
    pg.run("create table t (id int primary key)")
    source = changes("t")
    table = source.table("t")
    _, cursor = rows_of(table)
    state = source.log.state()
    assert state is not None
    source.log.store(draining.replace(state, system="another"))
    with pytest.raises(SourceError, match="this is another server than the one that was read"):
        table.plan(cursor)
    source.log.store(draining.replace(state, through=state.through + (1 << 40)))
    with pytest.raises(SourceError, match="the server was restored to an earlier state"):
        table.plan(cursor)
    source.log.store(state)
    for _ in range(3):
        pg.run("select count(pg_logical_emit_message(false, 'x', repeat('x', 1000000))) from generate_series(1, 60)")
        pg.run("select pg_switch_wal()", "checkpoint")
    with pytest.raises(
        SourceError, match=r"removed the log that the slot .* needed, because of max_slot_wal_keep_size"
    ):
        table.plan(cursor)


def test_a_busy_server_may_forget_what_belongs_to_other_tables(pg: PostgresDatabase, changes, monkeypatch):
    pg.run("create table t (id int primary key)", "create table other (id int)")
    source = changes("t")
    source.table("t").plan(None)
    monkeypatch.setattr(draining, "_QUIET_BYTES", 100)

    def confirmed():
        with connected(source.address) as server:
            slot = server.slot(source.slot)
        assert slot is not None
        return slot["confirmed"]

    before, asked, position = confirmed(), itertools.count(), ChangeServer.position
    pg.run("insert into other select generate_series(1, 1000)")
    # until a message was committed, the end of the log is not on disk
    monkeypatch.setattr(
        ChangeServer,
        "position",
        lambda server: draining.replace(found, flushed=0) if (found := position(server)) and next(asked) < 2 else found,
    )
    source.table("t").plan(None)
    assert confirmed() > before


def test_a_slot_that_others_use_or_created(pg: PostgresDatabase, changes, monkeypatch):
    pg.run("create table t (id int primary key)")
    source = changes("t")
    pg.run(f"select pg_create_logical_replication_slot('{source.slot}', 'pgoutput')")
    with pytest.raises(SourceError, match="exists, but its changes are not in the log on this machine"):
        source.table("t").plan(None)
    pg.run(f"select pg_drop_replication_slot('{source.slot}')")
    _, cursor = rows_of(source.table("t"))
    pg.run("insert into t values (1)")
    monkeypatch.setattr("pipeline.connectors.databases.postgres_changes.server._IN_USE_S", 0.3)
    with connected(source.address, replication=True) as other:
        command = f"START_REPLICATION SLOT \"{source.slot}\" LOGICAL 0/0 (proto_version '1', publication_names '{source.slot}')"
        other.connection.pgconn.exec_(command.encode())
        with pytest.raises(SlotInUseError, match=r"the replication slot is in use: got .*is active for PID"):
            source.table("t").plan(cursor)


def test_what_cannot_be_read(pg: PostgresDatabase, changes, monkeypatch):
    pg.run(
        "create table t (id int primary key, _op text)",
        "create view v as select 1",
        "create table k (id int primary key)",
    )
    with pytest.raises(SourceError, match=r"there is no such table: got public[.]missing"):
        changes("missing").table("missing").plan(None)
    with pytest.raises(SourceError, match="only tables have changes"):
        changes("v").table("v").plan(None)
    with pytest.raises(SourceError, match="the column name '_op' is reserved"):
        changes("t").table("t").plan(None)
    row = {"version": 130000, "wal_level": "replica", "system": "s", "inserted": 0, "flushed": 0}
    for problem, with_version in (("too old", 130000), ("does not log changes for logical replication", 150000)):
        with connected(changes("k").address) as server:
            monkeypatch.setattr(ChangeServer, "rows", lambda *_, v=with_version: [{**row, "version": v}])
            with pytest.raises(SourceError, match=problem):
                server.position()
            monkeypatch.undo()


def test_a_user_without_rights_gets_the_statement_for_the_owner(pg: PostgresDatabase, changes):
    pg.run(
        "create table t (id int primary key)",
        "do $$ begin create role change_reader login replication; exception when duplicate_object then null; end $$",
        "grant select on t to change_reader",
    )
    source = changes("t")
    mine = draining.replace(source, address=type(source.address)(pg.as_user("change_reader")))
    with pytest.raises(
        SourceError, match=r"the user cannot publish the tables.*run as their owner: create publication"
    ):
        mine.table("t").plan(None)
    pg.run(f"create publication {source.slot} for table t with (publish_via_partition_root = true)")
    assert rows_of(mine.table("t"))[0] == []


def test_a_publication_that_leaves_something_out_is_refused(pg: PostgresDatabase, changes):
    pg.run("create table t (id int primary key, n int)")
    source = changes("t")
    pg.run(f"create publication {source.slot} for table t with (publish = 'insert', publish_via_partition_root = true)")
    with pytest.raises(SourceError, match="leaves out changes, or publishes partitions under their own names"):
        source.table("t").plan(None)
    pg.run(
        f"drop publication {source.slot}",
        f"create publication {source.slot} for table t where (id > 5) with (publish_via_partition_root = true)",
    )
    with pytest.raises(SourceError, match="leaves out rows or columns: got t; publish the table without WHERE"):
        source.table("t").plan(None)
    pg.run(f"alter publication {source.slot} set table t")
    _, cursor = rows_of(source.table("t"))
    pg.run(f"alter publication {source.slot} set (publish = 'insert')")
    with pytest.raises(SourceError, match="leaves out changes"):
        source.table("t").plan(cursor)


def test_definitions_are_checked(pg: PostgresDatabase):
    with pytest.raises(DefinitionError, match="needs the name of a table"):
        postgres_changes(pg.url, slot="x")
    with pytest.raises(DefinitionError, match="the name of a slot must consist of"):
        postgres_changes(pg.url, "t", slot="Not-a-slot")
    with pytest.raises(DefinitionError, match=r"this table is not read: got 'u'; did you mean|known"):
        postgres_changes(pg.url, "t", slot="x").table("u")
    with pytest.raises(DefinitionError, match="contains a password"):
        postgres_changes("postgresql://u:secret@h/db", "t", slot="x")
    reader = postgres_changes("postgresql://u@127.0.0.1:9/db", "t", slot="x").table("t")
    with pytest.raises(SourceUnavailableError, match="PostgreSQL is unavailable"):
        reader.plan(None)


def test_the_password_is_shown_nowhere(pg: PostgresDatabase, changes, monkeypatch):
    monkeypatch.setenv("HW_TEST_PASSWORD", "s3cret-w0rd")
    pg.run("create table t (id int primary key)", "insert into t values (1)")
    reference = "env:HW_TEST_PASSWORD"
    source = changes("t", password=reference)
    plan = source.table("t").plan(None)
    reader = postgres_changes("postgresql://u@127.0.0.1:9/db", "t", slot="x", password=reference).table("t")
    with pytest.raises(SourceUnavailableError) as caught:
        reader.plan(None)
    files = [path.read_bytes() for path in source.log.folder.rglob("*") if path.is_file()]
    shown = [repr(source), repr(plan), source.uri("t"), source.fingerprint, str(caught.value), *map(repr, files)]
    assert len(files) > 2
    assert not [text for text in shown if "s3cret" in text]


def test_a_log_that_is_missing_or_damaged(pg: PostgresDatabase, changes, tmp_path: Path):
    pg.run("create table t (id int primary key)", "insert into t values (1)")
    source = changes("t")
    table = source.table("t")
    [split] = table.plan(None).splits
    schema = table.schema(split.source_object)
    for path in source.log.folder.rglob("*.arrow"):
        path.rename(path.with_suffix(".gone"))
    with pytest.raises(SourceError, match="changes are no longer in the log: got 0 of the changes 0 to 0"):
        table.read(split, schema)
    for path in source.log.folder.rglob("*.gone"):
        path.with_suffix(".arrow").write_bytes(b"nothing")
    with pytest.raises(SourceError, match="the log of changes cannot be read"):
        table.read(split, schema)
    (source.log.folder / "state.json").unlink()
    with pytest.raises(SourceError, match="the log of changes does not contain the planned changes"):
        table.read(split, schema)
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(SourceError, match="the log of changes cannot be written"),
        ChangeLog(tmp_path / "file" / "x").locked(),
    ):
        pass


def test_doctor_says_how_much_log_the_server_keeps(pg: PostgresDatabase, changes):
    pg.run("create table t (id int primary key)")
    table = changes("t").table("t")
    assert [finding.detail for finding in table.check()] == ["the slot is created by the first run"]
    table.plan(None)
    assert [finding.detail for finding in table.check()] == ["the server keeps 0 MB of log for it"]


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
