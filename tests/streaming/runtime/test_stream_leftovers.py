"""Files that a killed process staged for an epoch it did not commit."""

from __future__ import annotations

from contextlib import closing

import pytest

from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime.leftovers import after
from pipeline.streaming.runtime.stream import Stream

NAMES = {
    "part-stream-0000aaaa-000000007-00000.parquet": 7,
    "part-stream-0000aaaa-000000008-00000.parquet": 8,
    "day=2024-01-01/part-stream-0000aaaa-000000012-00001-0.parquet": 12,
    "_headwater/state/stream-0000bbbb-000000008-0003.arrows": 8,
    "part-20240101-abcdef-00000.parquet": 0,  # of a run in batch
    "_headwater/state/other": 0,
}


@pytest.mark.parametrize("epoch", [0, 7, 8, 11, 12])
def test_only_files_of_later_epochs_are_left_over(epoch):
    assert after(NAMES, epoch) == tuple(name for name, of in NAMES.items() if of > epoch)


def test_the_first_commit_removes_what_was_there_before(plant, streams):
    folder = plant(count=1000)
    streams.start(folder, until_caught_up=True).run()
    workspace = streams.opened(folder)
    table, quarantined = workspace.table("by_minute"), workspace.lake.quarantine("by_minute")
    committed = table.version().manifest.epoch.number
    kept = set(table.storage.files())
    rows = streams.rows(folder, "by_minute")
    left = [
        (table, f"part-stream-0badcafe-{committed + 1:09d}-00000.parquet"),
        (table, f"_headwater/state/stream-0badcafe-{committed + 1:09d}-0000.arrows"),
        (quarantined, f"part-stream-0badcafe-{committed + 1:09d}-00001.parquet"),
    ]
    for place, name in left:
        place.storage.make()
        place.storage.write_bytes(name, b"torn")
    with closing(Stream(workspace, Planner(workspace).plan("by_minute"))) as stream:
        assert all(place.storage.has(name) for place, name in left), "nobody else may commit them only after a commit"
        stream.commit()
        stream.wait()
    assert not any(place.storage.has(name) for place, name in left)
    assert kept <= set(table.storage.files())
    assert streams.rows(folder, "by_minute") == rows
