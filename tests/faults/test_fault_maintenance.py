"""Compaction, vacuum, restores and new columns beside a writer and readers: no reader fails, and no row is lost or doubled."""

from __future__ import annotations

import datetime as dt
import os
import random
import signal
import sys
import threading
import time
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.as_of import AsOf
from pipeline.core.errors import ConflictError, StorageError
from pipeline.core.lake_policy import LakePolicy
from pipeline.core.schema import Schema
from pipeline.core.staging import Manifest
from pipeline.kernel.engine import connect
from pipeline.lake import Lake, LakeTable, Storage, compact, plan_vacuum, vacuum
from pipeline.lake.log import entries
from pipeline.lake.log_files import LogFiles
from pipeline.lake.log_maintenance import tidy
from pipeline.lake.versions import KEPT, commit_times
from tests.faults.streams import PROCESSES, Child
from tests.faults.test_fault_store import LOG, QUICK, changes, commit, values
from tests.faults.test_fault_store import proxy as proxy  # noqa: PLC0414 - the fixture
from tests.lake.conftest import Writer
from tests.lake.test_lake_time import START
from tests.lake.test_lake_time import write as write_times
from tests.rigs.proofs import some
from tests.rigs.proxy import Fault, Rule

HISTORY = dt.timedelta(seconds=20)
"""Readers have this long for a version, also on a busy machine."""
OLD = Schema.of({"a": "INTEGER"})
NEW = Schema.of({"a": "INTEGER", "b": "INTEGER"})


def table_at(folder: str, history: dt.timedelta = HISTORY) -> LakeTable:
    return Lake(Storage(folder)).table("silver", "t", policy=LakePolicy(history=history))


def write(table: LakeTable, epochs: int) -> None:
    """Write a row per epoch, as a stream does; a column is added in the middle. Maintenance must not stop it."""
    head = table.head()
    for number in range(epochs):
        schema, more = (OLD, "") if number < epochs // 2 else (NEW, f", {number}::integer as b")
        with connect() as con:
            files = table.stager(f"r{number}").stage(con, f"select {number}::integer as a{more}", 0)
        head.commit(Manifest("t", f"r{number}", "f", "append"), files, schema, epoch=number)


def maintain(folder: str, seed: int, seconds: float) -> None:
    """Compact, vacuum and tidy at random."""
    table, dice = table_at(folder), random.Random(seed)  # noqa: S311 - a seed for faults
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(ConflictError):  # another process vacuums, or the writer was first
            if table.number() is not None:
                dice.choice((lambda: compact(table, table.head()), lambda: vacuum(table), lambda: shorten(table)))()
        time.sleep(dice.uniform(0, 0.2))


def shorten(table: LakeTable, versions: int = 30) -> None:
    """Shorten the log of a table that commits often; readers have the time of as many commits to open a version."""
    tidy(table.place, versions=versions, history=dt.timedelta(days=1))


def _shorten_and_stop(folder: str, pipe) -> None:
    """Shorten a log, and stop before the times of the versions that stay are written, until SIGCONT."""
    stopped: list[str] = []

    def audit(event: str, args) -> None:
        if event == "open" and KEPT.rpartition("/")[2] in str(args[0]) and "w" in str(args[1]) and not stopped:
            stopped.append("stops")
            pipe.send("stops")
            os.kill(os.getpid(), signal.SIGSTOP)

    sys.addaudithook(audit)
    shorten(table_at(folder), 5)
    pipe.send("ends")


@pytest.mark.fault(29)
def test_two_processes_that_shorten_a_log_keep_what_each_of_them_keeps(tmp_path):
    """
    process       writes                              shortens
    this one      0 to 19, shortened five times       -
    another                                           begins, is suspended
    this one      20 to 39                            is refused
    another                                           goes on
    this one                                          again: nothing that either keeps is lost
    """
    w = Writer(table_at(str(tmp_path)))
    for begin in range(0, 20, 4):
        write_times(w, 4, begin=begin, every=dt.timedelta(minutes=4))
        shorten(w.table, 5)
    parent, pipe = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_shorten_and_stop, args=(str(tmp_path), pipe))
    process.start()
    with Child(process, parent) as child:
        child.stopped()
        refused = []
        for begin in range(20, 40, 5):
            write_times(w, 5, begin=begin, every=dt.timedelta(minutes=4))
            try:
                shorten(w.table, 5)
            except ConflictError as error:
                refused.append(str(error))
        child.send(signal.SIGCONT)
        assert child.wait() == "ends"
    shorten(w.table, 5)
    storage, newest = w.table.storage, w.table.number()
    readable = LogFiles.of(storage).readable()
    assert len(readable) > 9
    assert commit_times(storage) == {number: START + dt.timedelta(minutes=4 * number) for number in readable}
    assert [len(entry.added) for entry in entries(storage, 0, newest)] == [1] * 40
    for number in readable:
        version = w.table.version(number)
        assert (version.rows, version.manifest.run_id) == (number + 1, f"r{number}")
    assert len(refused) == 4
    assert f"is being maintained: got process {process.pid} on" in refused[0]


class Reader(threading.Thread):
    """Reads the newest version repeatedly, and the changes since the one before."""

    def __init__(self, table: LakeTable) -> None:
        super().__init__()
        self.table = table
        self.followed: Counter[int] = Counter()
        self.snapshots = 0
        self.error: BaseException | None = None
        self.stop = threading.Event()

    def run(self) -> None:
        try:
            self.read()
        except BaseException as error:  # noqa: BLE001 - raised by the test
            self.error = error

    def read(self) -> None:
        before = None
        while True:
            ends = self.stop.is_set()
            version = self.table.version()
            if version is None or (before is not None and version.manifest_id == before.manifest_id):
                if ends:
                    return
                time.sleep(0.02)
                continue
            with connect() as con:
                rows = [row[0] for row in con.execute(f"select a from ({version.scan().query()})").fetchall()]
            assert sorted(rows) == list(range(len(rows))), "a version has a gap or a row twice"
            self.snapshots += 1
            if before is None:
                self.followed.update(rows)
            else:
                change = self.table.change_since(before.number, before.manifest_id, version)
                assert change is not None
                assert change.removed == ()
                names = ", ".join(f"'{file.uri}'" for file in change.added)
                with connect() as con:
                    added = con.execute(f"select a from read_parquet([{names}], union_by_name = true)").fetchall()
                self.followed.update(row[0] for row in added)
            before = version


@pytest.mark.fault(29)
def test_maintenance_beside_a_writer_and_readers(tmp_path, record_property):
    for seed in some(range(10), 1):
        folder, epochs = str(tmp_path / str(seed)), 60
        table = table_at(folder)
        others = [PROCESSES.Process(target=maintain, args=(folder, seed + n, 6.0)) for n in range(2)]
        readers = [Reader(table) for _ in range(2)]
        for each in (*others, *readers):
            each.start()
        write(table, epochs)
        for each in others:
            each.join()
        for reader in readers:
            reader.stop.set()
            reader.join()
            assert reader.error is None, f"seed {seed}: {reader.error!r}"
            assert reader.followed == Counter(range(epochs)), f"seed {seed}"
        assert [process.exitcode for process in others] == [0, 0], f"seed {seed}"
        assert max(reader.snapshots for reader in readers) > 1
        with suppress(ConflictError):
            compact(table, table.head())
        newest = replace(table, policy=LakePolicy(history=dt.timedelta()))
        removed = vacuum(newest)
        record_property(f"files removed, seed {seed}", str(len(removed.files)))
        version = table.version()
        left = {path.name for path in Path(folder).rglob("part-*.parquet")}
        assert left == {file.uri.rpartition("/")[2] for file in version.files}, (
            "other files were removed, now or before"
        )
        assert (version.rows, version.schema.names) == (epochs, ("a", "b"))
        assert LogFiles.of(table.storage).readable()[0] == table.number()
        assert plan_vacuum(newest).files == {}
        with connect() as con:
            assert con.execute(f"select count(b), sum(a) from ({version.scan().query()})").fetchone() == (
                epochs // 2,
                sum(range(epochs)),
            )


@pytest.mark.fault(28)
def test_a_writer_whose_clock_is_wrong_makes_no_vacuum_early(tmp_path):
    table = table_at(str(tmp_path), dt.timedelta(days=7))
    write(table, 12)
    now = dt.datetime.now(dt.UTC)
    for clock in (now + dt.timedelta(days=400), now - dt.timedelta(days=400), now):
        plan = vacuum(table, clock=lambda at=clock: at)
        assert (plan.files, plan.versions) == ({}, 0)
    assert len(commit_times(table.storage)) == len(LogFiles.of(table.storage).readable()) >= 12


@pytest.fixture
def through(s3, proxy) -> LakeTable:
    """A table of 6 files whose store is behind the proxy."""
    proxy.rule()
    storage = s3.storage(uuid.uuid4().hex, port=proxy.port, DIRECT=s3.endpoint, **QUICK)
    table = Lake(storage).table("silver", "t", policy=LakePolicy(history=dt.timedelta()))
    for value in range(6):
        commit(table, value, table.version() if value else None)
    return table


@pytest.mark.proof
@pytest.mark.fault(4, 5, 6)
@pytest.mark.parametrize(
    "rule",
    some(
        [
            Rule("PUT", LOG, Fault.LIE, status=500),
            Rule("PUT", LOG, Fault.REFUSE, status=503),
            Rule("PUT", LOG, Fault.HANG),
            Rule("PUT", LOG, Fault.DROP),
        ],
        2,
    ),
    ids=lambda rule: f"{rule.fault.name}-{rule.status}",
)
def test_a_compaction_through_a_store_that_loses_responses(through, proxy, rule):
    before = through.version()
    proxy.rule(rule)
    compacted = compact(through, through.head())
    assert proxy.faults("PUT", LOG) >= 1
    now = through.version()
    assert (compacted.before, compacted.after, now.number, len(now.files)) == (6, 1, before.number + 1, 1)
    assert now.manifest_id == before.manifest_id
    assert values(through) == list(range(6))
    assert changes(through) == [(n, n) for n in range(6)]


@pytest.mark.proof
@pytest.mark.fault(6)
def test_a_vacuum_through_a_store_that_refuses_is_continued(through, proxy):
    compact(through, through.head())
    time.sleep(1.1)  # the times of the store are in seconds
    plan = plan_vacuum(through)
    assert (len(plan.files), plan.versions) == (6, 6)
    proxy.rule(Rule("PUT", r"checkpoint", Fault.REFUSE, status=503, times=1000))
    with pytest.raises(
        StorageError, match=r"the log of table 't' cannot be shortened: got .*; nothing was removed; run"
    ):
        vacuum(through)
    with pytest.raises(
        StorageError, match=r"the log of table 't' cannot be shortened: got .*; nothing was removed; try"
    ):
        through.tidy()
    proxy.rule()
    assert values(through) == list(range(6))
    readable = LogFiles.of(through.storage).readable()
    assert [through.version_as_of(AsOf(versions={"t": number})).rows for number in readable]
    assert set(vacuum(through).files) == set(plan.files)
    assert values(through) == list(range(6))
    assert LogFiles.of(through.storage).readable() == (6,)
