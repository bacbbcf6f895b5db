"""A slow store with a backlog: epochs stay small, and reading waits for writing."""

from __future__ import annotations

import time

import pytest

from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.stream import Stream
from pipeline.streaming.runtime.verify import verify

DEFINITIONS = """\
from pipeline import generate, source, sql

ticks = source(
    generate({"id": "i * 2 + p", "at": "timestamp '2026-01-01' + to_milliseconds(i)"}, partitions=2, count=20_000),
    schema={"id": "bigint", "at": "timestamp"}, event_time="at", stored=False,
)
kept = sql("select id, at from ticks")
"""
OFFSETS = 1000


@pytest.mark.fault(30)
def test_a_slow_store_applies_backpressure(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "ticks"\ndefinitions = "ticks.py"\n')
    (tmp_path / "ticks.py").write_text(DEFINITIONS)
    workspace = Workspace(load(tmp_path))
    intervals = Intervals(batch_s=0.0, commit_s=0.0, idle_commit_s=0.0, batch_offsets=OFFSETS)
    committed: list[int] = []

    def slow(step: str) -> None:
        if step == "committed":
            time.sleep(0.1)  # ten times the duration of a commit
            committed.append(len(committed) + 1)

    ahead = []
    stream = Stream(workspace, Planner(workspace).plan("kept"), StreamOptions(intervals=intervals), on_step=slow)
    while not stream.last.has_ended:
        assert stream.run_micro_batch() <= 2 * OFFSETS
        ahead.append(stream.progress.epoch - len(committed))
    stream.drain()
    stream.close()

    assert max(ahead) <= 2  # the epoch that is being committed, and the next one, which waits
    assert len(committed) >= 20
    assert verify(workspace, "kept").holds
