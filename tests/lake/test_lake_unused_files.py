"""Vacuum removes exactly the files that no readable version needs, whatever clocks show, and whoever is in between."""

from __future__ import annotations

import datetime as dt
import json
import os
import time
import uuid
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from deltalake import DeltaTable

from pipeline.core.as_of import AsOf
from pipeline.core.errors import StorageError
from pipeline.core.lake_policy import LakePolicy
from pipeline.kernel.engine import connect
from pipeline.lake import Lake, compact, plan_vacuum, vacuum
from pipeline.lake.holds import Hold, place_hold, release_hold
from pipeline.lake.log_files import LogFiles
from pipeline.lake.maintenance_claims import FOLDER as CLAIMS
from pipeline.lake.unused_files import CLOCK
from tests.lake.conftest import Writer
from tests.lake.test_lake_time import committed_at

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


def age(table, number: int, days: float) -> None:
    """Let a version and its files be some days old, by the clocks of the writer and of the store."""
    moment = NOW - days * DAY
    committed_at(table, number, moment)
    root = Path(table.storage.uri)
    entry = root / "_delta_log" / f"{number:020}.json"
    adds = [json.loads(line)["add"]["path"] for line in entry.read_text().splitlines() if line.startswith('{"add"')]
    for path in (entry, *(root / unquote(name) for name in adds)):
        os.utime(path, (moment.timestamp(), moment.timestamp()))


def orphan(table, name: str, days: float) -> None:
    path = Path(table.storage.uri, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    os.utime(path, ((NOW - days * DAY).timestamp(),) * 2)


@pytest.fixture
def aged(writer):
    """A table whose versions 0 to 5 replaced each other 10, 9, 8, 6, 2 and 0.1 days ago."""
    w = writer()
    w.table = replace(w.table, policy=LakePolicy(history=7 * DAY))
    for number, days in enumerate((10, 9, 8, 6, 2, 0.1)):
        w.write(f"select {number} as a", f"r{number}", "overwrite", w.table.version() if number else None)
        age(w.table, number, days)
    return w


def readable(table) -> list[int]:
    """Assert that each version in the log has all its rows, and return their numbers."""
    numbers = list(LogFiles.of(table.storage).readable())
    for number in numbers:
        version = table.version(number)
        assert version.manifest is not None
        with connect() as con:
            assert len(con.execute(version.scan().query()).fetchall()) == version.rows
    return numbers


def data_files(table) -> list[str]:
    return list(table.storage.names("part-"))


def test_files_that_no_readable_version_needs_are_removed(aged):
    """
    version     0    1    2    3    4    5
    days ago    10   9    8    6    2    0.1
    replaced    9    8    6    2    0.1  never     version 2 was replaced 6 days ago, so it can be read for a day more
    """
    table = aged.table
    plan = plan_vacuum(table)
    assert (plan.oldest, plan.versions, len(plan.files)) == (2, 2, 2)
    assert plan.size_bytes > 0
    assert len(readable(table)) == 6

    assert vacuum(table) == plan

    assert readable(table) == [2, 3, 4, 5]
    assert len(data_files(table)) == 4
    assert table.storage.names(CLAIMS) == ()
    with pytest.raises(StorageError, match=r"version 1 of table 't' can no longer be read; .* can be read is 2"):
        table.version_as_of(AsOf(versions={"t": 1}))
    assert vacuum(table).files == {}
    seen = table.version()
    assert aged.write("select 6 as a", "r6", "append", seen).rows == 2
    change = table.added_since(seen.number, seen.manifest_id, table.version())
    assert [file.rows for file in change] == [1]


def test_policies_and_holds_keep_versions(aged):
    table = replace(aged.table, policy=LakePolicy(history=dt.timedelta(), min_versions=2))
    place_hold(table.storage, Hold("a", 1, "model m 1"))
    place_hold(table.storage, Hold("over", 2, "environment dev", until=(NOW - DAY).isoformat()))
    assert vacuum(table).oldest == 4
    assert readable(table) == [1, 4, 5]
    assert table.version(1).rows == 1
    release_hold(table.storage, "a")
    assert plan_vacuum(table).versions == 1
    vacuum(table)
    assert len(data_files(table)) == 2
    assert readable(replace(table)) == [4, 5]


def test_files_of_killed_writers_are_removed_after_a_day(aged):
    table = aged.table
    orphan(table, "part-dead-00000.parquet", 1.5)
    orphan(table, "p=1/part-dead-00001.parquet", 1.5)
    orphan(table, "_headwater/state/x.arrows", 1.5)
    orphan(table, "_headwater/part-dead-tombstones-00000.parquet", 1.5)
    orphan(table, f"_headwater/{7:016x}.json", 1.5)
    orphan(table, "part-running-00000.parquet", 0.9)
    orphan(table, "_headwater/savepoints/a/x.arrows", 9)
    orphan(table, "_headwater/log/x", 9)
    orphan(table, "kept.parquet", 9)
    gone = set(vacuum(table, keep={"kept.parquet"}).files)
    assert {name for name in gone if "dead" in name or "state" in name} == {
        "part-dead-00000.parquet",
        "p=1/part-dead-00001.parquet",
        "_headwater/part-dead-tombstones-00000.parquet",
        "_headwater/state/x.arrows",
    }
    assert f"_headwater/{7:016x}.json" in gone
    assert all(table.storage.has(name) for name in ("part-running-00000.parquet", "kept.parquet", "_headwater/log/x"))
    assert table.storage.has("_headwater/savepoints/a/x.arrows")


def test_clocks_that_jump_remove_nothing_early(aged):
    table = aged.table
    before = plan_vacuum(table)
    assert plan_vacuum(table, clock=lambda: NOW + 30 * DAY) == before  # this machine's clock is a month ahead
    assert plan_vacuum(table, clock=lambda: NOW - 3 * DAY).versions == 0  # or behind
    for number in (3, 4, 5):  # the clock of their writer was a year behind: they claim to be older than version 2
        committed_at(table, number, NOW - 365 * DAY)
        path = Path(table.storage.uri, "_delta_log", f"{number:020}.json")
        received = {3: 6, 4: 2, 5: 0.1}[number]
        os.utime(path, ((NOW - received * DAY).timestamp(),) * 2)
    assert plan_vacuum(table) == before
    committed_at(table, 1, NOW + 300 * DAY)  # and one was ahead
    assert plan_vacuum(table).versions == 0
    assert readable(table) == list(range(6))


def test_compacted_files_stay_while_their_versions_can_be_read(writer):
    w = writer(partition_by=("p",))
    w.table = replace(w.table, policy=LakePolicy(history=3 * DAY))
    for number in range(8):
        w.write(f"select {number} as a, 'x y' as p", f"r{number}", "append", w.table.version() if number else None)
    compact(w.table, w.table.head())
    for number in range(8):
        age(w.table, number, 20 - number)
    age(w.table, 8, 2)
    assert vacuum(w.table).oldest == 7
    assert readable(w.table) == [7, 8]
    age(w.table, 8, 4)
    w.write("select 9 as a, 'x y' as p", "r9", "append", w.table.version())
    age(w.table, 9, 3.5)
    assert len([name for name in vacuum(w.table).files if name.startswith("p=")]) == 8
    assert readable(w.table) == [9]
    assert [file.rows for file in w.table.version().files] == [8, 1]
    assert len(w.table.storage.names("p=")) == 2


def test_files_of_another_engines_compaction_are_kept(aged):
    table = aged.table
    for number in range(6, 9):
        aged.write(f"select {number} as a", f"r{number}", "append", table.version())
    DeltaTable(table.storage.uri).optimize.compact()
    newest = table.number()
    for number in range(6, newest):
        age(table, number, 5 - number / 10)
    rewritten = {file.uri for file in table.version().files}
    age(table, newest, 3)
    vacuum(table)
    assert rewritten == {file.uri for file in table.version().files}
    assert readable(table)[-1] == newest


def test_vacuum_on_an_object_store(s3):
    w = Writer(Lake(s3.storage(uuid.uuid4().hex)).table("silver", "t"))
    assert vacuum(w.table).oldest is None
    w.table = replace(w.table, policy=LakePolicy(history=dt.timedelta()))
    for number in range(5):
        w.write(f"select {number} as a", f"r{number}", "overwrite", w.table.version() if number else None)
    assert abs(w.table.storage.time(CLOCK) - dt.datetime.now(dt.UTC)) < dt.timedelta(seconds=5)
    time.sleep(1.1)  # the times of the store are in seconds
    plan = vacuum(w.table)
    assert (plan.oldest, plan.versions) == (4, 4)
    assert list(plan.files) == [f"part-r{number}-00000.parquet" for number in range(4)]
    assert LogFiles.of(w.table.storage).readable() == (4,)
    assert w.table.version().rows == 1
    assert w.write("select 9 as a", "r9", "append", w.table.version()).number == 5
