"""Functions of Ray datasets: the inputs as datasets, and the rows of the dataset that the function returns."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from pipeline.batch.splits import SPLIT_BYTES
from pipeline.core import scratch
from pipeline.core.errors import USER_CODE_ERRORS, DefinitionError, Place
from pipeline.core.functions import place_of
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.scan import Scan


class ScanDatasource(Datasource):
    """A Ray Data source with one read task per part of a scan."""

    def __init__(self, name: str, parts: Sequence[Scan]) -> None:
        """Create the source; nothing is read yet."""
        super().__init__()  # type: ignore[no-untyped-call]  # Ray is untyped
        self._name = name
        self._parts = parts

    def get_name(self) -> str:
        """Return the name of the table, shown in the Ray dashboard."""
        return self._name

    def estimate_inmemory_data_size(self) -> int:
        """Return the bytes of all parts."""
        return sum(part.size_bytes for part in self._parts)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """Return one task per part, ignoring Ray's parallelism."""
        del parallelism, data_context
        return [self._task(part, per_task_row_limit) for part in self._parts]

    def _task(self, part: Scan, row_limit: int | None) -> ReadTask:
        # Ray answers count() from this metadata, without reading
        metadata = BlockMetadata(num_rows=part.rows, size_bytes=part.size_bytes, input_files=None, exec_stats=None)
        return ReadTask(partial(_read, part), metadata, per_task_row_limit=row_limit)


def _read(part: Scan) -> list[pa.Table]:
    with connect() as con:
        return [arrow(con, part.query())]


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
    parts = scan.splits(split_bytes)
    dataset: ray.data.Dataset = ray.data.read_datasource(ScanDatasource(name, parts), override_num_blocks=len(parts))
    return dataset


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
