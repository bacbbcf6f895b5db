"""Streams that return to their last commit, and that change their number of shards while they run."""

from __future__ import annotations

import random
import re
import time
from contextlib import closing
from dataclasses import replace

import pytest

from pipeline.core.errors import ConflictError, RequestError
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime.autoscaling import ScalingPolicy, ShardRange
from pipeline.streaming.runtime.control import rescale
from pipeline.streaming.runtime.job import catch_up
from pipeline.streaming.runtime.metrics import RunStatus
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.rescaler import Rescaler
from pipeline.streaming.runtime.stream import Stream
from pipeline.streaming.runtime.verify import verify
from tests.rigs import proofs

DEFINITIONS = """\
from pipeline import generate, quarantine, source, sql

made = {"k": "(i * 7919) % 300", "at": "timestamp '2026-01-01' + to_milliseconds(i * 40)", "v": "i"}
ticks = source(
    generate(made, partitions=3, count=3000),
    schema={"k": "bigint", "at": "timestamp", "v": "bigint"}, event_time="at", stored=False,
)
minutes = sql("select tumble(at, interval '1 minute') as minute, k, count(*) as n, sum(v) as v from ticks group by all")
first = sql("select k, at, v from ticks where v % 2 = 0", key="k", expect=[quarantine("odd", "k % 11 <> 3")])
"""
OPTIONS = StreamOptions(intervals=Intervals(0.0, 0.0, 0.0, batch_offsets=80), shards=2, source_tasks=2)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The rows of each table without disturbance."""
    folder = tmp_path_factory.mktemp("expected")
    catch_up(project(folder), stream_options=OPTIONS)
    return {name: rows(project(folder), name) for name in ("minutes", "first")}


def project(folder) -> Workspace:
    (folder / "headwater.toml").write_text('[project]\nname = "ticks"\ndefinitions = "ticks.py"\n')
    (folder / "ticks.py").write_text(DEFINITIONS)
    return Workspace(load(folder))


def rows(workspace: Workspace, name: str):
    return workspace.query(f'select * from "{name}" order by all').to_pylist()


def files_of(workspace: Workspace, name: str) -> tuple[set[str], set[str]]:
    """The data files and state files of a table that are there, and those to which its versions refer."""
    table = workspace.table(name)
    there = {path for path in table.storage.files() if not path.startswith("_delta_log")}
    known = set()
    for number in range(table.version().number + 1):
        version = table.version(number)
        known |= {file.uri.removeprefix(f"{table.storage.uri}/") for file in version.files}
        if version.manifest is not None and version.manifest.epoch is not None:
            known |= {file.path for file in version.manifest.epoch.state}
    return {path for path in there if path.endswith((".parquet", ".arrows"))}, known


@pytest.mark.share(1)
@pytest.mark.parametrize("name", ["minutes", "first"])
@pytest.mark.parametrize("seed", proofs.some(range(12), 2))
def test_recovery_and_rescaling_at_any_point_change_no_row(tmp_path, expected, name, seed):
    """Between micro-batches, and within a commit that is aborted: staged, or with its state saved."""
    dice = random.Random(seed)  # noqa: S311 - a seed for faults
    workspace = project(tmp_path)

    class AbortedError(Exception):
        pass

    def abort(step):
        if step in {"staged", "saved"} and dice.random() < 0.1:
            raise AbortedError

    stream = Stream(workspace, Planner(workspace).plan(name), OPTIONS, on_step=abort)
    recovered = rescaled = 0
    with closing(stream):
        while not stream.last.has_ended:
            try:
                stream.run_micro_batch()
                if dice.random() < 0.15:
                    shards = dice.randint(1, 4)
                    while not stream.rescale(shards):
                        time.sleep(0.001)
                    rescaled += 1
            except AbortedError:
                assert stream.recover() == 0
                recovered += 1
            if dice.random() < 0.1:
                stream.recover()
        stream._on_step = lambda _: None  # noqa: SLF001 - the last commit is not aborted
        stream.drain()
    assert recovered
    assert rescaled
    assert rows(workspace, name) == expected[name]
    assert verify(workspace, name).holds
    there, known = files_of(workspace, name)
    assert not there - known, "an aborted epoch leaves no files"


@pytest.mark.proof
def test_a_running_stream_is_rescaled_by_request(plant, streams):
    folder = plant(count=None, speed=2000)
    job = streams.start(folder)
    with streams.alive(job):
        workspace = streams.opened(folder)
        until(lambda: job.statuses["by_minute"].commits > 2 and job.statuses["by_minute"].status == RunStatus.RUNNING)
        stream = job.streams["by_minute"]
        sources = list(stream._sources.tasks)  # noqa: SLF001 - the tasks that go on
        for shards in (4, 1, 3):
            assert rescale(workspace, "by_minute", shards).facts["shards"] == shards
            assert stream.shards == shards
        assert job.streams["by_minute"] is stream
        assert stream._sources.tasks == sources, "source tasks are not restarted"  # noqa: SLF001 - likewise
        with pytest.raises(RequestError, match="stream 'hot' has no state, so it has no shards"):
            rescale(workspace, "hot", 2)
        with pytest.raises(ConflictError, match="has not reached 2 shards yet"):
            rescale(workspace, "by_minute", 2, wait_s=0)
    assert job.statuses["by_minute"].restarts == 0
    assert verify(streams.opened(folder), "by_minute").holds
    with pytest.raises(RequestError, match="stream 'by_minute' is not running"):
        rescale(streams.opened(folder), "by_minute", 2)


def test_a_stream_resumes_with_as_many_shards_as_it_scaled_to(tmp_path):
    workspace = project(tmp_path)
    plan, options = Planner(workspace).plan("minutes"), replace(OPTIONS, shards=ShardRange(1, 3))
    with closing(Stream(workspace, plan, options)) as stream:
        assert stream.shards == 1
        stream.run_micro_batch()
        while not stream.rescale(3):
            time.sleep(0.001)
        stream.save()
    for limits, shards in ((ShardRange(1, 4), 3), (ShardRange(1, 2), 2)):
        with closing(Stream(workspace, plan, replace(options, shards=limits))) as stream:
            assert stream.shards == shards


@pytest.mark.proof
def test_a_stream_scales_itself(tmp_path):
    """More shards while it is behind, fewer when it has read everything; the rows are the same."""
    workspace = project(tmp_path)
    bounds = ShardRange(1, 4)
    policy = ScalingPolicy(
        target_lag_s=0.001,
        high=0.5,
        low=0.5,
        least_state_share=0.0,
        strained=2,
        calm_s=0.2,
        cool_down_s=0.1,
        measure_s=0.05,
    )
    intervals = replace(OPTIONS.intervals, batch_s=0.05, batch_offsets=50, commit_s=0.5)
    options, said = replace(OPTIONS, shards=bounds, intervals=intervals), []
    with closing(Stream(workspace, Planner(workspace).plan("minutes"), options)) as stream:
        rescaler = Rescaler(bounds, stream.metrics, said.append, policy)
        most = 1
        give_up = time.monotonic() + 60
        while not (stream.last.has_ended and stream.shards == 1):
            assert time.monotonic() < give_up
            rescaler.rescale(stream, None)
            stream.run_micro_batch()
            most = max(most, stream.shards)
        stream.save()
    assert most == 4
    assert [re.match(r"\d shards? instead of \d", each)[0] for each in said] == [
        "2 shards instead of 1", "4 shards instead of 2", "2 shards instead of 4", "1 shard instead of 2",
    ]  # fmt: skip
    assert verify(workspace, "minutes").holds


def until(holds, seconds: float = 30.0) -> None:
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.01)
