"""Many writers of one table without locks, and the cost of reading a log with a year of hourly commits."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

import pytest

from pipeline.core.errors import ConflictError
from pipeline.core.schema import Schema
from pipeline.core.staging import Manifest, StagedFile
from pipeline.kernel.engine import connect
from pipeline.lake import Lake, LakeTable, Storage, compact
from pipeline.lake.log import entries
from pipeline.lake.log_copies import needed_files
from pipeline.lake.log_files import LogFiles
from pipeline.lake.log_maintenance import KEPT_VERSIONS, TIDY_INTERVAL
from tests.faults.streams import PROCESSES
from tests.rigs.proofs import PROOFS

SCHEMA = Schema.of({"writer": "BIGINT", "n": "BIGINT"})
HOURS_OF_A_YEAR = 8_760
MOST_ON_STORE = 200
"""The commits of each writer on the object store, where one takes ten times as long."""
LOG_READ_S = 0.05
MOST_LOG_FILES = KEPT_VERSIONS + 3 * TIDY_INTERVAL


@dataclass(frozen=True)
class Writer:
    """One of the writers of a table: its number, and how many rows it appends, each by a commit."""

    storage: Storage
    number: int
    commits: int

    @property
    def table(self) -> LakeTable:
        return Lake(self.storage).table("silver", "t")

    def append(self) -> int:
        """Append the rows, with another attempt after each conflict; return the number of conflicts."""
        head, conflicts = self.table.head(), 0
        with connect(filesystem=self.storage.filesystem()) as con:
            for n in range(self.commits):
                run = f"w{self.number}-{n}"
                select = f"select {self.number}::bigint as writer, {n}::bigint as n"
                files = self.table.stager(run).stage(con, select, 0)
                manifest = Manifest(table="t", run_id=run, fingerprint="f", mode="append")
                while True:
                    try:
                        version = head.commit(manifest, files, SCHEMA)
                        break
                    except ConflictError:
                        conflicts += 1
                        head = self.table.head()
                if version % 100 == 0:
                    self.table.tidy()
        return conflicts


def _append(writer: Writer, pipe) -> None:
    pipe.send(writer.append())


@pytest.fixture(params=["local", "s3"])
def storage(request, tmp_path) -> Storage:
    if request.param == "local":
        return Storage(str(tmp_path / "lake"))
    return request.getfixturevalue("s3").storage(uuid.uuid4().hex)


@pytest.mark.fault(32)
@pytest.mark.parametrize(
    ("writers", "commits"), [(3, 8), pytest.param(10, 2_000, marks=[pytest.mark.proof, pytest.mark.timeout(7_200)])]
)
def test_no_commit_of_many_writers_is_lost(storage, writers, commits):
    """Row 32: every row is there once, and every version is one commit."""
    if commits > MOST_ON_STORE and not storage.is_local:
        commits = MOST_ON_STORE
    seen = Writer(storage, writers, 1)
    seen.append()
    children = []
    for number in range(writers):
        parent, child = PROCESSES.Pipe()
        process = PROCESSES.Process(target=_append, args=(Writer(storage, number, commits), child))
        process.start()
        children.append((process, parent))
    conflicts = 0
    for process, parent in children:
        conflicts += parent.recv()
        process.join()
        assert process.exitcode == 0

    table = seen.table
    rows = Lake(storage).rows(table).to_pylist()
    expected = [(w, n) for w in range(writers) for n in range(commits)] + [(writers, 0)]
    assert sorted((row["writer"], row["n"]) for row in rows) == sorted(expected)
    assert table.number() == writers * commits
    if not PROOFS:
        log = entries(storage.at("silver", "t"), 0, writers * commits)
        assert [len(entry.added) for entry in log] == [1] * len(expected)
    assert conflicts > 0, "the writers did not meet"


def _least_s(read) -> float:
    """Return the seconds of the fastest of several reads, which other work on the machine has disturbed least."""
    seconds = []
    for _ in range(25):
        began = time.perf_counter()
        assert read() is not None
        seconds.append(time.perf_counter() - began)
    return min(seconds)


@pytest.mark.proof
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("hours", [210, pytest.param(HOURS_OF_A_YEAR, marks=pytest.mark.proof)])
def test_a_log_with_a_year_of_hourly_commits_is_read_at_once(storage, hours):
    """8,760 commits, with the maintenance of a table that is written to: the files of each week are compacted."""
    if not storage.is_local and hours != HOURS_OF_A_YEAR:
        pytest.skip("the local log is the same")
    table = Lake(storage).table("silver", "t")
    head = table.head()
    with connect(filesystem=storage.filesystem()) as con:
        for hour in range(hours):
            run = f"h{hour}"
            files: tuple[StagedFile, ...] = table.stager(run).stage(
                con, f"select 0::bigint as writer, {hour}::bigint as n", 0
            )
            version = head.commit(Manifest(table="t", run_id=run, fingerprint="f", mode="append"), files, SCHEMA)
            if version % 100 == 0:
                table.tidy()
            if version % 168 == 0:
                compact(table, head)

    newest = table.version()
    assert newest is not None
    assert newest.rows == hours
    log = LogFiles.of(table.storage)
    assert len(log.names) <= MOST_LOG_FILES, "entries before a checkpoint are folded"
    assert len(needed_files(log, None)) <= 2 + TIDY_INTERVAL, "a checkpoint, its entry, and those since"
    assert len(newest.files) <= hours // 168 + 168, "the files of a week are compacted"
    if hours == HOURS_OF_A_YEAR:
        before = table.version(newest.number - 1)
        assert _least_s(table.number) < LOG_READ_S
        assert _least_s(table.version) < LOG_READ_S
        assert _least_s(lambda: table.change_since(before.number, before.manifest_id, newest)) < LOG_READ_S
