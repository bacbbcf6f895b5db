"""Functions of Ray datasets: the inputs as datasets, and the rows of the dataset that the function returns."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
import pyarrow as pa
import ray
import ray.cloudpickle
import ray.data

from pipeline.batch.dataset_blocks import BlockDatasink, WrittenBlock
from pipeline.batch.ray_cluster import join
from pipeline.batch.ray_tasks import MAX_ATTEMPTS
from pipeline.batch.scan_datasource import TableRead
from pipeline.core.errors import USER_CODE_ERRORS, DefinitionError, Place
from pipeline.core.functions import place_of
from pipeline.lake import Storage


@dataclass(frozen=True)
class DatasetBlocks:
    """The rows of a dataset, in files of blocks, and their common columns and types."""

    blocks: tuple[WrittenBlock, ...]
    schema: pa.Schema


def write_dataset(function: Callable[..., Any], inputs: Mapping[str, TableRead], place: Storage) -> DatasetBlocks:
    """Call a function with complete datasets, execute the returned dataset once, and write its blocks to `place`.

    Workers write the blocks, so that errors are raised here, types may differ between blocks, and no rows pass through this
    process. Raises `DefinitionError` if the function or a step of its dataset raises, if it does not return a dataset, or if
    the columns of blocks are incompatible.
    """
    where = place_of(function)
    _prepare()
    datasets = {name: read.dataset() for name, read in inputs.items()}
    try:
        result = function(**datasets)
        if isinstance(result, ray.data.Dataset):
            sink = BlockDatasink(place)
            _limit_retries(result)
            result.write_datasink(sink)
            schemas = [block.schema for block in sink.blocks] or [_schema_of(result)]
    except USER_CODE_ERRORS as error:  # here or on a worker
        kind, text = _raised(error)
        raise DefinitionError(f"table {function.__name__!r} raised {kind}", got=text, place=where) from error
    if not isinstance(result, ray.data.Dataset):
        problem = f"table {function.__name__!r} must return a dataset"
        raise DefinitionError(problem, got=type(result).__name__, do="return a ray.data.Dataset", place=where)
    return DatasetBlocks(sink.blocks, _common_schema(function.__name__, schemas, where))


def _limit_retries(dataset: ray.data.Dataset) -> None:
    """Let a task fail that crashes its worker `MAX_ATTEMPTS` times; by default, Ray Data runs it again without an end."""
    for operator in dataset._logical_plan.dag.post_order_iter():  # noqa: SLF001 - Ray has no public API for it
        arguments = getattr(operator, "ray_remote_args", None)
        if isinstance(arguments, dict):
            is_actor = isinstance(getattr(operator, "compute", None), ray.data.ActorPoolStrategy)
            for name in ("max_restarts", "max_task_retries") if is_actor else ("max_retries",):
                arguments.setdefault(name, MAX_ATTEMPTS - 1)


def _schema_of(dataset: ray.data.Dataset) -> pa.Schema:
    """Return the schema of a dataset without blocks, if it is known."""
    schema = dataset.schema()
    known: pa.Schema = pa.schema([]) if schema is None else schema.base_schema
    return known


def _raised(error: BaseException) -> tuple[str, str]:
    """Return the class and the message of the user's error, extracted from Ray's report if it was raised on a worker."""
    if not isinstance(error, ray.exceptions.RayTaskError):
        return type(error).__name__, str(error)
    last = str(error).partition("\n\n")[0].strip().rpartition("\n")[2]
    kind, _, text = last.partition(": ")
    return kind, text


def _common_schema(name: str, schemas: Sequence[pa.Schema], place: Place) -> pa.Schema:
    """Return the columns of all blocks, in the order of the first, with types that contain those of each."""
    known = next((schema for schema in schemas if schema.names), None)
    if known is None:
        raise DefinitionError(
            f"table {name!r} returned an empty dataset, whose columns are unknown",
            do="use SQL, or a function of pa.Table, if the result may be empty",
            place=place,
        )
    columns = [schema for schema in schemas if schema.names]
    other = next((schema.names for schema in columns if set(schema.names) != set(known.names)), None)
    if other is not None:
        problem = f"table {name!r} returned blocks with different columns"
        raise DefinitionError(problem, got=f"{', '.join(known.names)} and {', '.join(other)}", place=place)
    try:
        return pa.unify_schemas(columns, promote_options="permissive")
    except pa.ArrowException as error:
        raise DefinitionError(
            f"table {name!r} returned blocks with incompatible types", got=str(error), do="cast them", place=place
        ) from error


def _prepare() -> None:
    """Connect to a cluster, let its workers load the user's modules, and keep Ray Data quiet."""
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
