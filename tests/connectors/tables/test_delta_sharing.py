from __future__ import annotations

import datetime as dt
import json
import pickle

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from pipeline import delta_sharing
from pipeline.core.cursors import Bound
from pipeline.core.errors import SettingsError, SourceError
from pipeline.core.schema import Schema
from tests.rigs.http_faults import Reply, http_server
from tests.rigs.sharing_server import SIGNATURE, TOKEN, SharingServer

FEED = {"delta.enableChangeDataFeed": "true"}
ID = Schema.of({"id": "bigint"})


@pytest.fixture(scope="module")
def running():
    with http_server() as server:
        yield server


@pytest.fixture
def shared(running, tmp_path, monkeypatch):
    server = SharingServer(running, tmp_path / "t")
    monkeypatch.setenv("MARKET_PROFILE", server.profile)
    return server


def reader(**options):
    return delta_sharing("env:MARKET_PROFILE", "market", "public", "trades", allowed_hosts=("localhost",), **options)


def numbers(*values):
    return pa.table({"id": pa.array(values, pa.int64())})


def read(source, cursor=None, bound=None):
    plan = source.plan(cursor, bound or Bound())
    taken = []
    for split in plan.splits:
        result = source.read(split, source.schema(split.source_object))
        assert result.rejected.num_rows == 0
        taken += result.rows.drop_columns(["_position"]).to_pylist()
    return taken, plan


def ids(rows):
    return sorted(row["id"] for row in rows)


def write(shared, *values, **options):
    write_deltalake(str(shared.table), numbers(*values), mode="append", **options)


def test_the_newest_version_and_then_what_was_added(shared):
    write(shared, 1, 2)
    rows, first = read(reader())
    write(shared, 3)
    write(shared, 4)
    DeltaTable(str(shared.table)).optimize.compact()
    later, second = read(reader(), first.cursor)

    assert (ids(rows), ids(later)) == ([1, 2], [3, 4])
    assert second.new == "2 data files up to version 3"
    assert reader().plan(second.cursor).splits == ()


def test_partition_values_and_nested_values(shared):
    rows = pa.table({"day": [dt.date(2024, 1, 1), None], "s": [{"a": [1, None]}, None]})
    write_deltalake(str(shared.table), rows, partition_by=["day"])

    assert sorted(read(reader())[0], key=str) == sorted(rows.to_pylist(), key=str)


@pytest.mark.parametrize("bound", [Bound(rows=1), Bound(size_bytes=1)])
def test_a_bound_divides_a_snapshot_and_what_follows(shared, bound):
    for number in range(3):
        write(shared, number)
    taken, cursor = [], None
    for round_number in range(7):
        rows, plan = read(reader(), cursor, bound)
        taken, cursor = taken + rows, plan.cursor
        if round_number == 0:
            write(shared, 3)
            write(shared, 4)
    assert ids(taken) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("changes", [False, True])
def test_a_limited_first_read_goes_on_at_the_newest_version(shared, changes):
    write_deltalake(str(shared.table), numbers(0), configuration=FEED)
    for number in range(1, 3):
        write(shared, number)
    taken, cursor = [], None
    for _ in range(4):
        rows, plan = read(reader(changes=changes), cursor, Bound(rows=1))
        assert plan.changed == ""
        taken, cursor = taken + rows, plan.cursor
    assert ids(taken) == [0, 1, 2]


def test_changes_are_those_of_delta_rs(shared):
    uri = str(shared.table)
    write_deltalake(uri, numbers(1, 2, 3), configuration=FEED)
    rows, first = read(reader(changes=True))
    DeltaTable(uri).delete("id = 2")
    write(shared, 9)
    write_deltalake(uri, numbers(100), mode="overwrite")
    later, _ = read(reader(changes=True), first.cursor)

    feed = pa.RecordBatchReader.from_stream(DeltaTable(uri).load_cdf(1)).read_all().to_pylist()
    shown = [sorted((r["id"], r["_change_type"], r["_commit_version"]) for r in each) for each in (rows, later, feed)]
    assert shown[0] == [(n, "insert", 0) for n in (1, 2, 3)]
    assert shown[1] == shown[2]


def test_deleted_rows_make_it_read_again(shared):
    write(shared, 1, 2)
    cursor = reader().plan(None).cursor
    DeltaTable(str(shared.table)).delete("id = 1")

    assert reader().plan(cursor).changed == "version 1 of the shared table deleted or updated rows"


def test_a_table_without_history_is_read_again(shared):
    write(shared, 1)
    shared.has_history = False
    cursor = reader().plan(None).cursor
    assert reader().plan(cursor).changed == ""
    write(shared, 2)

    assert "version 1, and its provider shares no history of it (status 400" in reader().plan(cursor).changed


def test_a_table_that_was_created_again_or_is_behind_is_read_again(shared):
    write(shared, 1)
    write(shared, 2)
    cursor = reader().plan(None).cursor
    for name in shared.table.rglob("*.json"):
        name.unlink()
    write(shared, 1)
    assert reader().plan(cursor).changed == "version 1 was read, and the newest version is 0"
    write(shared, 1)
    write(shared, 1)
    assert reader().plan(cursor).changed == "the shared table was created again"


def test_names_that_differ_only_in_case_are_refused(shared):
    write_deltalake(str(shared.table), pa.table({"_Change_type": ["a"]}), configuration=FEED)
    with pytest.raises(SourceError, match="equal, or differ only in case: got '_Change_type' and '_change_type'"):
        reader(changes=True).plan(None)


def test_a_table_with_features_is_refused(shared):
    write(shared, 1)
    shared.reader_version = 3
    with pytest.raises(SourceError, match="features that cannot be read: got reader version 3; ask its provider"):
        reader().plan(None)


def test_a_planned_file_is_read_after_it_was_replaced(shared):
    write(shared, 1)
    (split,) = reader().plan(None).splits
    write_deltalake(str(shared.table), numbers(2), mode="overwrite")
    assert reader().read(split, ID).rows.column("id").to_pylist() == [1]


def test_a_file_that_is_no_longer_shared_is_named(shared):
    write(shared, 1)
    (split,) = reader().plan(None).splits
    for name in shared.table.rglob("*.json"):
        name.unlink()
    write(shared, 3)
    with pytest.raises(SourceError, match=r"no longer shares a data file; run again"):
        reader().read(split, ID)


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (Reply(b"<html>"), "the answer of the server is not one of Delta Sharing"),
        (Reply(b'{"protocol":{}}\n{"metaData":{"id":"1"}}'), "did not say which version the table has"),
        (
            Reply(
                b'{"protocol":{}}\n{"metaData":{"id":"1","schemaString":"{}"}}', headers={"Delta-Table-Version": "0"}
            ),
            "the columns of the shared table are not valid",
        ),
        (Reply({"message": "no such table"}, 404), "the request was refused: got status 404"),
    ],
)
def test_answers_that_are_wrong(shared, reply, problem):
    write(shared, 1)
    version = Reply(b"", headers={"Delta-Table-Version": "0"})
    shared.server.script = [version, reply]
    with pytest.raises(SourceError, match=problem):
        reader().plan(None)


def test_a_damaged_file_is_an_error_that_does_not_show_its_signature(shared):
    write(shared, 1)
    (split,) = reader().plan(None).splits
    shared.broken = Reply(b"nothing")
    with pytest.raises(SourceError, match="a shared data file cannot be read as Parquet"):
        reader().read(split, ID)
    shared.broken = Reply(b"denied", 403)
    with pytest.raises(SourceError, match="was not authorized") as raised:
        reader().read(split, ID)
    assert SIGNATURE not in str(raised.value)
    with pytest.raises(SourceError, match="private address"):
        delta_sharing("env:MARKET_PROFILE", "market", "public", "trades").read(split, ID)


def test_the_token_is_sent_to_the_server_only_and_never_shown(shared):
    write(shared, 1)
    source = pickle.loads(pickle.dumps(reader()))  # noqa: S301 - our own
    _, plan = read(source)
    sent = {each.path.split("/")[1]: each.headers.get("authorization") for each in shared.server.received}
    assert sent == {"share": f"Bearer {TOKEN}", "files": None}
    assert TOKEN not in repr(source) + repr(plan)


def test_profiles(shared, tmp_path, monkeypatch):
    write(shared, 1)
    (tmp_path / "market.share").write_text(shared.profile)
    by_path = delta_sharing("market.share", "market", "public", "trades", allowed_hosts=("localhost",)).within(tmp_path)
    assert ids(read(by_path)[0]) == [1]
    assert reader().within(tmp_path) == reader()
    assert [finding.detail for finding in by_path.check()] == ["version 0"]
    monkeypatch.setenv("MARKET_PROFILE", json.dumps({"endpoint": "https://x", "token": "hunter2"}))
    with pytest.raises(SettingsError, match="the profile of a share is not valid: got KeyError; download it") as raised:
        reader().plan(None)
    assert "hunter2" not in str(raised.value)
