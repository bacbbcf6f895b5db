"""Change data of a real MariaDB server: snapshot, changes, values, kills, removed logs."""

from __future__ import annotations

import datetime as dt
import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import mysql_changes
from pipeline.connectors.databases.changes.log import ChangeLog
from pipeline.connectors.databases.mysql_changes import draining
from pipeline.connectors.databases.mysql_changes.binlog import RowChange, transactions
from pipeline.connectors.databases.mysql_changes.server import connected
from pipeline.core.cursors import Cursor
from pipeline.core.errors import DefinitionError, SourceError, SourceUnavailableError
from pipeline.core.schema import Schema
from tests.rigs.changes import KEPT, KilledError, Kills, kept_changes, ops, rows_of
from tests.rigs.damaged_packets import EVENT_HEAD, Damage, damaged_packets
from tests.rigs.mysql import MysqlDatabase
from tests.rigs.proofs import examples

pytest.importorskip("pymysqlreplication", reason="no reader of binary logs: pip install 'headwater[mysql]'")


@pytest.fixture
def changes(mysql_database: MysqlDatabase, tmp_path: Path):
    return lambda *tables, **options: mysql_changes(mysql_database.url, *tables, spool=str(tmp_path / "log"), **options)


def test_the_snapshot_then_every_kind_of_change(mysql_database: MysqlDatabase, changes):
    mysql_database.run(
        "create table orders (id int primary key, name varchar(20))", "insert into orders values (1, 'a'), (2, 'b')"
    )
    table = changes("orders").table("orders")
    rows, cursor = rows_of(table)
    assert ops(rows) == [(1, "a", "read"), (2, "b", "read")]
    mysql_database.run(
        "insert into orders values (3, 'c')",
        "update orders set name = 'B' where id = 2",
        "update orders set id = 30 where id = 3",
        "delete from orders where id = 1",
        "truncate table orders",
        "insert into orders values (1, 'x'), (2, 'y')",
    )
    more, cursor = rows_of(table, cursor)
    assert ops(more) == [
        *(
            (3, "c", "insert"),
            (2, "B", "update"),
            (3, "c", "delete"),
            (30, "c", "insert"),
            (1, "a", "delete"),
            ("truncate",),
        ),
        *((1, "x", "insert"), (2, "y", "insert")),
    ]
    sequences = [row["_sequence"] for row in [*rows[:1], *more]]
    assert sequences == sorted(set(sequences))
    assert rows_of(table, cursor)[0] == []
    assert rows_of(table)[0] == [*rows, *more]


def test_a_table_can_be_added_and_columns_too(mysql_database: MysqlDatabase, changes):
    mysql_database.run(
        "create table a (id int primary key)", "create table b (id int primary key)", "insert into a values (1)"
    )
    assert ops(rows_of(changes("a").table("a"))[0]) == [(1, "read")]
    mysql_database.run("insert into b values (1)", "insert into a values (2)", "alter table a add column extra int")
    both = changes("a", "b")
    assert ops(rows_of(both.table("b"))[0]) == [(1, "read")]
    mysql_database.run(
        "insert into b values (2)", "insert into a values (3, 30)", "flush logs", "insert into a values (4, 40)"
    )
    assert ops(rows_of(both.table("b"))[0]) == [(1, "read"), (2, "insert")]
    assert ops(rows_of(both.table("a"))[0]) == [(1, "read"), (2, "insert"), (3, 30, "insert"), (4, 40, "insert")]


def test_changes_that_are_no_longer_kept(mysql_database: MysqlDatabase, changes, monkeypatch):
    mysql_database.run("create table t (id int primary key)", "create table u (id int primary key)")
    assert kept_changes(changes("t", "u", keep="1 day"), monkeypatch, mysql_database.run) == KEPT


def test_without_a_snapshot_only_changes_are_read(mysql_database: MysqlDatabase, changes):
    mysql_database.run("create table t (id int primary key)", "insert into t values (1)")
    table = changes("t", snapshot=False).table("t")
    assert rows_of(table)[0] == []
    mysql_database.run("insert into t values (2)")
    assert ops(rows_of(table)[0]) == [(2, "insert")]


VALUES = {
    "u bigint unsigned": ("18446744073709551615", Decimal(18446744073709551615)),
    "i tinyint": ("-7", -7),
    "n decimal(10, 2)": ("-1.50", Decimal("-1.50")),
    "f float": ("0.5", 0.5),
    "g double": ("0.1", 0.1),
    "day date": ("'2024-02-29'", dt.date(2024, 2, 29)),
    "at datetime(3)": ("'2024-02-29 10:00:00.5'", dt.datetime(2024, 2, 29, 10, 0, 0, 500000)),  # noqa: DTZ001 - it has no zone
    "zoned timestamp(6) null": ("'2024-02-29 10:00:00.123456'", dt.datetime(2024, 2, 29, 10, 0, 0, 123456, dt.UTC)),
    "clock time(1)": ("'-25:00:00.5'", "-25:00:00.5"),
    "bytes blob": ("x'00ff'", b"\x00\xff"),
    "fixed varbinary(4)": ("x'c328'", b"\xc3("),
    "kind enum('x', 'y')": ("'y'", "y"),
    "tags set('p', 'q', 'it''s')": ("'it''s,p'", "p,it's"),
    "y year": ("2024", 2024),
    "bits bit(5)": ("b'101'", "00101"),
    "doc json": ("'{\"a\": [1]}'", '{"a": [1]}'),
    "words text": ("'ü €'", "ü €"),
}


def test_values_are_the_same_from_the_snapshot_and_from_changes(mysql_database: MysqlDatabase, changes):
    mysql_database.run(
        f"create table v (id int primary key, {', '.join(VALUES)}) character set utf8mb4",
        f"insert into v values (1, {', '.join(text for text, _ in VALUES.values())})",
        "insert into v (id) values (2)",
    )
    table = changes("v").table("v")
    first, cursor = rows_of(table)
    expected = {name.split()[0]: value for name, (_, value) in VALUES.items()}
    without = [{name: value for name, value in row.items() if not name.startswith("_")} for row in first]
    assert without == [{"id": 1, **expected}, {"id": 2}]
    mysql_database.run(
        "delete from v where id = 1", f"insert into v values (3, {', '.join(text for text, _ in VALUES.values())})"
    )
    again, _ = rows_of(table, cursor)
    assert [{n: v for n, v in row.items() if not n.startswith("_")} for row in again] == [
        {"id": 1, **expected},
        {"id": 3, **expected},
    ]


DOCUMENTS = [
    '{"b": 1, "a": 1.10, "ü": "€😀", "": null}',
    '[true, false, null, [], {}, "", "/"]',
    "[0.1, -1.5, 100.0, 1e20, 1.7976931348623157e308, 1e-7, 5e-324, 1e15, 1e16, 123456789012345680, 0.0001, 0.00001]",
    "[-9223372036854775808, 18446744073709551615]",
    '"text"',
    "7",
]
"""In SQL."""


def test_documents_are_the_same_from_the_snapshot_and_from_changes(mysql_database: MysqlDatabase, changes):
    values = ", ".join(f"({number}, '{text}')" for number, text in enumerate(DOCUMENTS))
    mysql_database.run(
        "create table v (id int primary key, doc json) character set utf8mb4", f"insert into v values {values}"
    )
    table = changes("v").table("v")
    first, cursor = rows_of(table)
    mysql_database.run("delete from v", f"insert into v values {values}")
    again, _ = rows_of(table, cursor)
    parsed = [(row["id"], json.loads(row["doc"])) for row in first]
    assert parsed == [(number, json.loads(text)) for number, text in enumerate(DOCUMENTS)]
    assert [(row["id"], json.loads(row["doc"])) for row in again] == parsed * 2
    # of numbers, MySQL and Python print powers of ten in different ways
    plain = [row["doc"] for row in first if "e" not in row["doc"]]
    assert plain == [row["doc"] for row in again if "e" not in row["doc"]][: len(plain)]


def test_scalars_of_documents_keep_their_digits(mysql_database: MysqlDatabase, changes):
    if mysql_database.is_mariadb:
        pytest.skip("MariaDB stores the text of a document")
    made = "json_object('d', cast('1.50' as decimal(10, 2)), 'at', timestamp'2024-02-29 10:00:00.5')"
    mysql_database.run("create table v (id int primary key, doc json)", f"insert into v values (1, {made})")
    table = changes("v").table("v")
    first, cursor = rows_of(table)
    mysql_database.run(f"insert into v values (2, {made})")
    again, _ = rows_of(table, cursor)
    assert again[0]["doc"] == first[0]["doc"]


def test_a_part_of_a_document_is_an_error_and_not_a_lost_change(mysql_database: MysqlDatabase, changes):
    if mysql_database.is_mariadb:
        pytest.skip("MariaDB logs entire documents")
    document = json.dumps({"a": 1, "b": "x" * 100})
    mysql_database.run("create table v (id int primary key, doc json)", f"insert into v values (1, '{document}')")
    table = changes("v").table("v")
    rows_of(table)
    mysql_database.run("set binlog_row_value_options = 'PARTIAL_JSON'", "update v set doc = json_set(doc, '$.a', 2)")
    with pytest.raises(
        SourceError, match="has parts of JSON documents, from which rows cannot be made: got an update of v"
    ):
        rows_of(table)


def test_zero_values_are_the_same_from_the_snapshot_and_from_changes(mysql_database: MysqlDatabase, changes):
    columns = "kind enum('x') not null, tags set('p') not null, y year not null, moment timestamp(2) null, day date, at datetime(1)"
    no_dates = "'', '', 0"
    mysql_database.run(
        f"create table v (id int primary key, {columns})",
        "set sql_mode = ''",
        f"insert into v values (1, {no_dates}, '0000-00-00', null, null)",
    )
    table = changes("v").table("v")
    _, cursor = rows_of_texts(table)
    mysql_database.run(
        "set sql_mode = ''",
        f"insert into v values (2, {no_dates}, '0000-00-00', null, null)",
        f"insert into v values (3, {no_dates}, null, '0000-00-00', '2024-00-10')",
    )
    rows, _ = rows_of_texts(table)
    assert [row[1:] for row in rows] == [
        *[("", "", "0000", "0000-00-00 00:00:00.00", None, None)] * 2,
        ("", "", "0000", None, *["a date without a year, a month or a day"] * 2),
    ]
    [split] = table.plan(cursor).splits
    reading = table.read(split, table.schema(split.source_object))
    assert [reason.partition(":")[0] for reason in reading.rejected.column("reason").to_pylist()] == [
        "column 'moment' is not TIMESTAMPTZ",
        "column 'day' is not DATE",
    ]


def rows_of_texts(table) -> tuple[list[tuple[str | None, ...]], Cursor]:
    """Read all columns of a table as text."""
    plan = table.plan(None)
    rows: list[tuple[str | None, ...]] = []
    for split in plan.splits:
        names = [name for name in table.schema(split.source_object).names if not name.startswith("_")]
        reading = table.read(split, Schema.of(dict.fromkeys(names, "VARCHAR")))
        assert reading.rejected.num_rows == 0, reading.rejected.to_pylist()
        rows += [tuple(row.values()) for row in reading.rows.drop_columns(["_position"]).to_pylist()]
    return rows, plan.cursor


def test_a_session_that_does_not_log_entire_rows(mysql_database: MysqlDatabase, changes):
    mysql_database.run(
        "create table t (id int primary key, n int, name varchar(20) default 'x')",
        "insert into t values (1, 1, 'a'), (2, 2, 'b')",
    )
    table = changes("t").table("t")
    _, cursor = rows_of(table)
    mysql_database.run(
        "set session binlog_row_image = 'MINIMAL'",
        "update t set n = 3 where id = 1",
        "update t set id = 5 where id = 2",
        "insert into t (id, n) values (3, 4)",
        "insert into t values (4, 4, 'x')",
        "delete from t where id = 1",
    )
    [split] = table.plan(cursor).splits
    reading = table.read(split, table.schema(split.source_object))
    rows = reading.rows.select(["id", "n", "name", "_op", "_unavailable"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (1, 3, None, "update", ["name"]),
        (2, None, None, "delete", None),
        (4, 4, "x", "insert", None),
        (1, None, None, "delete", None),
    ]
    problem = "column '(n|name)' was not sent with a new row, or one with a new key, which is gone: .* binlog_row_image"
    lost = {json.loads(row["row"])["id"]: re.match(problem, row["reason"]) for row in reading.rejected.to_pylist()}
    assert {key: match and match[1] for key, match in lost.items()} == {"5": "n", "3": "name"}


FIFTY = ", ".join(f"({number}, {number})" for number in range(1, 51))


@pytest.mark.parametrize("seed", range(examples(1, 5)))
def test_kills_at_any_moment_lose_and_double_nothing(mysql_database: MysqlDatabase, changes, monkeypatch, seed: int):
    draw = random.Random(seed)  # noqa: S311 - a test
    mysql_database.run("create table t (id int primary key, n int)", f"insert into t values {FIFTY}")
    table, calls = changes("t").table("t"), Kills()
    monkeypatch.setattr(draining, "LOGGED_ROWS", 20)

    for name in ("append", "store"):
        monkeypatch.setattr(ChangeLog, name, calls.at(getattr(ChangeLog, name)))
    kills = 0
    while kills < 10:
        number = draw.randrange(1000)
        mysql_database.run(
            f"replace into t values ({1000 + number}, {number})",
            f"update t set n = n + 1 where id % 7 = {number % 7}",
            f"update t set id = id + 100000 where id = {number % 50}",
            f"delete from t where id % 50 = {number % 50}",
        )
        calls.after(draw.randrange(4))
        try:
            table.plan(None)
        except KilledError:
            kills += 1
    calls.after(None)
    current: dict[int, int] = {}
    rows, _ = rows_of(table)
    for row in sorted(rows, key=lambda row: row["_sequence"]):
        if row["_op"] == "delete":
            current.pop(row["id"])
        else:
            current[row["id"]] = row["n"]
    with mysql_database.connected() as con, con.cursor() as cursor:
        cursor.execute("select id, n from t")
        assert current == dict(cursor.fetchall())


def test_a_tail_delivers_changes_as_they_are_committed(mysql_database: MysqlDatabase, changes):
    mysql_database.run("create table t (id int primary key)")
    table = changes("t").table("t")
    [(uri, extent)] = table.extents().items()
    with table.tail({uri: extent.begin}) as tail:
        mysql_database.run("insert into t values (1)")
        assert tail.ready(10).offsets == {uri: 1}


def test_lost_changes_are_an_error_and_a_full_run_begins_again(mysql_database: MysqlDatabase, changes):
    mysql_database.run("create table t (id int primary key)", "insert into t values (1)")
    source = changes("t")
    table = source.table("t")
    _, cursor = rows_of(table)
    state = source.log.state()
    assert state is not None
    for changed, problem in (
        (replace(state, system="another"), "this is another server"),
        (replace(state, through=state.through + (1 << 40)), "ends before what was read"),
        (replace(state, through=5), "removed the binary log that was to be read next"),
    ):
        source.log.store(changed)
        with pytest.raises(SourceError, match=rf"changes are lost: .*{problem}.*run --full"):
            table.plan(cursor)
    assert ops(rows_of(table)[0]) == [(1, "read")]


@pytest.mark.parametrize("end", ["xa rollback 'x'", "xa commit 'x'"])
def test_changes_of_an_xa_transaction_are_an_error_and_never_rows(mysql_database: MysqlDatabase, changes, end: str):
    mysql_database.run("create table orders (id int primary key)", "create table other (id int primary key)")
    table = changes("orders").table("orders")
    _, cursor = rows_of(table)
    mysql_database.run("xa start 'x'", "insert into other values (1)", "xa end 'x'", "xa prepare 'x'", end)
    mysql_database.run("insert into orders values (1)")
    rows, cursor = rows_of(table, cursor)
    assert ops(rows) == [(1, "insert")]
    mysql_database.run("xa start 'x'", "insert into orders values (2)", "xa end 'x'", "xa prepare 'x'", end)
    mysql_database.run("insert into orders values (3)")
    with pytest.raises(SourceError, match=r"changes of XA transactions cannot be read.*got changes of 'orders'"):
        rows_of(table, cursor)


def test_what_cannot_be_read(mysql_database: MysqlDatabase, changes):
    with pytest.raises(SourceError, match="there is no such table: got missing"):
        changes("missing").table("missing").plan(None)
    with pytest.raises(DefinitionError, match="needs the name of a table"):
        changes()
    with pytest.raises(DefinitionError, match="this table is not read: got 'u'"):
        changes("t").table("u")
    with pytest.raises(SourceUnavailableError, match="MySQL is unavailable"):
        mysql_changes("mysql://u@127.0.0.1:9/db", "t").table("t").plan(None)
    mysql_database.run("create table t (id int primary key)")
    found = changes("t").table("t").check()
    assert "the binary log is at bin." in found[0].detail
    with connected(changes("t").address) as server:
        with pytest.raises(SourceError, match="MySQL refuses to deliver changes"):
            server.rows("select nothing")
        mysql_database.run("set global binlog_row_image = 'MINIMAL'")
        try:
            with pytest.raises(SourceError, match="entire rows with their names: got binlog_row_image = MINIMAL"):
                server.position()
        finally:
            mysql_database.run("set global binlog_row_image = 'FULL'")


def test_a_damaged_event_is_an_error_and_never_another_row(mysql_database: MysqlDatabase, changes):
    mysql_database.run("create table t (id int primary key, name varchar(20))")
    changes("t").table("t").plan(None)
    with connected(changes("t").address) as server:
        through = server.position().end
    mysql_database.run(
        "insert into t values (1, 'a'), (2, 'ü')", "update t set name = 'b'", "flush logs", "delete from t"
    )
    events: list[bytes] = []

    def delivered(damage: Damage) -> Iterator[list[RowChange]]:
        with damaged_packets(mysql_database.port, damage) as port:
            address = replace(changes("t").address, url=f"mysql://headwater@127.0.0.1:{port}/{mysql_database.name}")
            with connected(address) as server, transactions(server, through, ("t",)) as found:
                for transaction in found:
                    yield transaction.changes

    def recorded(_: int, event: bytes) -> bytes:
        events.append(event)
        return event

    right = list(delivered(recorded))
    assert len([change for each in right for change in each]) == 6
    bodies = [number for number, event in enumerate(events) if len(event) > EVENT_HEAD + 1]

    @settings(max_examples=examples(8, 200), deadline=None)
    @given(st.sampled_from(bodies), st.integers(0, 1000), st.integers(1, 255), st.booleans())
    def check(chosen: int, at: int, change: int, is_cut: bool) -> None:  # noqa: FBT001 - drawn
        def damaged(number: int, event: bytes) -> bytes:
            if number != chosen:
                return event
            place = EVENT_HEAD + at % (len(event) - EVENT_HEAD)
            return event[:place] if is_cut else event[:place] + bytes([event[place] ^ change]) + event[place + 1 :]

        seen: list[list[RowChange]] = []
        try:
            seen.extend(delivered(damaged))
        except SourceError as error:
            assert "the binary log has an event that cannot be decoded: got" in str(error)  # noqa: PT017
            assert seen == right[: len(seen)]
        else:
            assert seen == right

    check()


def test_a_column_that_was_dropped_is_in_earlier_changes(mysql_database: MysqlDatabase, changes):
    mysql_database.run("create table t (id int primary key, gone int)")
    table = changes("t").table("t")
    _, cursor = rows_of(table)
    mysql_database.run("insert into t values (1, 10)", "alter table t drop column gone", "insert into t values (2)")
    assert ops(rows_of(table, cursor)[0]) == [(1, 10, "insert"), (2, "insert")]
