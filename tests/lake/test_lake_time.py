"""Time travel: which versions can be read, and which one a time means."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from pathlib import Path

import pytest

from pipeline.core.as_of import AsOf
from pipeline.core.errors import RequestError, StorageError
from pipeline.lake import Lake
from pipeline.lake.holds import Hold, holders, holds, place_hold, release_hold
from pipeline.lake.log_files import LogFiles
from pipeline.lake.log_maintenance import milestones, tidy
from pipeline.lake.manifests import manifest_name
from pipeline.lake.versions import KEPT, commit_times, monotone
from tests.lake.conftest import Writer

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def committed_at(table, number: int, time: dt.datetime) -> None:
    """Change the time in a commit, as if the clock of its writer had shown it."""
    path = Path(table.storage.uri, "_delta_log", f"{number:020}.json")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if "commitInfo" in line:
            line["commitInfo"]["timestamp"] = int(time.timestamp() * 1000)
    path.write_text("\n".join(json.dumps(line) for line in lines))


def write(w, count: int, *, begin: int = 0, every=dt.timedelta(minutes=1)) -> None:
    """Write versions with the values 0, 1 and so on, a minute apart."""
    for number in range(begin, begin + count):
        seen = w.table.version() if number else None
        w.write(f"select {number} as a", f"r{number}", "append", seen)
        committed_at(w.table, number, START + number * every)


def at(minutes: float) -> AsOf:
    return AsOf(START + dt.timedelta(minutes=minutes))


def test_a_time_is_the_newest_version_until_then(writer):
    w = writer()
    write(w, 4)
    numbers = [w.table.version_as_of(at(minutes)).number for minutes in (0, 0.5, 1, 2.9, 3, 900)]
    assert numbers == [0, 0, 1, 2, 3, 3]
    assert w.table.version_as_of(AsOf()).number == 3
    assert w.table.version_as_of(AsOf(at(0).time, {"t": 2})).number == 2
    assert w.table.version_as_of(AsOf(versions={"other": 2})).number == 3
    with pytest.raises(
        StorageError, match=r"'t' cannot be read as of 2025-12-31T23:.*got a first version of 2026-01-01"
    ):
        w.table.version_as_of(at(-1))
    with pytest.raises(RequestError, match="'t' has no version 4; the newest is 3"):
        w.table.version_as_of(AsOf(versions={"t": 4}))
    assert writer("none").table.version_as_of(at(0)) is None


def test_clocks_that_jump_keep_the_order_of_versions(writer):
    """
    version   0      1      2      3      4
    clock     00:00  02:00  00:02  00:03  02:01
    time      00:00  02:00  02:00  02:00  02:01      each at least 1 ms after the one before
    """
    w = writer()
    write(w, 5)
    committed_at(w.table, 1, START + dt.timedelta(hours=2))
    committed_at(w.table, 4, START + dt.timedelta(hours=2, minutes=1))
    assert [w.table.number_at(at(minutes).time) for minutes in (0, 5, 119.9, 120, 120.5, 121)] == [0, 0, 0, 1, 3, 4]
    assert monotone({0: 10, 1: 5, 2: 5}) == {n: dt.datetime.fromtimestamp((10 + n) / 1000, dt.UTC) for n in range(3)}


def test_versions_that_left_the_log_are_refused_with_the_oldest(writer):
    w = writer()
    write(w, 20)
    tidy(w.table.place, versions=5)
    write(w, 10, begin=20)
    tidy(w.table.place, versions=5, history=dt.timedelta())
    assert LogFiles.of(w.table.storage).readable() == tuple(range(19, 30))
    with pytest.raises(
        StorageError, match=r"'t' cannot be read as of .* got 19 as the oldest version that can be read, of"
    ):
        w.table.version_as_of(at(18))
    with pytest.raises(
        StorageError, match=r"version 3 of table 't' can no longer be read; .*the oldest that can be read is 19"
    ):
        w.table.version_as_of(AsOf(versions={"t": 3}))
    ids = {w.table.version(number).manifest.run_id for number in range(19, 30)}
    assert ids == {f"r{number}" for number in range(19, 30)}


def test_a_log_without_versions_that_can_be_opened_is_refused(writer):
    w = writer()
    write(w, 3)
    Path(w.table.storage.uri, "_delta_log", f"{0:020}.json").unlink()
    with pytest.raises(StorageError, match="'t' has no version that can be opened; check"):
        w.table.number_at(START)


def test_checkpoints_within_history_and_of_holds_stay(writer):
    w = writer()
    for begin in range(0, 60, 10):
        write(w, 10, begin=begin)
        if begin == 10:
            place_hold(w.table.storage, Hold("model", 3, "model m 1"))
        tidy(w.table.place, versions=5, history=dt.timedelta(minutes=35))
    readable = LogFiles.of(w.table.storage).readable()
    assert readable == (3, 19, 29, 39, *range(49, 60))
    assert [w.table.version(number).rows for number in readable] == [number + 1 for number in readable]
    times = commit_times(w.table.storage)
    assert times == {number: START + dt.timedelta(minutes=number) for number in readable}
    assert w.table.number_at(at(35).time) == 29
    manifests = [name for name in w.table.storage.names("_headwater/") if name.count("/") == 1 and name != KEPT]
    assert sorted(manifests) == sorted(manifest_name(w.table.version(number).manifest_id) for number in readable)
    with pytest.raises(
        StorageError, match=r"version 25 .* got 19 as the nearest before it; .* the oldest that can be read is 3"
    ):
        w.table.version_as_of(AsOf(versions={"t": 25}))

    write(w, 10, begin=60)
    release_hold(w.table.storage, "model")
    tidy(w.table.place, versions=5, history=dt.timedelta(minutes=19.5))
    assert LogFiles.of(w.table.storage).readable() == (49, *range(59, 70))  # 3 was released, 19 to 39 became too old
    assert commit_times(w.table.storage)[49] == START + dt.timedelta(minutes=49)
    assert len([n for n in w.table.storage.names("_headwater/") if n.count("/") == 1 and n != KEPT]) == 12


def test_milestones_are_ten_minutes_apart():
    times = {number: number * 60_000 for number in range(101)}
    checkpoints = range(0, 100, 2)
    assert milestones(times, checkpoints, 90, dt.timedelta(minutes=40), {4}) == (4, 60, 70, 80)


def test_holds_are_listed_until_their_time_is_over(writer):
    storage = writer().table.storage
    place_hold(storage, Hold("b", 2, "environment dev", "me", "2026-01-02T00:00:00+00:00"))
    place_hold(storage, Hold("a", 2, "savepoint a"))
    every = holds(storage, lambda: START)
    assert holders(every, 2) == ("savepoint a", "environment dev")
    assert holders(every, 1) == ()
    assert [hold.id for hold in holds(storage, lambda: START + dt.timedelta(days=1))] == ["a"]
    release_hold(storage, "a")
    release_hold(storage, "a")
    assert [hold.id for hold in holds(storage, lambda: START)] == ["b"]
    with pytest.raises(RequestError, match=r"the id of a hold must consist of letters.*got '../x'; use another id"):
        place_hold(storage, Hold("../x", 1, "x"))
    storage.write_text("_headwater/holds/c.json", '{"format_version": 9}')
    with pytest.raises(StorageError, match=r"a hold of .* was written by a later version of Headwater: got format 9"):
        holds(storage)


def test_kept_versions_of_a_later_format_are_refused(writer):
    w = writer()
    write(w, 1)
    w.table.storage.write_text(KEPT, '{"format_version": 2, "versions": {}}')
    tidy(w.table.place, versions=0)
    write(w, 1, begin=1)
    with pytest.raises(StorageError, match=r"kept_versions.json below .* was written by a later version"):
        tidy(w.table.place, versions=0)


def test_versions_on_an_object_store(s3):
    w = Writer(Lake(s3.storage(uuid.uuid4().hex)).table("silver", "t"))
    before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1)
    for number in range(12):
        w.write(f"select {number} as a", f"r{number}", "append", w.table.version() if number else None)
        if number % 4 == 3:
            place_hold(w.table.storage, Hold("first", 1, "savepoint first"))
            tidy(w.table.place, versions=3, history=dt.timedelta())
    times = commit_times(w.table.storage)
    assert list(times) == [1, *range(7, 12)]
    assert all(before < at < dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1) for at in times.values())
    assert w.table.version_as_of(AsOf(times[8])).rows == 9
    assert w.table.version_as_of(AsOf(times[1])).rows == 2
    assert [hold.version for hold in holds(w.table.storage)] == [1]
    release_hold(w.table.storage, "first")
    assert holds(w.table.storage) == ()
