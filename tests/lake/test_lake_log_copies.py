"""Copies of logs that are in an object store: what readers and writers of one process see of them."""

from __future__ import annotations

import datetime as dt
import random
import uuid

import pytest

from pipeline.core.errors import StorageError
from pipeline.core.schema import Schema
from pipeline.core.staging import Manifest
from pipeline.kernel.engine import connect
from pipeline.lake import Lake, LakeTable
from pipeline.lake.log import entries
from pipeline.lake.log_copies import WritableLog, copy_of, needed_files
from pipeline.lake.log_files import LOG, LogFiles, entry_name
from pipeline.lake.log_maintenance import tidy
from pipeline.lake.opening import write_checkpoint
from tests.rigs.proofs import examples
from tests.rigs.proxy import proxied

SCHEMA = Schema.of({"a": "INTEGER"})


def checkpoint(number: int) -> str:
    return f"{LOG}{number:020}.checkpoint.parquet"


@pytest.mark.parametrize(
    ("entries", "checkpoints", "number", "first", "base"),
    [
        (range(4), (), None, 0, None),
        (range(4), (), 2, 0, None),
        (range(8), (2, 5), None, 5, 5),
        (range(8), (2, 5), 4, 2, 2),
        (range(8), (2, 5), 1, 0, None),
        (range(6, 8), (2, 5), 5, None, 5),
        ((), (5,), None, None, 5),
    ],
)
def test_a_version_needs_its_checkpoint_and_the_entries_since(entries, checkpoints, number, first, base):
    names = (*map(entry_name, entries), *map(checkpoint, checkpoints), f"{LOG}_last_checkpoint")
    needed = needed_files(LogFiles(tuple(sorted(names))), number)
    last = max(entries, default=-1) if number is None else number
    expected = [] if first is None else [entry_name(n) for n in entries if first <= n <= last]
    assert needed == ((checkpoint(base),) if base is not None else ()) + tuple(expected)


def test_all_files_of_a_log_with_checkpoints_in_parts_are_copied():
    parts = [f"{LOG}{3:020}.checkpoint.{n:010}.0000000002.parquet" for n in (1, 2)]
    names = (*map(entry_name, range(5)), *parts, f"{LOG}_sidecars/a.parquet")
    assert set(needed_files(LogFiles(names), None)) == set(names)


@pytest.fixture
def table(s3) -> LakeTable:
    return Lake(s3.storage(uuid.uuid4().hex)).table("silver", "t")


def commit(table: LakeTable, n: int) -> int:
    with connect(filesystem=table.storage.filesystem()) as con:
        files = table.stager(f"r{n}").stage(con, f"select {n}::integer as a", 0)
    manifest = Manifest(table="t", run_id=f"r{n}", fingerprint="f", mode="append")
    return table.commit(manifest, files, SCHEMA, table.version()).number


def test_an_entry_that_was_not_sent_is_not_read(table):
    assert [commit(table, n) for n in range(2)] == [0, 1]
    log = WritableLog(table.storage)
    folder = copy_of(table.storage).apart()
    (folder / entry_name(2)).write_bytes((folder / entry_name(1)).read_bytes())
    assert log.uri != str(folder)
    assert table.version().number == 1
    assert table.number() == 1


def test_a_recreated_table_is_copied_again(table):
    for n in range(3):
        commit(table, n)
    old = table.version()
    table.storage.clear()
    assert table.version() is None
    assert commit(table, 7) == 0
    new = table.version()
    assert (new.number, new.rows) == (0, 1)
    assert table.change_since(0, old.manifest_id, new) is None
    with pytest.raises(StorageError, match=r"at version 2 cannot be read: got no log entry for this version"):
        table.version(2)


def test_an_open_table_stays_readable_while_its_log_is_shortened(table):
    for n in range(4):
        commit(table, n)
    head = table.head()
    for n in (1, 3):
        write_checkpoint(table.place, n)
    tidy(table.place, versions=0)
    assert entry_name(0) not in table.storage.names(LOG)
    assert (table.version().number, table.version().rows) == (3, 4)
    with pytest.raises(StorageError, match="at version 0 cannot be read"):
        table.version(0)
    manifest = Manifest(table="t", run_id="r9", fingerprint="f", mode="append")
    assert head.commit(manifest, (), SCHEMA) == 4
    assert table.version().number == 4


def test_copies_of_a_log_that_is_shortened_often_do_not_accumulate(table):
    folders = set()
    for n in range(4):
        commit(table, n)
        write_checkpoint(table.place)
        tidy(table.place, versions=0)
        assert table.version().rows == n + 1
        folders.add(copy_of(table.storage).at()[0])
    assert len(folders) > 2
    assert sum(folder.exists() for folder in folders) == 2


def test_a_long_log_is_listed_from_its_last_checkpoint_on(s3):
    with proxied(s3.port) as proxy:
        table = Lake(s3.storage(uuid.uuid4().hex, port=proxy.port)).table("silver", "t")
        for n in range(6):
            commit(table, n)
            if n == 3:
                write_checkpoint(table.place)
        assert table.version().number == 5
        before = len(proxy.seen)
        assert (table.version().number, table.version(5).rows, table.version(2).rows) == (5, 6, 3)
        listings = [seen.path for seen in proxy.seen[before:] if "list-type" in seen.path]
        assert ["start-after" in path for path in listings] == [True, True, False]
        assert all(f"{3:020}" in path for path in listings[:2])


def test_a_table_that_was_recreated_up_to_a_checkpoint_of_the_same_number_is_copied_again(s3):
    name = uuid.uuid4().hex
    table, other = (Lake(s3.storage(name, NUMBER=each)).table("silver", "t") for each in ("1", "2"))
    for first in (0, 2):
        other.storage.clear()
        for n in (first, first + 1):
            commit(other, n)
        if first == 0:
            assert table.version().rows == 2  # all entries are copied
        write_checkpoint(other.place)
        names = [f"part-r{n}-00000.parquet" for n in (first, first + 1)]
        assert [file.uri.rpartition("/")[2] for file in table.version().files] == names
        assert [entry.added[0].path for entry in entries(table.storage, 0, 1)] == names


@pytest.mark.share(1)
@pytest.mark.parametrize("seed", range(20))
def test_a_process_always_opens_the_newest_version(s3, seed):
    """Another process commits, writes checkpoints, shortens the log and recreates the table."""
    dice = random.Random(seed)  # noqa: S311 - a seed for what happens
    name = uuid.uuid4().hex
    table, other = (Lake(s3.storage(name, NUMBER=each)).table("silver", "t") for each in ("1", "2"))
    number, rows, runs = -1, 0, 0
    for _ in range(examples(12, 40)):
        step = dice.choice(["commit", "commit", "commit", "checkpoint", "tidy", "recreate"])
        if step == "recreate" and dice.random() < 0.4:
            other.storage.clear()
            number, rows = -1, 0
        elif step == "checkpoint" and number >= 0:
            write_checkpoint(other.place, dice.choice(LogFiles.of(other.storage).readable()))
        elif step == "tidy" and number >= 0:
            tidy(other.place, versions=dice.randrange(3), history=dt.timedelta())
        else:
            number, rows, runs = commit(other, runs), rows + 1, runs + 1
        if dice.random() < 0.7 and number >= 0:
            version = table.version()
            assert (version.number, version.rows, version.files) == (number, rows, other.version().files)
            assert table.head().number == number
            readable = dice.choice(LogFiles.of(other.storage).readable())
            assert table.version(readable).rows == rows - (number - readable)
