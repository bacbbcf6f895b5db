"""Change data of a real PostgreSQL server: lost slots, missing rights, damaged logs, and definitions that are refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from pipeline import postgres_changes
from pipeline.connectors.databases.changes.log import ChangeLog
from pipeline.connectors.databases.postgres_changes import draining
from pipeline.connectors.databases.postgres_changes.server import ChangeServer, SlotInUseError, connected
from pipeline.core.errors import DefinitionError, SourceError, SourceUnavailableError
from tests.rigs.changes import ops, rows_of
from tests.rigs.postgres import PostgresDatabase
from tests.rigs.postgres_changes import changes as changes  # noqa: PLC0414 - the fixture


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
