"""The readers of tables of other engines under the exported contract."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from pipeline import delta_sharing, delta_table, iceberg_table
from pipeline.core.cursors import ReadPlan
from pipeline.core.schema import Schema
from pipeline.testing import ReaderContract, World
from tests.rigs.http_faults import http_server
from tests.rigs.iceberg import IcebergCatalog
from tests.rigs.sharing_server import SharingServer

SCHEMA = {"id": "bigint", "name": "varchar", "at": "timestamptz"}


def rows(numbers: range) -> pa.Table:
    columns = {
        "id": pa.array(numbers, pa.int64()),
        "name": ["n" if number % 3 else None for number in numbers],
        "at": pa.array([number * 10**6 for number in numbers], pa.timestamp("us", "UTC")),
    }
    return pa.table(columns)


class DeltaWorld:
    """A table to which two data files are added at a time, in two versions."""

    def __init__(self, folder: Path, *, changes: bool) -> None:
        self.reader = delta_table(folder / "t", changes=changes)
        feed = {"_change_type": "varchar", "_commit_version": "bigint", "_commit_timestamp": "timestamptz"}
        self.schema = {**SCHEMA, **feed} if changes else SCHEMA
        self._folder, self._numbers, self._changes = folder, itertools.count(), changes

    def produce(self) -> int:
        for number in itertools.islice(self._numbers, 2):
            write_deltalake(
                str(self._folder / "t"),
                rows(range(number * 3, number * 3 + 3)),
                mode="append",
                configuration={"delta.enableChangeDataFeed": "true"} if self._changes else None,
            )
        return 6


class IcebergWorld:
    """A table to which two data files are appended at a time, in two snapshots."""

    schema = SCHEMA

    def __init__(self, catalog: IcebergCatalog) -> None:
        self.reader = iceberg_table("shop.t", catalog=catalog.properties)
        self._table, self._numbers = catalog.create("t", rows(range(3)).schema), itertools.count()

    def produce(self) -> int:
        for number in itertools.islice(self._numbers, 2):
            self._table.append(rows(range(number * 3, number * 3 + 3)))
        return 6


class TestIcebergTable(ReaderContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[World]:
        catalog = IcebergCatalog(tmp_path)
        yield IcebergWorld(catalog)
        catalog.close()


class SharedWorld(DeltaWorld):
    """The same table, shared by a server."""

    def __init__(self, folder: Path, server: SharingServer, profile: Path) -> None:
        super().__init__(folder, changes=False)
        profile.write_text(server.profile)
        self.reader = delta_sharing(profile, "market", "public", "trades", allowed_hosts=("localhost",))


class TestDeltaSharing(ReaderContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[World]:
        with http_server() as running:
            yield SharedWorld(tmp_path, SharingServer(running, tmp_path / "t"), tmp_path / "profile.share")


class TestDeltaTable(ReaderContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return DeltaWorld(tmp_path, changes=False)


class TestDeltaChanges(ReaderContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return DeltaWorld(tmp_path, changes=True)

    def test_a_full_run_gives_the_same(self, world: World) -> None:
        """A full run reads the rows of the newest version as inserts, and keeps none of their history."""
        world.produce()
        first = world.reader.plan(None)
        world.produce()
        later = world.reader.plan(first.cursor)
        full = world.reader.plan(None)
        incremental = kept(world, first) + kept(world, later)
        assert {row["_commit_version"] for row in incremental} == {1, 2, 3}
        assert {(row["_change_type"], row["_commit_version"]) for row in kept(world, full)} == {("insert", 3)}
        assert sorted(map(content, kept(world, full))) == sorted(map(content, incremental))


def kept(world: World, plan: ReadPlan) -> list[dict[str, Any]]:
    schema = Schema.of(world.schema)
    return [row for split in plan.splits for row in world.reader.read(split, schema).rows.to_pylist()]


def content(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["id"], str(row["name"]), row["at"]
