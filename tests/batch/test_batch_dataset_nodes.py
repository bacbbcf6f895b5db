"""The rows of a dataset function stay on the nodes that compute them: the driver's node receives only metadata."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
import ray
import ray.data
from ray._private.internal_api import node_stats
from ray.cluster_utils import Cluster

from pipeline.core.functions import table
from pipeline.quality import quarantine

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(180),
    # Ray's settings class sets options that Ray itself deprecates
    pytest.mark.filterwarnings("ignore:`use_.*` is deprecated:DeprecationWarning"),
]
ROWS = 100_000


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster whose head node, where the driver runs, has no cores."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
        ray.shutdown()
    cluster.shutdown()


def stored_bytes(*, of_driver: bool) -> int:
    """Return the bytes of all objects that were ever created on the nodes with or without the driver, also by transfers."""
    stats = [
        node_stats(node["NodeManagerAddress"], node["NodeManagerPort"]).store_stats.cumulative_created_bytes
        for node in ray.nodes()
        if ("CPU" not in node["Resources"]) == of_driver
    ]
    return sum(stats)


@pytest.mark.proof
def test_rows_do_not_reach_the_driver(nodes, step, scan):
    @table(key="id", expect=[quarantine("is_small", "id < 399990")])
    def placed(numbers: ray.data.Dataset) -> ray.data.Dataset:
        def with_node(block: pa.Table) -> pa.Table:
            return block.append_column("worker", pa.array([ray.get_runtime_context().get_node_id()] * block.num_rows))

        return numbers.map_batches(with_node, batch_format="pyarrow", batch_size=None).repartition(
            3
        )  # by exchanging objects

    parts = [pa.table({"id": range(n * ROWS, n * ROWS + ROWS)}) for n in range(4)]

    outcome = step(placed, {"numbers": scan(*parts)}, "ray")

    assert (outcome.outcome.flow.rows_out, outcome.outcome.flow.quarantined) == (4 * ROWS - 10, 10)
    assert {row["worker"] for row in outcome.rows} == {
        node["NodeID"] for node in ray.nodes() if "CPU" in node["Resources"]
    }
    assert stored_bytes(of_driver=False) > 5_000_000  # the rows are stored as objects between the workers
    assert stored_bytes(of_driver=True) < 500_000
    assert nodes
