"""Irregular event time: silent partitions, and rows from the future."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime.options import StreamOptions
from pipeline.streaming.runtime.stream import Stream
from tests.faults.streams import AT_ONCE, TOML, quarantine_of

PROJECT = """\
from pipeline import source, sql
from tests.faults.streams import Uneven

ticks = source(
    Uneven({{"id": "p * 100 + i", "happened": "{happened}"}}, counts={counts}),
    schema={{"id": "bigint", "happened": "timestamp"}}, event_time="happened", idle_after="30 seconds", stored=False,
)
minutes = sql("select tumble(happened, interval '1 minute') as minute, count(*) as n from ticks group by all")
"""
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)


class Drive:
    """A stream that the test runs step by step, with a clock that the test sets."""

    def __init__(self, folder, happened, counts):
        folder.mkdir()
        (folder / "headwater.toml").write_text(TOML)
        (folder / "clicks.py").write_text(PROJECT.format(happened=happened, counts=counts))
        self.workspace = Workspace(load(folder))
        self.now = BEGUN
        plan = Planner(self.workspace).plan("minutes")
        self.stream = Stream(self.workspace, plan, StreamOptions(intervals=AT_ONCE, shards=1), clock=lambda: self.now)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()

    def after(self, seconds: float) -> list[dict[str, object]]:
        """Return the emitted windows after the clock has advanced."""
        self.now += timedelta(seconds=seconds)
        self.stream.run_micro_batch()
        self.stream.save()
        table = self.workspace.table("minutes")
        rows = self.workspace.lake.rows(table) if table.version() else pa.table({"minute": []})
        return sorted(rows.to_pylist(), key=lambda row: row["minute"])


@pytest.mark.fault(19)
def test_rows_for_one_of_four_partitions_close_their_windows_when_the_others_are_idle(tmp_path):
    #   partition 0   ● every second of 3 minutes     partitions 1, 2, 3   nothing
    with Drive(tmp_path / "p", "timestamp '2026-01-01' + to_seconds(i)", (180, 0, 0, 0)) as drive:
        assert drive.after(1) == []  # the other partitions could contain rows of any time
        assert [row["n"] for row in drive.after(30)] == [60, 60]  # all partitions are idle: up to 00:02:59
        assert [row["n"] for row in drive.after(2)] == [60, 60, 60]  # follows the clock


@pytest.mark.fault(19)
def test_an_idle_stream_commits_nothing(tmp_path):
    """The watermark follows the clock, but if no window closes, there is nothing to commit."""
    with Drive(tmp_path / "p", "timestamp '2026-01-01' + to_seconds(i)", (90,)) as drive:
        drive.after(100)
        number = drive.stream.progress.epoch
        for _ in range(5):
            drive.after(2)
        assert drive.stream.progress.epoch == number
        assert [row["n"] for row in drive.after(60)] == [60, 30]
        assert drive.stream.progress.epoch == number + 1


@pytest.mark.fault(19)
def test_a_partition_far_ahead_closes_no_windows(tmp_path):
    #   partition 0   00:00 … 00:02     partition 1   00:30 … 00:32
    with Drive(tmp_path / "p", "timestamp '2026-01-01' + to_seconds(i + p * 1800)", (121, 121)) as drive:
        drive.now += timedelta(hours=1)
        assert [row["n"] for row in drive.after(1)] == [60, 60]


@pytest.mark.fault(20)
def test_rows_in_the_future_are_quarantined_and_close_no_window(tmp_path):
    #   00:00 … 00:01:30, every tenth row is one day ahead
    happened = "timestamp '2026-01-01' + to_seconds(i + case when i % 10 = 3 then 86400 else 0 end)"
    with Drive(tmp_path / "p", happened, (91,)) as drive:
        assert [row["n"] for row in drive.after(100)] == [54]
        quarantined = quarantine_of(drive.workspace, "minutes").to_pylist()
    assert [row["_position"] for row in quarantined] == list(range(3, 91, 10))
    assert {row["reasons"] for row in quarantined} == {"too far ahead of the clock"}
