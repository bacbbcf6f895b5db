"""Batch tasks on a cluster of several nodes: stragglers, drained, lost and killed nodes, a restarted head, lost RPCs."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.batch import planning
from pipeline.batch.ray_tasks import run_tasks
from pipeline.batch.retries import Repeats, SplitTask
from pipeline.batch.splits import Slots
from pipeline.batch.work import Split
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.kernel.pool import Limits
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner.decide import RunOptions
from pipeline.runner.runner import Runner
from tests.rigs.proofs import SEED
from tests.rigs.ray_nodes import Nodes, cluster_with
from tests.rigs.uncommitted import uncommitted

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
ONE_CORE = Limits(100 << 20, 1)
FILES, ROWS = 12, 2_000
DEFINITIONS = """
from pipeline import files, quarantine, source, sql

raw = source(files("in/*.csv"), schema={"id": "bigint", "k": "bigint", "v": "bigint"})
rows = sql("select id, k, v * 2 as v from raw", expect=[quarantine("few", "id % 1000 <> 7")])
per_key = sql("select k, count(*) as n, sum(v) as v from rows group by k", key="k")
pairs = sql("select a.id, a.v + b.v as v from rows a join raw b using (id)")
"""


def splits(count: int) -> list[Split]:
    """Splits of one byte, so that their order and their speed are known."""
    return [Split(n, source_splits=(SourceSplit(SourceObject(f"{n}", 1, ""), 0, 1),)) for n in range(count)]


def results(run: Callable[[Split], Any], count: int, repeats: Repeats | None = None) -> list[Any]:
    found = run_tasks("nodes.test", [SplitTask(run, split) for split in splits(count)], ONE_CORE, repeats=repeats)
    return sorted((split.index, result) for split, result in found)


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Workspace:
    """A project whose inputs are divided into many splits, and whose join runs in buckets."""
    monkeypatch.setattr(Slots, "target", lambda _, total: max(1, -(-total // 6)))
    monkeypatch.setattr(planning, "BROADCAST_BYTES", 1)
    monkeypatch.setattr(planning, "EXPANSION", 1 << 30)  # nothing fits in one worker
    folder = tmp_path / "in"
    folder.mkdir()
    for file in range(FILES):
        lines = [f"{n},{n % 97},{n % 11}" for n in range(file * ROWS, (file + 1) * ROWS)]
        (folder / f"{file:02}.csv").write_text("id,k,v\n" + "\n".join(lines) + "\n")
    (tmp_path / "headwater.toml").write_text(
        '[project]\nname = "kills"\ndefinitions = "kills.py"\n[env.dev]\nexecution = "ray"\n'
    )
    (tmp_path / "kills.py").write_text(DEFINITIONS)
    return Workspace(load(tmp_path))


def run_is_right(workspace: Workspace) -> None:
    """Run everything again, and compare with what the input contains."""
    run = Runner(workspace.project, RunOptions(full=True, threads=1)).run()

    every = range(FILES * ROWS)
    kept = [n for n in every if n % 1000 != 7]
    assert {step.name: step.executor for step in run.steps} == dict.fromkeys(("raw", "rows", "per_key", "pairs"), "ray")
    assert {step.name: step.strategy for step in run.steps}["pairs"] == "exchange"
    [row] = workspace.query("select count(*) as n, sum(v)::bigint as v from pairs").to_pylist()
    assert row == {"n": len(kept), "v": sum(3 * (n % 11) for n in kept)}
    [row] = workspace.query("select count(*) as k, sum(n)::bigint as n, sum(v)::bigint as v from per_key").to_pylist()
    assert row == {"k": 97, "n": len(kept), "v": sum(2 * (n % 11) for n in kept)}
    step = {step.name: step for step in run.steps}["rows"]
    assert (step.flow.rows_out, step.flow.quarantined) == (len(kept), len(every) - len(kept))


# These have clusters of their own, and come before the tests that share one: a process can use only one at a time.


@pytest.mark.proof
@pytest.mark.fault(11)
def test_a_node_that_does_not_answer_loses_no_work():
    """Row 11: a node vanishes without closing its connections; its tasks are run on the other, also before Ray notices."""
    with cluster_with() as nodes:

        def work(split: Split) -> int:
            time.sleep(1)
            return split.index % 1000

        with ThreadPoolExecutor(1) as pool:
            repeats = Repeats()
            found = pool.submit(results, work, 16, repeats)
            time.sleep(4)
            with nodes.frozen():
                assert found.result(timeout=200) == [(n, n) for n in range(16)]
            assert repeats.any


@pytest.mark.proof
@pytest.mark.fault(12)
def test_a_run_goes_on_after_its_head_has_restarted(tmp_path):
    """Row 12: the control store, which keeps its state in RocksDB, is killed and started again while tasks run."""
    (tmp_path / "gcs").mkdir()
    with cluster_with(RAY_gcs_storage="rocksdb", RAY_gcs_storage_path=str(tmp_path / "gcs")) as nodes:

        def work(split: Split) -> int:
            time.sleep(1)
            return split.index % 1000

        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(results, work, 20)
            time.sleep(5)
            nodes.cluster.head_node.kill_gcs_server()
            time.sleep(3)
            assert not found.done()
            nodes.cluster.head_node.start_gcs_server()
            begun = time.monotonic()
            assert found.result(timeout=60 + 20) == [(n, n) for n in range(20)]
            assert time.monotonic() - begun < 60  # the remaining tasks take 10 s


@pytest.mark.proof
@pytest.mark.timeout(600)
@pytest.mark.fault(13)
def test_lost_calls_between_nodes_lose_nothing(workspace):
    """Row 13: Ray loses requests and replies of the calls that lease workers, start tasks and return workers."""
    names = ("CoreWorkerService.grpc_client.PushTask", "NodeManagerService.grpc_client.RequestWorkerLease")
    names += ("NodeManagerService.grpc_client.ReturnWorkerLease", "NodeManagerService.grpc_client.PinObjectIDs")
    each = {"num_failures": 20, "req_failure_prob": 15, "resp_failure_prob": 15}
    avoid = {"RAY_testing_rpc_failure_avoid_intra_node_failures": "0"}
    with cluster_with(RAY_testing_rpc_failure=json.dumps(dict.fromkeys(names, each)), **avoid) as nodes:
        for _ in range(3):
            run_is_right(workspace)
        logs = Path(nodes.cluster.head_node.get_session_dir_path()) / "logs"
        lost = sum(file.read_bytes().count(b"Inject RPC re") for file in logs.rglob("*") if file.is_file())
    assert lost >= 5


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with cluster_with() as started:
        yield started


@pytest.mark.proof
def test_a_straggler_is_run_a_second_time(nodes):
    assert nodes

    def work(split: Split) -> str:
        if split.index == 3:  # the first call of this split; its copy has another index
            time.sleep(120)
        return "copy" if split.index > 100 else "first"

    repeats, begun = Repeats(), time.monotonic()

    assert results(work, 8, repeats) == [(n, "copy" if n == 3 else "first") for n in range(8)]
    assert time.monotonic() - begun < 60
    assert repeats.any


@pytest.mark.proof
@pytest.mark.fault(11)
@pytest.mark.parametrize("notice", [True, False])
def test_a_preempted_node_loses_no_work(nodes, notice):
    """Row 11: a node is taken away, after it was drained or without notice, and another one is added."""

    def work(split: Split) -> int:
        time.sleep(1)
        return split.index % 1000

    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(results, work, 24)
        time.sleep(4)
        if notice:
            drained(nodes.second.node_id, seconds=5)
            time.sleep(5)
        nodes.replace()
        assert not found.done()
        assert found.result() == [(n, n) for n in range(24)]


def drained(node_id: str, seconds: float) -> None:
    """Announce that a node will be taken away."""
    import ray  # noqa: PLC0415 - likewise
    from ray._raylet import GcsClient  # noqa: PLC0415 - likewise
    from ray.core.generated import autoscaler_pb2  # noqa: PLC0415 - likewise

    client = GcsClient(ray.get_runtime_context().gcs_address)
    until_ms = int((time.time() + seconds) * 1000)
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, message = client.drain_node(node_id, reason, "preempted", until_ms)
    assert accepted, message


@pytest.mark.proof
def test_a_project_runs_in_many_splits_on_two_nodes(nodes, workspace):
    assert nodes
    run_is_right(workspace)


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.fault(10)
@pytest.mark.fault(11)
def test_ten_random_kills_change_no_answer(nodes, workspace):
    """Rows 10 and 11: workers and nodes are killed while a project runs, again and again."""
    draw, kills = random.Random(SEED), list[str]()  # noqa: S311 - a reproducible seed
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(run_is_right, workspace)
        while len(kills) < 10:
            time.sleep(draw.uniform(0.5, 3))
            if run.done():
                run.result()
                run = pool.submit(run_is_right, workspace)
            running = nodes.workers()
            if draw.random() < 0.3:
                nodes.replace()
                kills.append("node")
            elif running:
                os.kill(draw.choice(running), signal.SIGKILL)
                kills.append("worker")
        run.result()

    assert set(kills) == {"node", "worker"}
    run_is_right(workspace)
    assert uncommitted(workspace.project.settings.root) == []
