"""Change data under the exported contract, against a real server."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import mysql_changes, postgres_changes
from pipeline.testing import ReaderContract, World
from tests.rigs.mysql import MysqlDatabase
from tests.rigs.mysql import mariadb as mariadb  # noqa: PLC0414 - the fixture
from tests.rigs.mysql import mysql_database as mysql_database  # noqa: PLC0414 - the fixture
from tests.rigs.mysql import mysql_server as mysql_server  # noqa: PLC0414 - the fixture
from tests.rigs.postgres import PostgresDatabase
from tests.rigs.postgres import pg as pg  # noqa: PLC0414 - the fixture
from tests.rigs.postgres import pg_database as pg_database  # noqa: PLC0414 - the fixture
from tests.rigs.postgres import postgres as postgres  # noqa: PLC0414 - the fixture


class ChangesWorld:
    """A table that is changed; of every six changes, one has an infinite time."""

    schema = {"id": "bigint", "name": "varchar", "at": "timestamp", "_op": "varchar", "_sequence": "varchar"}  # noqa: RUF012

    def __init__(self, database: PostgresDatabase, folder: Path) -> None:
        database.run("create table rows (id bigint primary key, name text, at timestamp)")
        self.slot = f"hw_{uuid.uuid4().hex[:12]}"
        self.reader = postgres_changes(database.url, "rows", slot=self.slot, spool=str(folder)).table("rows")
        self._database, self._numbers = database, itertools.count(0, 3)
        self.reader.plan(None)  # what comes from here on are changes

    def produce(self) -> int:
        number = next(self._numbers)
        self._database.run(
            f"insert into rows values ({number}, 'a', '2026-01-01'), ({number + 1}, null, 'infinity'), ({number + 2}, 'a', null)",
            f"update rows set name = 'b' where id in ({number}, {number + 2})",
            f"delete from rows where id = {number + 1}",
        )
        return 6


class TestPostgresChanges(ReaderContract):
    @pytest.fixture
    def world(self, pg: PostgresDatabase, tmp_path: Path) -> Iterator[World]:
        world = ChangesWorld(pg, tmp_path / "changes")
        yield world
        pg.run(f"select pg_drop_replication_slot('{world.slot}')")


class MysqlChangesWorld:
    """A table that is changed."""

    schema = {"id": "bigint", "name": "varchar", "_op": "varchar", "_sequence": "varchar"}  # noqa: RUF012

    def __init__(self, database: MysqlDatabase, folder: Path) -> None:
        database.run("create table changed (id bigint primary key, name text)")
        self.reader = mysql_changes(database.url, "changed", spool=str(folder)).table("changed")
        self._database, self._numbers = database, itertools.count(0, 2)
        self.reader.plan(None)  # what comes from here on are changes

    def produce(self) -> int:
        number = next(self._numbers)
        self._database.run(
            f"insert into changed values ({number}, 'a'), ({number + 1}, null)",
            f"update changed set name = 'b' where id = {number}",
            f"delete from changed where id = {number + 1}",
        )
        return 4


class TestMysqlChanges(ReaderContract):
    @pytest.fixture
    def world(self, mysql_database: MysqlDatabase, tmp_path: Path) -> World:
        pytest.importorskip("pymysqlreplication", reason="no reader of binary logs: pip install 'headwater[mysql]'")
        return MysqlChangesWorld(mysql_database, tmp_path / "changes")
