"""Deleted rows: marked by a condition, or missing when the keys are compared; each against its real database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline import mysql, sqlite
from pipeline import postgres as read_postgres
from pipeline.commit.moments import Moment
from pipeline.connectors.databases import cursor_window
from pipeline.connectors.databases.cursor_window import QueryRange
from pipeline.core.errors import DefinitionError, SourceError
from pipeline.core.graph import Graph
from pipeline.project import Project, Workspace
from pipeline.runner import Runner
from tests.rigs.shop import SCHEMA, Shop


def sqlite_shop(folder: Path, **options: Any) -> Shop:
    path = folder / "shop.db"

    def run(statement: str) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as con:
            con.execute(statement)

    run("create table t (id integer primary key, v text, at text)")
    run(
        "insert into t select value, 'a', '2026-01-01 00:00:0' || value from (select 1 as value union select 2 union select 3)"
    )
    return Shop(folder, sqlite(path, "t", cursor="at", **options), run)


@pytest.fixture
def shop(tmp_path):
    return sqlite_shop(tmp_path, reconcile="1 day")


def test_a_row_that_vanished_is_deleted_when_the_keys_are_compared(shop):
    shop.run()
    shop.run("delete from t where id = 2", hours=23)
    assert shop.rows() == [(1, "a"), (2, "a"), (3, "a")]
    assert shop.run(hours=1) == ["append", "merge"]
    assert shop.rows() == [(1, "a"), (3, "a")]
    assert shop.run() == ["skip", "skip"]

    shop.run("insert into t values (2, 'again', '2026-01-02 00:00:00')")
    assert shop.rows() == [(1, "a"), (2, "again"), (3, "a")]
    shop.run("delete from t where id = 2", "update t set v = 'b', at = '2026-01-03 00:00:00' where id = 1", hours=24)
    assert shop.rows() == [(1, "b"), (3, "a")]


def test_a_comparison_that_finds_nothing_is_not_repeated(shop):
    shop.run()
    assert shop.run(hours=24)[0] == "append"
    assert shop.run(hours=23) == ["skip", "skip"]
    assert shop.rows() == [(1, "a"), (2, "a"), (3, "a")]
    assert shop.run("delete from t where id in (1, 2, 3)", hours=1)[0] == "append"
    assert shop.rows() == []


@pytest.mark.parametrize("moment", [Moment.DECIDED, Moment.STAGED, Moment.COMMITTED])
def test_a_run_that_dies_loses_and_doubles_no_delete(shop, moment):
    class DiedError(Exception):
        pass

    def die(event: Any) -> None:
        if event.moment is moment:
            raise DiedError

    shop.run()
    with pytest.raises(DiedError):
        shop.run("delete from t where id = 2", hours=24, observer=die)
    shop.run()
    assert shop.rows() == [(1, "a"), (3, "a")]
    assert len(shop.rows("raw")) == 4


def test_marked_rows_are_deleted_and_come_back(tmp_path):
    shop = sqlite_shop(tmp_path, deleted_when="v = 'gone'", reconcile="1 day")
    shop.run()
    shop.run("update t set v = 'gone', at = '2026-01-02' where id = 2")
    assert shop.rows() == [(1, "a"), (3, "a")]
    shop.run("update t set v = 'back', at = '2026-01-03' where id = 2")
    assert shop.rows() == [(1, "a"), (2, "back"), (3, "a")]


def test_rows_that_do_not_fit_are_rejected_beside_the_mark(tmp_path):
    shop = sqlite_shop(tmp_path, deleted_when="v = 'gone'", reconcile="1 day")
    shop.run("insert into t values (9, x'00', '2026-01-09')")
    assert shop.rows() == [(1, "a"), (2, "a"), (3, "a")]
    workspace = Workspace(shop.project())
    assert workspace.lake.quarantine("raw").version().rows == 1


def test_new_columns_are_added_when_keys_are_compared(shop):
    shop.options["new_columns"] = "evolve"
    shop.run()
    shop.run(
        "alter table t add column new text",
        "insert into t values (4, 'a', '2026-02-01', 'x')",
        "delete from t where id = 1",
    )
    shop.run(hours=24)
    assert shop.rows() == [(2, "a"), (3, "a"), (4, "a")]
    assert Workspace(shop.project()).query("select new from raw where id = 4").to_pylist() == [{"new": "x"}]


def test_keys_of_several_columns_of_any_type(tmp_path):
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as con:
        con.execute("create table t (a text, id integer, v text, at text, primary key (a, id))")
        con.execute("insert into t values ('x:1', 1, 'a', '1'), ('x', 11, 'b', '2'), ('y', 1, 'c', '3')")
        reader = sqlite(path, "t", cursor="at", reconcile="1 day")
        shop = Shop(tmp_path, reader, print, schema={"a": "varchar", **SCHEMA, "at": "varchar"})
        shop.run()
        con.execute("delete from t where id = 11")
        shop.run(hours=24)
    rows = Workspace(shop.project()).query("select a, id from raw where _deleted").to_pylist()
    assert rows == [{"a": "x", "id": 11}]


def test_a_large_table_is_compared_range_by_range(shop, monkeypatch):
    monkeypatch.setattr(cursor_window, "SPLIT_ROWS", 10)
    monkeypatch.setattr(cursor_window, "_KEYS_PER_SPLIT", 7)
    many = "with recursive n(i) as (select 4 union all select i + 1 from n where i < 200) "
    shop.run(f"insert into t {many} select i, 'm', '2026-01-02' from n")
    shop.run("delete from t where id % 2 = 0", hours=24)
    assert [row[0] for row in shop.rows()] == list(range(1, 201, 2))


def test_postgres(pg, tmp_path):
    pg.run(
        "create table t (id bigint primary key, v text, at timestamp, deleted_at timestamptz)",
        "insert into t select n, 'a', timestamp '2026-01-01' + n * interval '1 s', null from generate_series(1, 5) n",
    )
    reader = read_postgres(
        pg.url,
        "public.t",
        columns=["id", "v", "at"],
        cursor="at",
        deleted_when="deleted_at is not null",
        reconcile="1 day",
    )
    shop = Shop(tmp_path, reader, pg.run)
    shop.run()
    shop.run("update t set deleted_at = now(), at = '2026-02-01' where id = 1", "delete from t where id = 2")
    assert [row[0] for row in shop.rows()] == [2, 3, 4, 5]
    shop.run("insert into t values (6, 'late', 'infinity', null)", hours=24)
    assert [row[0] for row in shop.rows()] == [3, 4, 5]


def test_postgres_keys_are_compared_with_their_values(pg, tmp_path):
    pg.run(
        "create table t (k timestamptz, d numeric(9,2), u uuid, v text, at timestamp, primary key (k, d, u))",
        "insert into t values ('2026-01-01 00:00:00.5+02', 1.50, '00000000-0000-0000-0000-000000000001', 'a', '2026-01-01')",
        "insert into t values ('2026-01-01 00:00:00.5+01', 1.50, '00000000-0000-0000-0000-000000000001', 'b', '2026-01-01')",
    )
    schema = {"k": "timestamptz", "d": "decimal(9,2)", "u": "varchar", "v": "varchar", "at": "timestamp", "_deleted": "boolean"}  # fmt: skip
    shop = Shop(tmp_path, read_postgres(pg.url, "t", cursor="at", reconcile="1 day"), pg.run, schema=schema)
    project = shop.project()
    raw = Project(project.settings, Graph.of([project.graph["raw"]]))
    Runner(raw).run()
    pg.run("delete from t where v = 'a'")
    shop.time += timedelta(days=1)
    Runner(raw).run()
    gone = Workspace(raw).query("select k, d, u, v from raw where _deleted").to_pylist()
    assert [(str(row["k"])[:22], str(row["d"]), row["v"]) for row in gone] == [("2025-12-31 22:00:00.50", "1.50", None)]


def test_mariadb(maria, tmp_path):
    maria.run(
        "create table t (id int primary key, v varchar(9), at datetime)",
        "insert into t values (1, 'a', '2026-01-01'), (2, 'a', '2026-01-02'), (3, 'x', '2026-01-03')",
    )
    reader = mysql(maria.url, "t", cursor="at", deleted_when="v = 'x'", reconcile="1 day")
    shop = Shop(tmp_path, reader, maria.run)
    shop.run()
    assert [row[0] for row in shop.rows()] == [1, 2]
    shop.run("delete from t where id = 1", hours=24)
    assert [row[0] for row in shop.rows()] == [2]


def test_options():
    with pytest.raises(DefinitionError, match="reconcile= needs the name of a column as cursor="):
        sqlite("a.db", "t", reconcile="1 day")
    with pytest.raises(DefinitionError, match="deleted_when= must be a condition"):
        sqlite("a.db", "t", deleted_when=" ")
    for cursor in (None, "xmin"):
        with pytest.raises(DefinitionError, match="need the name of a column as cursor="):
            read_postgres("postgresql://h/d", "t", cursor=cursor, deleted_when="true")


def test_the_fingerprint_changes_only_with_the_column():
    plain, marked = sqlite("a.db", "t", cursor="c"), sqlite("a.db", "t", cursor="c", deleted_when="x")
    daily, hourly = (sqlite("a.db", "t", cursor="c", reconcile=every) for every in ("1 day", "1 hour"))
    assert daily.fingerprint == hourly.fingerprint
    assert len({plain.fingerprint, marked.fingerprint, daily.fingerprint}) == 3


def test_the_key_must_be_in_the_table_of_the_source(tmp_path):
    shop = sqlite_shop(tmp_path, columns=["v", "at"], reconcile="1 day")
    shop.options["schema"] = {name: kind for name, kind in SCHEMA.items() if name != "id"}
    raw = Project(shop.project().settings, Graph.of([shop.project().graph["raw"]]))
    Runner(raw).run()
    shop.time += timedelta(days=1)
    with pytest.raises(SourceError, match="lacks a column: got 'id'; add it to schema=, and to columns="):
        Runner(raw).run()


def test_a_source_without_a_table_cannot_be_compared(tmp_path):
    shop = sqlite_shop(tmp_path, reconcile="1 day")
    shop.options["stored"] = False
    with pytest.raises(DefinitionError, match="has no table to compare its keys with; remove stored=False"):
        shop.run()


def test_a_range_of_vanished_keys_survives_as_text():
    part = QueryRange(identity=("a", "b"), vanished=(("1", "x"), ("2", 'y"')))
    assert QueryRange.of(part.stamp()) == part
    assert "vanished" not in QueryRange("x > 1").stamp()
