"""Tasks as one Ray Data execution: one fused read task per split, which returns only what it did."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import cloudpickle
import pyarrow as pa
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from pipeline.batch.task import SPLIT_BYTES, Split
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.scan import Scan


class Splits(Datasource):  # type: ignore[misc] - Ray's base class is untyped
    """A Ray Data source with one read task per split; a task gives the Arrow block that `work` makes of it."""

    def __init__(self, name: str, work: Callable[[Any], pa.Table], splits: Sequence[Any], size_bytes: int) -> None:
        """Keep the work and its splits; nothing is read yet."""
        super().__init__()
        self._name = name
        self._work = work
        self._splits = splits
        self._size_bytes = size_bytes

    def get_name(self) -> str:
        """Return the table's name, which the dashboard shows."""
        return self._name

    def estimate_inmemory_data_size(self) -> int:
        """Return the bytes of all splits together."""
        return self._size_bytes

    def get_read_tasks(self, parallelism: int, *_: object, **__: object) -> list[ReadTask]:
        """Return one task per split, whatever parallelism Ray would have chosen."""
        del parallelism
        metadata = BlockMetadata(num_rows=1, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(_blocks, self._work, split), metadata) for split in self._splits]


def _blocks(work: Callable[[Any], pa.Table], split: Any) -> list[pa.Table]:
    return [work(split)]


def run_tasks(name: str, task: Callable[[Split], Any], splits: Sequence[Split], size_bytes: int) -> Iterator[Any]:
    """Run a task for every split on the cluster and yield what each returns, as they finish.

    The cluster retries a task whose worker is lost; an error of the task itself ends the run and is raised here.
    """
    with _cluster():
        source = Splits(name, partial(_pickled, cloudpickle.dumps(task)), splits, size_bytes)
        found = ray.data.read_datasource(source, override_num_blocks=len(splits))
        try:
            for batch in found.iter_batches(batch_format="pyarrow", batch_size=None):
                for outcome in batch.column("outcome").to_pylist():
                    yield pickle.loads(outcome)  # noqa: S301 - our own task's answer, over the cluster's own channel
        except ray.exceptions.RayTaskError as error:
            raise error.cause or error from error


def dataset_rows(
    function: Callable[..., Any], inputs: Mapping[str, Scan], split_bytes: int = SPLIT_BYTES
) -> Iterator[pa.RecordBatchReader]:
    """Call a function with whole datasets, lazily, and yield one reader of the rows it makes, in Arrow."""
    with _cluster():
        datasets = {name: _dataset(name, scan, split_bytes) for name, scan in inputs.items()}
        blocks = function(**datasets).iter_batches(batch_format="pyarrow", batch_size=None)
        first = next(iter(blocks), None)
        if first is None:
            yield pa.RecordBatchReader.from_batches(pa.schema([]), [])
            return
        schema = first.schema

        def batches() -> Iterator[pa.RecordBatch]:
            yield from first.to_batches()
            for block in blocks:
                yield from block.cast(schema).to_batches()

        yield pa.RecordBatchReader.from_batches(schema, batches())


def _dataset(name: str, scan: Scan, split_bytes: int) -> ray.data.Dataset:
    splits = scan.splits(split_bytes)
    source = Splits(name, _read, splits, scan.size_bytes)
    return ray.data.read_datasource(source, override_num_blocks=len(splits))


def _read(scan: Scan) -> pa.Table:
    with connect() as con:
        return arrow(con, scan.query())


def _pickled(task: bytes, split: Split) -> pa.Table:
    outcome = pickle.loads(task)(split)  # noqa: S301 - our own task
    return pa.table({"outcome": pa.array([pickle.dumps(outcome)], pa.binary())})


@contextmanager
def _cluster() -> Iterator[None]:
    """Join the cluster that `RAY_ADDRESS` names, or start a local one for this process; leave a joined one alone."""
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    yield
