"""The readers of databases under the exported contract, each against its real system."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pipeline import adbc, duckdb_file, mongodb, mysql, sql_database, sqlite
from pipeline import postgres as read_postgres
from pipeline.testing import ReaderContract, World
from tests.rigs.ferret import MongoDatabase
from tests.rigs.ferret import ferret as ferret  # noqa: PLC0414 - the fixture
from tests.rigs.ferret import mongo as mongo  # noqa: PLC0414 - the fixture
from tests.rigs.mysql import MysqlDatabase
from tests.rigs.mysql import mariadb as mariadb  # noqa: PLC0414 - the fixture
from tests.rigs.mysql import mysql_database as mysql_database  # noqa: PLC0414 - the fixture
from tests.rigs.mysql import mysql_server as mysql_server  # noqa: PLC0414 - the fixture
from tests.rigs.postgres import PostgresDatabase
from tests.rigs.postgres import pg as pg  # noqa: PLC0414 - the fixture
from tests.rigs.postgres import pg_database as pg_database  # noqa: PLC0414 - the fixture
from tests.rigs.postgres import postgres as postgres  # noqa: PLC0414 - the fixture

SCHEMA = {"id": "bigint", "name": "varchar", "at": "timestamp"}
MARKED = {**SCHEMA, "_deleted": "boolean"}


class PostgresWorld:
    """A table to which rows are added; of every three rows, one has an infinite time, and two have equal cursors."""

    schema = SCHEMA

    def __init__(self, database: PostgresDatabase, cursor: str | None, tail: str = "") -> None:
        database.run(f"create table rows (id bigint primary key, name text, at timestamp, changed timestamptz) {tail}")
        if tail:
            database.run(
                "create table rows_1 partition of rows for values from (0) to (7)",
                "create table rows_2 partition of rows for values from (7) to (1000)",
            )
        self.reader = read_postgres(database.url, "public.rows", columns=["id", "name", "at"], cursor=cursor)
        self._database, self._numbers = database, itertools.count()

    def produce(self) -> int:
        for number in itertools.islice(self._numbers, 2):
            values = ", ".join(
                f"({number * 3 + i}, 'n{i}', '{'infinity' if i == 1 else '2026-01-01'}', timestamptz '2026-01-01' + interval '{number * 3 + min(i, 1)} minutes')"
                for i in range(3)
            )
            self._database.run(f"insert into rows values {values}")
        return 6


class TestPostgresTable(ReaderContract):
    @pytest.fixture
    def world(self, pg: PostgresDatabase) -> World:
        return PostgresWorld(pg, None)


class TestPostgresByTransaction(ReaderContract):
    @pytest.fixture
    def world(self, pg: PostgresDatabase) -> World:
        return PostgresWorld(pg, "xmin")


class TestPostgresByColumn(ReaderContract):
    @pytest.fixture
    def world(self, pg: PostgresDatabase) -> World:
        return PostgresWorld(pg, "changed")


class TestPostgresPartitions(ReaderContract):
    @pytest.fixture
    def world(self, pg: PostgresDatabase) -> World:
        return PostgresWorld(pg, None, "partition by range (id)")


class FileWorld:
    """A table in a file of SQLite or DuckDB; of every three rows, one does not fit, and two have equal cursors."""

    schema = SCHEMA

    def __init__(self, reader, run, wrong, *, quote: bool = True) -> None:
        at = '"at"' if quote else "at"
        columns = f"id bigint primary key, name varchar(20), {at} timestamp null, changed timestamp null"
        run(f"create table items ({columns})")
        self.reader, self._run, self._wrong, self._numbers = reader, run, wrong, itertools.count()

    def produce(self) -> int:
        for number in itertools.islice(self._numbers, 2):
            for i in range(3):
                changed = f"'2026-01-01 00:{number * 3 + min(i, 1):02}:00'"
                name, at = ("'n'", "'2026-01-01 00:00:00'") if i != 1 else self._wrong
                self._run(f"insert into items values ({number * 3 + i}, {name}, {at}, {changed})")
        return 6


COLUMNS = ["id", "name", "at"]


class TestSqlite(ReaderContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[World]:
        with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as con:
            reader = sqlite(tmp_path / "a.db", "items", columns=COLUMNS, cursor="changed", lag="1 hour")
            yield FileWorld(reader, con.execute, ("x'00'", "null"))


class MarkedWorld(FileWorld):
    """The same table, whose rows have the column `_deleted`."""

    schema = MARKED


class TestSqliteWithDeletes(ReaderContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[World]:
        with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as con:
            marks = {"deleted_when": "name = 'gone'", "reconcile": "1 day"}
            reader = sqlite(tmp_path / "a.db", "items", columns=COLUMNS, cursor="changed", **marks)
            yield MarkedWorld(reader, con.execute, ("x'00'", "null"))


class TestDuckdbFile(ReaderContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        path = str(tmp_path / "a.duckdb")

        def run(statement: str) -> None:
            with duckdb.connect(path) as con:
                con.execute(statement)

        reader = duckdb_file(path, "items", columns=COLUMNS, cursor="changed")
        return FileWorld(reader, run, ("'n'", "'infinity'"))


class TestMysql(ReaderContract):
    @pytest.fixture
    def world(self, mysql_database: MysqlDatabase) -> World:
        def run(statement: str) -> None:
            mysql_database.run("set sql_mode = ''", statement)

        reader = mysql(mysql_database.url, "items", columns=COLUMNS, cursor="changed", lag="10 minutes")
        return FileWorld(reader, run, ("'n'", "'0000-00-00'"), quote=False)


class AlchemyWorld(PostgresWorld):
    """The same table; infinity cannot be converted by the driver, so no row is rejected."""

    def __init__(self, database: PostgresDatabase, reader) -> None:
        super().__init__(database, None)
        self.reader = reader

    def produce(self) -> int:
        for number in itertools.islice(self._numbers, 2):
            rows = [
                f"({number * 3 + i}, 'n{i}', '2026-01-01', '2026-01-01 00:{number * 3 + i:02}:00Z')" for i in range(3)
            ]
            self._database.run(f"insert into rows values {', '.join(rows)}")
        return 6


class TestSqlDatabase(ReaderContract):
    @pytest.fixture
    def world(self, pg: PostgresDatabase) -> World:
        url = pg.url.replace("postgresql:", "postgresql+psycopg:")
        return AlchemyWorld(pg, sql_database(url, "public.rows", columns=COLUMNS, cursor="changed", lag="5 minutes"))


class TestAdbc(ReaderContract):
    @pytest.fixture
    def world(self, pg: PostgresDatabase) -> World:
        reader = adbc("adbc_driver_postgresql", pg.url, "public.rows", columns=COLUMNS, key="id", cursor="changed")
        return AlchemyWorld(pg, reader)


class MongoWorld:
    """A collection; of every three documents, one has a text as its number, and two have equal cursors."""

    def __init__(self, database: MongoDatabase, **deletes: Any) -> None:
        marks = {"_deleted": "boolean"} if deletes else {}
        self.schema = {"_id": "bigint", "name": "varchar", "n": "integer", "changed": "timestamptz", **marks}
        self.reader = mongodb(database.url, "items", cursor="changed", lag="1 minute", **deletes)
        self._database, self._numbers = database, itertools.count()

    def produce(self) -> int:
        for number in itertools.islice(self._numbers, 2):
            start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=number * 3)
            self._database.insert(
                "items",
                *(
                    {
                        "_id": number * 3 + i,
                        "name": "n",
                        "n": "word" if i == 1 else i,
                        "changed": start + timedelta(minutes=min(i, 1)),
                    }
                    for i in range(3)
                ),
            )
        return 6


class TestMongodb(ReaderContract):
    @pytest.fixture
    def world(self, mongo: MongoDatabase) -> World:
        return MongoWorld(mongo)


class TestMongodbWithDeletes(ReaderContract):
    @pytest.fixture
    def world(self, mongo: MongoDatabase) -> World:
        return MongoWorld(mongo, deleted_when={"n": 2}, reconcile="1 day")
