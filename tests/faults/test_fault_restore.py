"""Restores beside those who read and write the table at the same time: each row is there exactly once, or someone is told.

kept ── below       `kept` is restored while readers follow it, while `below` runs, and while a suspended writer comes back.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter

import pytest

from pipeline.commit.moments import Moment
from pipeline.core.as_of import AsOf
from pipeline.core.errors import ConflictError, SourceError
from pipeline.governance import Leases, this_process
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.scan import Scan
from pipeline.lake import LakeTable, Version
from pipeline.lake.holds import holds
from pipeline.reprocessing.restore import plan_restore, restore
from pipeline.runner import Runner
from pipeline.streaming.runtime.verify import verify
from tests.faults.streams import Clicks, Kill, Orders, multiset, run, start
from tests.runner.test_runner_restore import arrive, everything, load, opened, recomputed, restored
from tests.runner.test_runner_restore import folder as folder  # noqa: PLC0414 - the fixture
from tests.runner.test_runner_restore import run as run_batch

NAMES = ("kept", "below")
PROVENANCE = ("_source", "_position")


@pytest.fixture
def clicks(tmp_path) -> Clicks:
    return Clicks(tmp_path / "project").write()


def restored_to(clicks: Clicks, name: str, number: int) -> Version:
    workspace = clicks.workspace()
    return restore(workspace, plan_restore(workspace, name, AsOf(versions={name: number})))


def rows(clicks: Clicks, name: str) -> Counter[str]:
    workspace = clicks.workspace()
    return multiset(workspace.lake.rows(workspace.table(name)))


class FollowingReader(threading.Thread):
    """Reads each version of a table that it sees, and applies the changes since the one before to the rows it has."""

    def __init__(self, table: LakeTable) -> None:
        super().__init__()
        self.table = table
        self.versions: dict[int, int] = {}
        self.removed = 0
        self.error: BaseException | None = None
        self.stop = threading.Event()

    def run(self) -> None:
        try:
            self.follow()
        except BaseException as error:  # noqa: BLE001 - raised by the test
            self.error = error

    def follow(self) -> None:
        before, have = None, Counter[str]()
        while not self.stop.wait(0.005):
            now = self.table.version()
            if now is None or (before is not None and now.number == before.number):
                continue
            there = self.rows(now.scan())
            if before is not None:
                change = self.table.change_since(before.number, before.manifest_id, now)
                assert change is not None
                removed = self.rows(Scan(now.schema, change.removed))
                assert removed <= have
                have = have - removed + self.rows(Scan(now.schema, change.added))
                assert have == there
                self.removed += removed.total()
            before, have = now, there
            self.versions[now.number] = there.total()

    def rows(self, scan: Scan) -> Counter[str]:
        with connect() as con:
            return multiset(arrow(con, scan.query()))


@pytest.mark.proof
@pytest.mark.fault(29)
def test_a_restore_beside_readers_and_beside_a_stream_that_reads_the_table(clicks):
    """The stream that has read what is removed ends with an error; restored too, it goes on exactly once."""
    run(Orders(str(clicks.folder), NAMES))
    workspace = clicks.workspace()
    kept, below = workspace.table("kept"), workspace.table("below")
    whole = {name: rows(clicks, name) for name in NAMES}
    target = kept.number() // 2
    consumed = [number for number in range(below.number()) if below.version(number).manifest.inputs["kept"] <= target]
    readers = [FollowingReader(kept) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        with start(Orders(str(clicks.folder), ("below",), forever=True)) as downstream:
            leases = Leases(workspace.catalog)
            while (lease := leases.get("below")) is None or not lease.is_living(time.time()):
                time.sleep(0.01)
            version = restored_to(clicks, "kept", target)
            ended = downstream.wait()
        assert isinstance(ended, SourceError), ended
        assert "table 'kept' was changed other than by appending rows" in str(ended)
        assert rows(clicks, "below") == whole["below"]
        assert version.rows == kept.version(target).rows < whole["kept"].total()
        restored_to(clicks, "below", consumed[-1])
        run(Orders(str(clicks.folder), NAMES, shards=3))
    finally:
        time.sleep(0.1)
        for reader in readers:
            reader.stop.set()
            reader.join()
    assert {name: rows(clicks, name) for name in NAMES} == whole
    assert all(verify(clicks.workspace(), name).holds for name in NAMES)
    for reader in readers:
        assert reader.error is None, repr(reader.error)
        assert reader.versions[version.number] == version.rows
        assert reader.removed == whole["kept"].total() - version.rows
    assert holds(kept.storage) == ()


@pytest.mark.proof
@pytest.mark.fault(29)
def test_a_stream_that_has_not_read_what_a_restore_removes_goes_on(clicks, undisturbed):
    run(Orders(str(clicks.folder), NAMES, kill=Kill(1, "below", "committed")))
    run(Orders(str(clicks.folder), ("kept",)))
    read = clicks.workspace().require("below").manifest.inputs["kept"]
    assert read < clicks.workspace().table("kept").number()
    restored_to(clicks, "kept", read)
    run(Orders(str(clicks.folder), NAMES))
    assert rows(clicks, "kept") == undisturbed["kept"]
    assert all(verify(clicks.workspace(), name).holds for name in NAMES)
    ids = [row["id"] for row in clicks.workspace().query("select id from below").to_pylist()]
    expected = clicks.workspace().query("select id from kept where amount < 90").to_pylist()
    assert sorted(ids) == sorted(row["id"] for row in expected)


@pytest.mark.proof
@pytest.mark.fault(7, 29)
@pytest.mark.parametrize("step", ["saved", "staged"])
def test_a_suspended_writer_does_not_commit_on_a_restored_table(clicks, undisturbed, step):
    """Its lease has ended; the table is restored; it comes back with an epoch that follows the removed ones."""
    name = "minutes"
    with start(Orders(str(clicks.folder), (name,), stop=(3, step))) as writer:
        writer.stopped()
        workspace = clicks.workspace()
        with pytest.raises(ConflictError, match="stream 'minutes' is already running"):
            restored_to(clicks, name, 0)
        leases, me = Leases(workspace.catalog), this_process()
        leases.acquire(name, me, take_over=True)
        leases.release(name, me, {})
        version = restored_to(clicks, name, 0)
        writer.send(signal.SIGCONT)
        ended = writer.wait()
    assert isinstance(ended, ConflictError), ended
    assert clicks.workspace().table(name).number() == version.number
    run(Orders(str(clicks.folder), (name,), shards=3))
    assert rows(clicks, name) == undisturbed[name]
    assert verify(clicks.workspace(), name).holds


@pytest.mark.share(1)
@pytest.mark.parametrize("moment", [Moment.STAGED, Moment.COMMITTED, Moment.SETTLED])
@pytest.mark.parametrize("name", ["orders", "current"])
def test_a_run_at_any_moment_of_a_restore(folder, name, moment):
    """The run commits first, and the restore changes nothing, or it goes on from the restored version."""
    arrive(folder, 3)

    def run_then(reached: Moment) -> None:
        if reached is moment:
            run_batch(folder)

    if moment is Moment.STAGED:
        with pytest.raises(ConflictError, match=f"another process committed '{name}' concurrently"):
            restored(folder, name, 0, run_then)
    else:
        restored(folder, name, 0, run_then)
    run_batch(folder)
    whole = everything(folder)
    assert whole == recomputed(folder)
    assert holds(opened(folder).table(name).storage) == ()


@pytest.mark.share(1)
@pytest.mark.parametrize("moment", [Moment.DECIDED, Moment.STAGED, Moment.COMMITTED, Moment.SETTLED, Moment.RECORDED])
@pytest.mark.parametrize("name", ["orders", "current"])
def test_a_restore_at_any_moment_of_a_run(folder, name, moment):
    """Of the step and the restore, one commits; tables that read the restored one follow it in this run or the next."""
    arrive(folder, 3)
    done: list[str] = []

    def restore_then(event) -> None:
        if event.moment is moment and event.name == name and not done:
            done.append(name)
            restored(folder, name, 0)

    runner = Runner(load(folder), observer=restore_then)
    if moment in {Moment.DECIDED, Moment.STAGED}:
        with pytest.raises(ConflictError, match=f"another process committed '{name}' concurrently"):
            runner.run()
    else:
        assert {step.name: step.decision for step in runner.run().steps}[name] in {"append", "merge"}
    assert done == [name]
    run_batch(folder)
    whole = everything(folder)
    assert whole == recomputed(folder)
