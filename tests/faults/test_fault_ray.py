"""Streams whose workers are Ray actors: actors are killed, their node is lost, and calls are lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.streaming.runtime.driver import StreamJobOptions
from pipeline.streaming.runtime.job import StreamJob
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.restart_policy import RestartPolicy
from pipeline.streaming.runtime.verify import verify

DEFINITIONS = """\
from pipeline import generate, source, sql

made = {"k": "i % 7", "at": "timestamp '2026-01-01' + to_milliseconds(i * 10)", "v": "i"}
ticks = source(
    generate(made, partitions=4, count=COUNT),
    schema={"k": "bigint", "at": "timestamp", "v": "bigint"}, event_time="at", stored=False,
)
minutes = sql("select tumble(at, interval '1 minute') as minute, k, count(*) as n, sum(v) as v from ticks group by all")
"""
PACE = Intervals(batch_s=0.01, commit_s=0.05, idle_commit_s=0.05, batch_offsets=500)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A separate cluster with one node, whose address is in RAY_ADDRESS."""
    import ray  # noqa: PLC0415 - importing Ray takes seconds
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
        ray.shutdown()
    cluster.shutdown()


def pid_of(hand: Any) -> int:
    import ray  # noqa: PLC0415 - likewise

    return ray.get(hand._actor.__ray_call__.remote(lambda _: os.getpid()))  # noqa: SLF001 - whom to kill


def running_of(folder: Path, count: int = 20_000) -> StreamJob:
    (folder / "headwater.toml").write_text('[project]\nname = "ticks"\ndefinitions = "ticks.py"\n')
    (folder / "ticks.py").write_text(DEFINITIONS.replace("COUNT", str(count)))
    workspace = Workspace(load(folder))
    stream_options = StreamOptions(intervals=PACE, shards=2, source_tasks=2)
    restart_policy = RestartPolicy(first_wait_s=0.05)
    return StreamJob(
        workspace, StreamJobOptions(until_caught_up=True, stream_options=stream_options, restart_policy=restart_policy)
    )


def held(running: StreamJob, count: int = 20_000) -> None:
    assert running.workspace.query("select sum(n)::bigint as n from minutes").to_pylist() == [{"n": 4 * count}]
    assert verify(running.workspace, "minutes").holds


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.fault(10)
def test_a_stream_survives_a_killed_worker(tmp_path, nodes):
    """Row 10: a source task is killed, then a state task."""
    assert nodes
    running = running_of(tmp_path)
    pids: list[int] = []

    def kill(job: StreamJob) -> None:
        stream, facts = job.streams.get("minutes"), job.statuses["minutes"]
        if stream is None or facts.recoveries != len(pids) or len(pids) == 2 or facts.commits < 3 * (1 + len(pids)):
            return
        hand = (stream._shards if pids else stream._sources).tasks[0]  # noqa: SLF001 - whom to kill
        pids.append(pid_of(hand))
        os.kill(pids[-1], signal.SIGKILL)

    running.run(kill, every_s=0.01)

    assert len(pids) == 2
    assert (running.statuses["minutes"].recoveries, running.statuses["minutes"].restarts) == (2, 0)
    held(running)


@pytest.mark.ray
@pytest.mark.proof
@pytest.mark.fault(11)
def test_a_lost_node_loses_no_commit(tmp_path, nodes):
    """Row 11: the node of the workers is removed while they run."""
    second = nodes.add_node(num_cpus=2)
    running = running_of(tmp_path, 40_000)
    removed = threading.Event()

    def take_away(job: StreamJob) -> None:
        if job.statuses["minutes"].commits >= 3 and not removed.is_set():
            removed.set()
            nodes.remove_node(second, allow_graceful=False)
            nodes.add_node(num_cpus=2)

    running.run(take_away, every_s=0.01)

    assert removed.is_set()
    held(running, 40_000)
