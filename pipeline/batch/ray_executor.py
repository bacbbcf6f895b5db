"""Runs tasks as one Ray Data execution: one fused read task per split, which returns only metadata."""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import cloudpickle
import pyarrow as pa
import ray
import ray.cloudpickle
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from pipeline.batch.ray_cluster import join
from pipeline.batch.retries import result_or_failure
from pipeline.batch.splits import SPLIT_BYTES
from pipeline.batch.work import Split
from pipeline.core import scratch
from pipeline.core.errors import USER_CODE_ERRORS, DefinitionError, Place
from pipeline.core.functions import place_of
from pipeline.kernel.budget import Budget
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.scan import Scan

MAX_ATTEMPTS = 3
"""The maximum number of workers that a task may crash."""


@dataclass(frozen=True)
class RayTask:
    """A read task: the argument for `work`, and the expected rows and bytes of the result, if known."""

    argument: Any
    rows: int | None = None
    size_bytes: int | None = None


class TaskDatasource(Datasource):
    """A Ray Data source with one read task per split; a task returns the Arrow block that `work` computes."""

    def __init__(self, name: str, work: Callable[[Any], pa.Table], reads: Sequence[RayTask]) -> None:
        """Create the source; nothing is read yet."""
        super().__init__()  # type: ignore[no-untyped-call]  # Ray is untyped
        self._name = name
        self._work = work
        self._reads = reads

    def get_name(self) -> str:
        """Return the name of the table, shown in the Ray dashboard."""
        return self._name

    def estimate_inmemory_data_size(self) -> int | None:
        """Return the total bytes of all splits, if known."""
        sizes = [read.size_bytes for read in self._reads if read.size_bytes is not None]
        return sum(sizes) if len(sizes) == len(self._reads) else None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """Return one task per split, ignoring Ray's parallelism."""
        del parallelism, data_context
        return [self._task(read, per_task_row_limit) for read in self._reads]

    def _task(self, read: RayTask, row_limit: int | None) -> ReadTask:
        # Ray answers count() from this metadata, without reading
        metadata = BlockMetadata(num_rows=read.rows, size_bytes=read.size_bytes, input_files=None, exec_stats=None)
        return ReadTask(partial(_blocks, self._work, read.argument), metadata, per_task_row_limit=row_limit)


def _blocks(work: Callable[[Any], pa.Table], argument: Any) -> list[pa.Table]:
    return [work(argument)]


def cluster_budget() -> Budget:
    """Return the number of concurrent tasks of the cluster, and their total memory."""
    join()
    known = ray.nodes()  # type: ignore[no-untyped-call]  # Ray is untyped
    nodes = [node["Resources"] for node in known if node["Alive"] and node["Resources"].get("CPU")]
    slots = max(1, int(sum(node["CPU"] for node in nodes)))
    least = min((node.get("memory", 0) / node["CPU"] for node in nodes), default=0)
    return Budget(int(least * slots), slots)


def run_tasks(name: str, task: Callable[[Split], Any], splits: Sequence[Split]) -> Iterator[tuple[Split, Any]]:
    """Run a task for every split on the cluster, and yield each split with its result as it finishes.

    Ray retries a task whose worker crashed. A split that crashes `MAX_ATTEMPTS` workers is not yielded. An error of the
    task itself stops all tasks and is raised.
    """
    with _cluster():
        size = sum(split.size_bytes for split in splits) // len(splits)
        reads = [RayTask(split, rows=1, size_bytes=size) for split in splits]
        source = TaskDatasource(name, partial(_pickled, cloudpickle.dumps(task)), reads)
        answers = ray.data.read_datasource(source, override_num_blocks=len(splits), num_cpus=1)
        for batch in answers.iter_batches(batch_format="pyarrow", batch_size=None):
            for answer in batch.column("outcome").to_pylist():
                index, outcome, error = pickle.loads(answer)  # noqa: S301 - the result of our task, over Ray's channel
                if error is not None:
                    raise error
                if outcome is not None:  # otherwise it crashed too many workers
                    yield next(split for split in splits if split.index == index), outcome


def dataset_rows(
    function: Callable[..., Any], inputs: Mapping[str, Scan], split_bytes: int = SPLIT_BYTES
) -> Iterator[pa.RecordBatchReader]:
    """Call a function with complete datasets, execute the returned dataset once, and yield one reader of its rows.

    The rows are stored on disk in blocks, so that errors are raised here, and types may differ between blocks. Raises
    `DefinitionError` if the function or a step of its dataset raises, if it does not return a dataset, or if the columns of
    blocks are incompatible.
    """
    place = place_of(function)
    with _cluster(), scratch.folder("dataset") as folder:
        datasets = {name: _dataset(name, scan, split_bytes) for name, scan in inputs.items()}
        try:
            result = function(**datasets)
            if isinstance(result, ray.data.Dataset):
                files, schemas = _write_blocks(result, Path(folder))
        except USER_CODE_ERRORS as error:  # here or on a worker
            kind, text = _raised(error)
            raise DefinitionError(f"table {function.__name__!r} raised {kind}", got=text, place=place) from error
        if not isinstance(result, ray.data.Dataset):
            problem = f"table {function.__name__!r} must return a dataset"
            raise DefinitionError(problem, got=type(result).__name__, do="return a ray.data.Dataset", place=place)
        yield _combined_reader(function.__name__, files, schemas, place)


def _raised(error: BaseException) -> tuple[str, str]:
    """Return the class and the message of the user's error, extracted from Ray's report if it was raised on a worker."""
    if not isinstance(error, ray.exceptions.RayTaskError):
        return type(error).__name__, str(error)
    last = str(error).partition("\n\n")[0].strip().rpartition("\n")[2]
    kind, _, text = last.partition(": ")
    return kind, text


def _write_blocks(dataset: ray.data.Dataset, folder: Path) -> tuple[list[Path], list[pa.Schema]]:
    """Write each block to a file, and return the files and schemas of the blocks."""
    files: list[Path] = []
    schemas: list[pa.Schema] = []
    blocks = cast("Iterable[pa.Table]", dataset.iter_batches(batch_format="pyarrow", batch_size=None))
    for number, block in enumerate(blocks):
        files.append(folder / f"{number:06d}.arrow")
        schemas.append(block.schema)
        with pa.ipc.new_file(str(files[-1]), block.schema) as file:
            file.write_table(block)
    if not schemas:
        schema = dataset.schema()
        schemas.append(pa.schema([]) if schema is None else schema.base_schema)
    return files, schemas


def _combined_reader(
    name: str, files: Sequence[Path], schemas: Sequence[pa.Schema], place: Place
) -> pa.RecordBatchReader:
    """Return a reader of all blocks, cast to their common columns and types."""
    first = schemas[0].names
    if not first:
        raise DefinitionError(
            f"table {name!r} returned an empty dataset, whose columns are unknown",
            do="use SQL, or a function of pa.Table, if the result may be empty",
            place=place,
        )
    other = next((schema.names for schema in schemas if set(schema.names) != set(first)), None)
    if other is not None:
        problem = f"table {name!r} returned blocks with different columns"
        raise DefinitionError(problem, got=f"{', '.join(first)} and {', '.join(other)}", place=place)
    try:
        schema = pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException as error:
        raise DefinitionError(
            f"table {name!r} returned blocks with incompatible types", got=str(error), do="cast them", place=place
        ) from error

    def batches() -> Iterator[pa.RecordBatch]:
        for path in files:
            with pa.memory_map(str(path)) as source:
                block = pa.ipc.open_file(source).read_all()
            yield from block.select(schema.names).cast(schema).to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())


def _dataset(name: str, scan: Scan, split_bytes: int) -> ray.data.Dataset:
    reads = [RayTask(part, part.rows, part.size_bytes) for part in scan.splits(split_bytes)]
    dataset: ray.data.Dataset = ray.data.read_datasource(
        TaskDatasource(name, _read, reads), override_num_blocks=len(reads)
    )
    return dataset


def _read(scan: Scan) -> pa.Table:
    with connect() as con:
        return arrow(con, scan.query())


def _pickled(task: bytes, split: Split) -> pa.Table:
    """Run a task, and return the split's index with its outcome or error; with neither if the task is given up."""
    outcome = error = None
    try:
        if _attempt_number() >= MAX_ATTEMPTS:
            return _answer(split, None, None)
        outcome = result_or_failure(partial(pickle.loads(task), split))  # noqa: S301 - our own task
    except Exception as raised:  # noqa: BLE001 - it is raised again in the driver
        error = raised
    return _answer(split, outcome, error)


def _answer(split: Split, outcome: object, error: Exception | None) -> pa.Table:
    try:
        answer = pickle.dumps((split.index, outcome, error))
    except Exception:  # noqa: BLE001 - a user's error that cannot be pickled
        answer = pickle.dumps((split.index, None, RuntimeError(f"{type(error).__name__}: {error}")))
    return pa.table({"outcome": pa.array([answer], pa.binary())})


def _attempt_number() -> int:
    """Return the number of workers that this task has crashed; Ray Data itself retries without limit."""
    worker: Any = ray._private.worker.global_worker  # noqa: SLF001 - Ray has no public API for it
    return int(worker.core_worker.get_current_task_attempt_number())


@contextmanager
def _cluster() -> Iterator[None]:
    """Connect to the cluster of `RAY_ADDRESS`, or start a local one; an existing connection is reused."""
    join()
    known = cloudpickle.list_registry_pickle_by_value() & sys.modules.keys()
    for module in known:  # the user's modules; Ray bundles a separate cloudpickle
        ray.cloudpickle.register_pickle_by_value(sys.modules[module])  # type: ignore[no-untyped-call]  # Ray is untyped
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for handler in logging.getLogger("ray.data").handlers:
        if not isinstance(handler, logging.FileHandler):  # it repeats errors that are raised; the log file is complete
            handler.setLevel(logging.CRITICAL)
    yield
