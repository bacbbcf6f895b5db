"""Tasks on a cluster that other work uses too, and that cannot meet every request."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
import ray.data
from ray.cluster_utils import Cluster

from pipeline.batch import ray_round, stragglers
from pipeline.batch.executor import RayExecutor
from pipeline.batch.ray_cluster import free_nodes, join, possible_nodes
from pipeline.batch.ray_tasks import run_tasks
from pipeline.batch.retries import SplitTask
from pipeline.batch.work import Split
from pipeline.core.cluster_settings import ClusterSettings
from pipeline.core.errors import DefinitionError, StorageError, UnavailableError
from pipeline.core.functions import table
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.kernel.pool import Limits

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(180),
    # Ray's settings class sets options that Ray itself deprecates
    pytest.mark.filterwarnings("ignore:`use_.*` is deprecated:DeprecationWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One node of four cores, whatever this machine has."""
    head = {"num_cpus": 4, "memory": 4 << 30, "resources": {"disk": 1}, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", cluster.address)
        join()
        yield
        ray.shutdown()
    cluster.shutdown()


def splits(count: int) -> list[Split]:
    return [Split(n, source_splits=(SourceSplit(SourceObject(f"{n}", 1, ""), 0, 1),)) for n in range(count)]


def test_a_task_that_runs_alone_leaves_the_cores_of_other_work():
    @ray.remote(num_cpus=0.25)
    class Reserving:
        def ready(self) -> bool:
            return True

    other = Reserving.remote()
    assert ray.get(other.ready.remote())
    deadline = time.monotonic() + 20
    while (free := free_nodes(ClusterSettings(), 1)) is None or not free or free[0].cpus == 4:
        assert time.monotonic() < deadline, "Ray does not report that a part of a core is used"
        time.sleep(0.1)

    executor = RayExecutor("alone", possible_nodes(ClusterSettings()), free)
    limits = executor.whole(1 << 30)

    assert limits.threads == 3
    (task,) = splits(1)
    assert [result for _, result in executor.run([SplitTask(lambda _: "done", task)], limits, lambda _: None)] == [
        "done"
    ]
    ray.kill(other)


def test_a_task_gets_the_whole_node_if_nodes_can_be_added():
    assert free_nodes(ClusterSettings(), possible=2) is None


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (ClusterSettings(resources={"disk": 2}), "disk 2"),
        (ClusterSettings(resources={"gpu": 1}), "gpu 1"),
        (ClusterSettings(task_memory_bytes=5 << 30), "memory 5,368,709,120"),
    ],
)
def test_resources_that_no_node_has_are_an_error(asked, named):
    with pytest.raises(UnavailableError, match="no nodes for tasks with these resources") as error:
        possible_nodes(asked)
    assert named in str(error.value)
    assert possible_nodes(ClusterSettings(resources={"disk": 1}, task_memory_bytes=1 << 30))


@pytest.mark.proof
def test_a_task_that_only_takes_long_has_few_copies(tmp_path, monkeypatch):
    for module in (ray_round, stragglers):
        monkeypatch.setattr(module, "LEAST_S", 0.5)

    def work(split: Split) -> int:
        (tmp_path / f"{split.index % 1000}-{os.getpid()}-{time.monotonic_ns()}").touch()
        if split.index % 1000 == 0:
            time.sleep(8)
        return split.index % 1000

    found = run_tasks("long", [SplitTask(work, split) for split in splits(8)], Limits(100 << 20, 1))

    assert sorted(result for _, result in found) == list(range(8))
    assert len(list(tmp_path.glob("0-*"))) <= 1 + ray_round.MAX_COPIES


@pytest.mark.proof
def test_a_dataset_function_that_crashes_its_worker_fails(step, scan, tmp_path):
    crashes = str(tmp_path)

    def crash(batch: Any) -> Any:
        (Path(crashes) / str(os.getpid())).touch()
        os.kill(os.getpid(), signal.SIGKILL)
        return batch

    @table()
    def killed(numbers: ray.data.Dataset) -> ray.data.Dataset:
        return numbers.map_batches(crash)

    with pytest.raises(DefinitionError, match="table 'killed' raised"):
        step(killed, {"numbers": scan(pa.table({"id": range(3)}))}, "ray")
    assert 1 <= len(list(tmp_path.iterdir())) <= 12


def test_a_task_that_cannot_write_names_its_machine_and_another_try_writes_other_files():
    seen = []

    def work(split: Split) -> int:
        raise StorageError("cannot write to disk below /lake", got=f"number {split.index}")

    (split,) = splits(1)
    for task in (split, replace(split, is_last_try=True), replace(split, is_last_try=True)):
        ((_, result),) = run_tasks("failing", [SplitTask(work, task)], Limits(100 << 20, 1))
        assert str(result.error).endswith(f"(on {socket.gethostname()})")
        seen.append(str(result.error))
    assert len(set(seen)) == 3
