"""A stream's table is restored with its epoch, state and offsets, and the stream goes on exactly once."""

from __future__ import annotations

import pytest

from pipeline.core.as_of import AsOf
from pipeline.core.errors import ConflictError, StorageError
from pipeline.governance import Leases, this_process
from pipeline.lake.manifests import manifest_name
from pipeline.reprocessing.restore import plan_restore, restore
from pipeline.streaming.runtime.verify import verify
from tests.streaming.runtime.test_stream_savepoints import drops as drops  # noqa: PLC0414 - the fixture
from tests.streaming.runtime.test_stream_savepoints import quarantine_of, run


def plan(workspace, number):
    return plan_restore(workspace, "by_minute", AsOf(versions={"by_minute": number}))


def newest(workspace) -> int:
    return workspace.table("by_minute").number()


def test_a_stream_goes_on_from_a_restored_version(drops, streams):
    #  files    1   2   |   3   4              |   3   4
    #                version            restore
    run(streams, drops, 1, 2)
    workspace = streams.opened(drops)
    kept, kept_quarantine, number = streams.rows(drops, "by_minute"), quarantine_of(streams, drops), newest(workspace)
    offsets = workspace.require("by_minute").manifest.epoch.inputs
    run(streams, drops, 3, 4)
    whole, whole_quarantine = streams.rows(drops, "by_minute"), quarantine_of(streams, drops)
    last = workspace.table("by_minute").head().epoch

    version = restore(workspace, plan(workspace, number))

    assert version.manifest.epoch.inputs == offsets
    assert streams.rows(drops, "by_minute") == kept != whole
    assert quarantine_of(streams, drops) == kept_quarantine != whole_quarantine
    streams.start(drops, "by_minute", until_caught_up=True, stream_options={"shards": 3}).run()
    assert streams.rows(drops, "by_minute") == whole
    assert quarantine_of(streams, drops) == whole_quarantine
    assert workspace.table("by_minute").head().epoch > last
    assert verify(streams.opened(drops), "by_minute").holds


def test_a_stream_that_runs_or_has_lost_its_state_is_not_restored(drops, streams):
    run(streams, drops, 1)
    workspace = streams.opened(drops)
    number = newest(workspace)
    run(streams, drops, 2)
    chosen = plan(workspace, number)
    leases, me = Leases(workspace.catalog), this_process()
    leases.acquire("by_minute", me)
    before = newest(workspace)
    with pytest.raises(ConflictError, match="stream 'by_minute' is already running"):
        restore(workspace, chosen)
    leases.release("by_minute", me, {})
    storage = workspace.table("by_minute").storage
    storage.remove([chosen.manifest.epoch.state[0].path])
    with pytest.raises(StorageError, match=r"to version \d+: state of its stream is no longer there: _headwater/state"):
        plan(workspace, number)
    assert newest(workspace) == before
    storage.remove([manifest_name(chosen.target.manifest_id)])
    with pytest.raises(StorageError, match="its manifest is no longer there"):
        plan(workspace, number)


def test_a_stream_does_not_go_on_from_a_version_of_a_run(drops, streams):
    from pipeline.project.project import load  # noqa: PLC0415 - only here
    from pipeline.runner.runner import Runner  # noqa: PLC0415 - likewise

    (drops / "plant.py").write_text((drops / "plant.py").read_text().replace('event_time="time",', ""))
    (drops / "in").mkdir()
    (drops / "in" / "00.csv").write_text("time,sensor,degrees\n2024-01-01 00:00:00,s1,3\n")
    Runner(load(drops)).run()
    from tests.streaming.runtime.test_stream_savepoints import change  # noqa: PLC0415 - likewise

    change(drops)
    run(streams, drops, 1, begin="earliest")
    with pytest.raises(StorageError, match="it was not written by the stream, which could not go on from it"):
        plan(streams.opened(drops), 0)
