"""Streams on a cluster of several nodes: placement, recovery in place, ten random kills with rescaling, a dead driver."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import SourceError, UnavailableError
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.streaming.runtime.actor_workers import ActorStarter
from pipeline.streaming.runtime.control import rescale
from pipeline.streaming.runtime.driver import StreamJobOptions
from pipeline.streaming.runtime.job import StreamJob, catch_up
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.restart_policy import RestartPolicy
from pipeline.streaming.runtime.verify import verify
from tests.rigs.proofs import PROOFS, SEED
from tests.rigs.ray_nodes import Nodes, cluster_with
from tests.rigs.uncommitted import uncommitted

DEFINITIONS = """\
from pipeline import generate, source, sql

made = {"k": "i % 97", "at": "timestamp '2026-01-01' + to_milliseconds(i * 10)", "v": "i"}
ticks = source(
    generate(made, partitions=4, per_second=1500, count=COUNT),
    schema={"k": "bigint", "at": "timestamp", "v": "bigint"}, event_time="at", stored=False,
)
minutes = sql("select tumble(at, interval '1 minute') as minute, k, count(*) as n, sum(v) as v from ticks group by all")
"""
PACE = Intervals(batch_s=0.05, commit_s=0.2, idle_commit_s=0.2)
RECOVERY_S = 10.0 if PROOFS else 60.0
"""From a kill to the next commit: the promise, and what is enough beside other tests."""


def project(folder: Path, count: int | None = None) -> Workspace:
    (folder / "headwater.toml").write_text('[project]\nname = "ticks"\ndefinitions = "ticks.py"\n')
    (folder / "ticks.py").write_text(DEFINITIONS.replace("COUNT", str(count)))
    return Workspace(load(folder))


class Running:
    """A stream that runs in the background."""

    def __init__(self, job: StreamJob) -> None:
        self.job = job
        self.said: list[str] = []

    @property
    def status(self) -> Any:
        return self.job.statuses["minutes"]

    @property
    def commits(self) -> int:
        stream = self.job.streams.get("minutes")
        return 0 if stream is None else stream.metrics.commits

    @property
    def recoveries(self) -> int:
        stream = self.job.streams["minutes"]
        return stream.metrics.recoveries + stream.metrics.restarts

    def workers(self) -> dict[str, Any]:
        """The handles of the workers by name; empty while they are replaced."""
        stream = self.job.streams["minutes"]
        workers = (*stream._workers.sources.tasks, *stream._workers.shards.tasks)  # noqa: SLF001 - whom to kill
        return {worker.name: worker for worker in workers}

    def pid_and_node(self, name: str) -> tuple[int, str]:
        import ray  # noqa: PLC0415 - likewise

        def of(_: Any) -> tuple[int, str]:
            return os.getpid(), ray.get_runtime_context().get_node_id()

        return ray.get(self.workers()[name]._actor.__ray_call__.remote(of), timeout=30)  # noqa: SLF001 - likewise

    def wait_for_commits(self, number: int, seconds: float) -> float:
        """Wait until this many commits were made from now on, and return how long that took."""
        return wait(lambda target=self.commits + number: self.commits >= target, seconds)


def wait(holds: Callable[[], bool], seconds: float) -> float:
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, "did not happen in time"
        time.sleep(0.01)
    return time.monotonic() - began


@contextmanager
def running(workspace: Workspace, shards: int) -> Iterator[Running]:
    options = StreamJobOptions(
        stream_options=StreamOptions(intervals=PACE, shards=shards, source_tasks=2),
        restart_policy=RestartPolicy(most=20, first_wait_s=0.05),
    )
    holder: list[Running] = []
    job = StreamJob(workspace, options, on_restart=lambda _, message: holder[0].said.append(message))
    holder.append(Running(job))
    thread = threading.Thread(target=job.run, kwargs={"every_s": 0.02})
    thread.start()
    try:
        holder[0].wait_for_commits(3, 60)
        yield holder[0]
    finally:
        job.stop()
        thread.join()
    assert not job.errors


def same_answers(workspace: Workspace) -> None:
    assert verify(workspace, "minutes").holds
    catch_up(workspace, ("minutes",))  # the next run
    assert verify(workspace, "minutes").holds
    assert uncommitted(workspace.project.settings.root) == []


# It has a cluster of its own, and comes before the tests that share one: a process can use only one at a time.


@pytest.mark.ray
@pytest.mark.proof
@pytest.mark.fault(11)
def test_a_stream_recovers_from_a_node_that_does_not_answer(tmp_path):
    """Row 11: a node vanishes without closing its connections; Ray notices after three seconds, as configured here."""
    checks = {"period_ms": "500", "timeout_ms": "1000", "failure_threshold": "3", "initial_delay_ms": "0"}
    with cluster_with(cpus=2, **{f"RAY_health_check_{name}": value for name, value in checks.items()}) as nodes:
        workspace = project(tmp_path)
        with running(workspace, shards=2) as stream:
            second = nodes.second.node_id
            assert any(stream.pid_and_node(name)[1] == second for name in stream.workers())
            recoveries, began = stream.recoveries, time.monotonic()
            with nodes.frozen():
                wait(lambda: stream.recoveries > recoveries, 60)
                stream.wait_for_commits(1, 60)
                print(f"{time.monotonic() - began:.1f} s until the next commit")  # noqa: T201 - measured
            stream.wait_for_commits(1, 60)
        same_answers(workspace)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with cluster_with(cpus=2) as started:
        yield started


@pytest.mark.ray
@pytest.mark.fault(10)
def test_a_killed_worker_is_replaced_and_the_others_go_on(tmp_path, nodes):
    assert nodes
    workspace = project(tmp_path)
    with running(workspace, shards=2) as stream:
        names = sorted(stream.workers())
        before = {name: stream.pid_and_node(name) for name in names}
        assert names == [f"ticks.minutes.{each}" for each in ("shard-0", "shard-1", "source-0", "source-1")]
        assert len({node for _, node in before.values()}) == 2, "workers are spread over the nodes"
        os.kill(before["ticks.minutes.shard-0"][0], signal.SIGKILL)
        assert stream.wait_for_commits(2, RECOVERY_S) < RECOVERY_S  # one may have started before the kill
        assert (stream.status.recoveries, stream.status.restarts) == (1, 0)
        others = {name: place for name, place in before.items() if name != "ticks.minutes.shard-0"}
        assert {name: stream.pid_and_node(name) for name in others} == others, "the others keep their processes"
        assert any("1 worker lost and replaced in" in message for message in stream.said)
    same_answers(workspace)


class Broken:
    """A worker that cannot be created."""

    def __init__(self) -> None:
        raise SourceError("the log is gone")

    def close(self) -> None:
        raise AssertionError

    def read(self) -> int:
        return 1


@pytest.mark.ray
def test_workers_without_room_and_workers_that_cannot_be_created_name_the_reason(nodes):
    assert nodes
    worker = ActorStarter("ticks.minutes", 64, start_s=0.5)(Broken, "shard-0")
    try:
        with pytest.raises(
            UnavailableError, match=r"no room for the worker ticks.minutes.shard-0: got no node with 64 free CPU"
        ):
            worker.wait_started()
    finally:
        worker.abandon()
    worker = ActorStarter("ticks.minutes", 0.25)(Broken, "shard-0")
    try:
        worker.wait_started()
        with pytest.raises(SourceError, match="the log is gone"):
            worker.submit(Broken.read).result()
    finally:
        worker.abandon()


DRIVER = """
import os, sys
import ray
from pathlib import Path
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.streaming.runtime.job import StreamJob, StreamJobOptions
from pipeline.streaming.runtime.options import StreamOptions

def say(job):
    if job.statuses["minutes"].commits >= 2 and not said:
        workers = job.streams["minutes"]._workers
        actors = [w._actor for w in (*workers.sources.tasks, *workers.shards.tasks)]
        said.append(ray.get([a.__ray_call__.remote(lambda _: os.getpid()) for a in actors]))
        print(*said[0], flush=True)

said = []
options = StreamJobOptions(stream_options=StreamOptions(shards=2, source_tasks=2))
StreamJob(Workspace(load(Path(sys.argv[1]))), options).run(say, every_s=0.05)
"""


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.fault(10)
def test_a_killed_driver_leaves_no_actor(tmp_path, nodes):
    assert nodes
    project(tmp_path)
    with subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as driver:
        try:
            pids = [int(pid) for pid in driver.stdout.readline().split()]
            assert len(pids) == 4
            assert all(lives(pid) for pid in pids)
        finally:
            driver.kill()
    wait(lambda: not any(lives(pid) for pid in pids), RECOVERY_S)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill(stream: Running, dice: random.Random) -> float:
    """Kill a worker; return the time until the first commit after the recovery."""
    recoveries, name = stream.recoveries, dice.choice(sorted(stream.workers()))
    os.kill(stream.pid_and_node(name)[0], signal.SIGKILL)
    return wait(lambda: stream.recoveries > recoveries, 60) + stream.wait_for_commits(1, 60)


def lose_node(stream: Running, nodes: Nodes) -> float:
    """Kill the second node and add another one; return the time until the first commit after the recovery, if one was needed."""
    recoveries, node = stream.recoveries, nodes.second.node_id
    is_used = any(stream.pid_and_node(name)[1] == node for name in stream.workers())
    began = time.monotonic()
    nodes.replace()
    if is_used:
        wait(lambda: stream.recoveries > recoveries, 60)
    stream.wait_for_commits(1, 60)
    return time.monotonic() - began


@pytest.mark.ray
@pytest.mark.proof
@pytest.mark.fault(10, 11, 26)
@pytest.mark.parametrize("seed", [SEED, SEED + 1])
def test_ten_random_kills_of_workers_and_nodes_with_rescaling(tmp_path, nodes, seed):
    """A worker, or the second node with all its workers, is killed at any time; 1, 3 and 2 shards."""
    dice = random.Random(seed)  # noqa: S311 - a seed for faults
    workspace = project(tmp_path)
    took: list[tuple[str, float]] = []
    with running(workspace, shards=1) as stream:
        for number in range(10):
            if number in {3, 7}:
                shards = 3 if number == 3 else 2
                assert rescale(workspace, "minutes", shards).facts["shards"] == shards
            time.sleep(dice.uniform(0.0, 1.0))  # at any point of an epoch
            took.append(("node", lose_node(stream, nodes)) if dice.random() < 0.3 else ("worker", kill(stream, dice)))
        print(f"seed {seed}: {stream.status.recoveries} recoveries, {stream.status.restarts} restarts, {took}")  # noqa: T201 - measured
        assert stream.job.streams["minutes"].shards == 2
    assert all(seconds < RECOVERY_S for _, seconds in took), took
    same_answers(workspace)
