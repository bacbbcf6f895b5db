"""Faults below a stream: corrupt state files, a full disk, clock jumps, and non-deterministic user code."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from pipeline.core.errors import HeadwaterError, StorageError
from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime.options import StreamOptions
from pipeline.streaming.runtime.state_task import ShardConfig, StateTask
from pipeline.streaming.runtime.stream import Stream
from tests.faults.streams import (
    AT_ONCE,
    PROJECT,
    Clicks,
    Kill,
    Orders,
    committed_once_each,
    epochs_of,
    feed_is_snapshot,
    multiset,
    oracle,
    run,
)
from tests.faults.test_fault_streams import driven_by_the_log
from tests.rigs.proofs import some


@pytest.fixture
def clicks(tmp_path):
    return Clicks(tmp_path / "project").write()


def truncated(files, number):
    files[number].write_bytes(files[number].read_bytes()[:-1])


def cut_to_nothing(files, number):
    files[number].write_bytes(b"")


def flipped(files, number):
    content = bytearray(files[number].read_bytes())
    content[len(content) // 2] ^= 1
    files[number].write_bytes(content)


def missing(files, number):
    files[number].unlink()


def reused(files, number):
    shutil.copy(files[number - 1], files[number])


@pytest.mark.proof
@pytest.mark.fault(24)
def test_a_modified_state_file_is_rejected(clicks, undisturbed):
    """Each file, in each way: the error names it, the file is not used, and --from earliest rebuilds the table."""
    names = ("minutes",)
    run(Orders(str(clicks.folder), names, shards=2, kill=Kill(3, step="settled")))
    workspace = clicks.workspace()
    plan = Planner(workspace).plan("minutes")
    epoch = committed_once_each(workspace, "minutes").last
    storage = workspace.table("minutes").storage
    files = [Path(storage.uri) / file.path for file in epoch.state]
    assert len(files) > 3
    samples = plan.samples({})
    faults = (truncated, cut_to_nothing, flipped, missing, reused)
    for number, fault in some(itertools.product(range(len(files)), faults), 5):
        content = files[number].read_bytes()
        fault(files, number)
        with pytest.raises(
            StorageError,
            match=rf"{epoch.state[number].path}.*(is damaged|cannot read)|cannot read .*{epoch.state[number].path}",
        ):
            StateTask(ShardConfig(plan.operator, samples, 0, 1, storage, epoch=epoch))
        files[number].write_bytes(content)
    flipped(files, 0)
    with pytest.raises(StorageError, match=r"is damaged: .*--from earliest"):
        run(Orders(str(clicks.folder), names))
    run(Orders(str(clicks.folder), names, begin="earliest"))
    last = epochs_of(workspace, "minutes").last
    flipped([Path(storage.uri) / last.state[0].path], 0)
    with pytest.raises(StorageError, match="is damaged"):  # also if there is nothing to do
        run(Orders(str(clicks.folder), names))
    assert multiset(workspace.lake.rows(workspace.table("minutes"))) == undisturbed["minutes"]


@pytest.mark.fault(24)
def test_a_modified_manifest_is_rejected(clicks):
    run(Orders(str(clicks.folder), ("minutes",), drain=False))
    table = clicks.workspace().table("minutes")
    manifest = Path(table.storage.uri) / "_headwater" / f"{table.manifest_id():016x}.json"
    manifest.write_text(manifest.read_text().replace('"number": ', '"number": 1'))
    with pytest.raises(StorageError, match="the manifest of table 'minutes' is damaged"):
        run(Orders(str(clicks.folder), ("minutes",)))
    manifest.unlink()
    with pytest.raises(StorageError, match="the manifest of table 'minutes' is missing"):
        run(Orders(str(clicks.folder), ("minutes",)))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB for the lake."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("a small file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.proof
@pytest.mark.fault(23)
def test_a_full_disk_keeps_the_last_commit(small_disk, undisturbed):
    """The disk becomes full at a different step each time: staging, saving state, writing a manifest, or committing."""
    clicks = Clicks(small_disk / "project").write()
    names = ("kept", "minutes")
    filler = small_disk / "filler"
    refused = []
    for free in some((0, 6, 10, 20, 36, 60, 100), 2):
        stat = os.statvfs(small_disk)
        filler.write_bytes(b"\0" * max(stat.f_bavail * stat.f_frsize - free * 1024, 0))
        try:
            run(Orders(str(clicks.folder), names, shards=1 + free % 2))
        except (HeadwaterError, OSError) as error:
            refused.append(f"{type(error).__name__}: {error}")
        filler.unlink()
    assert refused
    assert all(text.startswith(("StorageError: ", "OutcomeUnknownError: ")) for text in refused), refused
    run(Orders(str(clicks.folder), names))
    assert oracle(clicks, names) == driven_by_the_log(undisturbed)


@pytest.mark.fault(28)
def test_clock_jumps_do_not_affect_event_time(clicks, undisturbed):
    plan = Planner(clicks.workspace()).plan("minutes")
    jumps = itertools.cycle([0, 86400, -86400 * 100, 3600 * 5, -7, 86400 * 300])
    begun = datetime(2026, 11, 1, tzinfo=UTC)

    def clock() -> datetime:
        return begun + timedelta(seconds=next(jumps))

    while True:
        stream = Stream(clicks.workspace(), plan, StreamOptions(intervals=AT_ONCE, shards=2), clock=clock)
        for _ in range(2):
            stream.run_micro_batch()
        stream.save()
        if stream.last.has_ended:
            stream.drain()
            break
        stream.close()
    stream.close()
    assert oracle(clicks, ("minutes",))["minutes"] == undisturbed["minutes"]


DICE = """
import random
import pyarrow as pa
from pipeline import table

@table()
def dice(clicks: pa.Table) -> pa.Table:
    drawn = pa.array([random.random() for _ in range(clicks.num_rows)], pa.float64())
    return pa.table({"id": clicks["id"], "drawn": drawn})

told = sql("select id, drawn from dice")
"""


@pytest.mark.proof
@pytest.mark.fault(9)
def test_results_of_random_user_code_are_committed_once(clicks):
    """The random results of a killed epoch are never visible; all readers see the committed ones."""
    (clicks.folder / "clicks.py").write_text(PROJECT.format(partitions=3, count=160, step=40) + DICE)
    names = ("dice", "told")
    for step in some(("staged", "saved", "committed", "settled"), 2):
        assert run(Orders(str(clicks.folder), names, kill=Kill(1, "dice", step))) is None
    run(Orders(str(clicks.folder), names))
    workspace = clicks.workspace()
    for name in names:
        committed_once_each(workspace, name)
        feed_is_snapshot(workspace, name)
    dice, result = (workspace.lake.rows(workspace.table(name)) for name in names)
    assert multiset(dice) == multiset(result)
    with duckdb.connect() as con:
        con.register("log", clicks.rows)
        expected = con.sql("select id from log where happened < timestamp '2090-01-01' order by id").fetchall()
    assert sorted(dice["id"].to_pylist()) == [i for (i,) in expected]
