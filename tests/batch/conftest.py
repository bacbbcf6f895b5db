from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.batch.execute import execute
from pipeline.batch.planning import execution_plan, source_execution_plan
from pipeline.batch.step import StepSpec
from pipeline.batch.work import Outcome
from pipeline.core.definitions import Source, StoredDefinition
from pipeline.core.execution import Execution, ExecutionLimits, NodeResources
from pipeline.core.settings import Settings
from pipeline.kernel.engine import connect
from pipeline.kernel.scan import DataFile, Scan
from pipeline.kernel.types import from_arrow
from pipeline.lake import Lake, Storage

APART = 600 << 20
"""A pretended size that puts every file into a separate split, although the files are small. A single file has its real size."""


SMALL_NODES = (NodeResources(1, 1 << 20), NodeResources(1, 1 << 20))
"""A pretended cluster on which statements over files of a pretended size run in buckets."""


@dataclass(frozen=True)
class StepResult:
    """The outcome of a step, with its staged and quarantined rows."""

    outcome: Outcome
    rows: list[dict[str, Any]]
    quarantined: list[dict[str, Any]]


@pytest.fixture
def scan(tmp_path) -> Callable[..., Scan]:
    """Return a function that writes each table to a file, and returns a scan of the files."""

    def write(*tables: pa.Table) -> Scan:
        files = []
        for table in tables:
            path = tmp_path / f"in-{len(list(tmp_path.glob('in-*')))}.parquet"
            pq.write_table(table, path)
            files.append(DataFile(str(path), table.num_rows, APART if len(tables) > 1 else path.stat().st_size))
        return Scan(from_arrow(tables[0].schema), tuple(files))

    return write


@pytest.fixture
def step(tmp_path) -> Callable[..., StepResult]:
    """Return a function that executes one step, inline or on Ray."""
    numbers = iter(range(1000))

    def do(
        definition: StoredDefinition,
        scans: Mapping[str, Scan],
        execution: Execution = "inline",
        storage: Storage | None = None,
        **options: Any,
    ) -> StepResult:
        lake = Lake(storage or Storage(str(tmp_path / f"lake{next(numbers)}")))
        if isinstance(definition, Source):
            source_splits = definition.reader.plan(None).splits
            plan = source_execution_plan(definition, source_splits, ExecutionLimits(execution))
            options = {
                "source_splits": source_splits,
                "reader": definition.reader,
                "schema": definition.schema,
                **options,
            }
        else:
            plan = execution_plan(definition, scans, limits=ExecutionLimits(execution, nodes=lambda: SMALL_NODES))
        spec = StepSpec(definition, plan, scans, "run1", "2024-01-01T00:00:00+00:00", **options)
        settings = Settings("p", tmp_path, tmp_path)
        outcome = execute(spec, lake, settings)
        stored = lake.table(definition.layer, definition.name).storage
        quarantined = lake.quarantine(definition.name).storage
        return StepResult(outcome, _read(stored, outcome.files), _read(quarantined, outcome.quarantined))

    return do


def _read(root: Storage, files: Any) -> list[dict[str, Any]]:
    if not files:
        return []
    names = ", ".join(f"'{root.uri}/{file.path}'" for file in files)
    with connect(filesystem=root.filesystem()) as con:
        rows = con.sql(f"from read_parquet([{names}], hive_partitioning = false)").to_arrow_table().to_pylist()
    return sorted(rows, key=repr)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A running Ray cluster, configured by RAY_ADDRESS as in production."""
    import ray  # noqa: PLC0415 - importing Ray takes seconds
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster.address
        ray.shutdown()
    cluster.shutdown()
