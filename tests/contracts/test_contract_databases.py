"""What PostgreSQL has alone, and MongoDB, under the exported contract; see test_contract_sql_systems.py for the rest."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline import mongodb
from pipeline import postgres as read_postgres
from pipeline.testing import ReaderContract, World
from tests.rigs.ferret import MongoDatabase
from tests.rigs.ferret import ferret as ferret  # noqa: PLC0414 - the fixture
from tests.rigs.ferret import mongo as mongo  # noqa: PLC0414 - the fixture
from tests.rigs.postgres import PostgresDatabase
from tests.rigs.postgres import pg as pg  # noqa: PLC0414 - the fixture
from tests.rigs.postgres import pg_database as pg_database  # noqa: PLC0414 - the fixture
from tests.rigs.postgres import postgres as postgres  # noqa: PLC0414 - the fixture

SCHEMA = {"id": "bigint", "name": "varchar", "at": "timestamp"}


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
