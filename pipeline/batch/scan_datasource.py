"""Files of the lake as a source of Ray Data: only the selected columns and rows reach Ray, and only matching files are opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray.data
from ray.data._internal.arrow_block import _BATCH_SIZE_PRESERVING_STUB_COL_NAME
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from pipeline.batch.ray_filters import columns_of, conditions_of
from pipeline.batch.splits import SPLIT_BYTES
from pipeline.core.errors import RequestError, did_you_mean
from pipeline.kernel.engine import arrow, arrow_reader, connect
from pipeline.kernel.planner.pruning import FileCondition, file_conditions
from pipeline.kernel.pool import Limits
from pipeline.kernel.scan import DataFile, Scan, no_rows
from pipeline.kernel.sql import parse
from pipeline.kernel.sql_text import listed, quoted

if TYPE_CHECKING:
    import fsspec
    from ray.data.expressions import Expr

BATCH_ROWS = 1 << 17
"""The rows that a task reads at a time; Ray combines them to blocks of its target size."""
_LIMITS = Limits(1 << 30, 1)
"""The limits of a read task, to which Ray assigns one core."""
_ROWS = "_rows"
FilesFor = Callable[[Sequence[FileCondition]], tuple[DataFile, ...]]


@dataclass(frozen=True)
class TableRead:
    """Rows of a table in the lake: its name, its files, and a condition in SQL."""

    name: str
    scan: Scan
    where: str | None = None
    filesystem: fsspec.AbstractFileSystem | None = None
    files_for: FilesFor | None = None
    """Returns the files that may satisfy conditions; by default, all files are opened."""
    split_bytes: int = SPLIT_BYTES

    def dataset(self, columns: Sequence[str] | None = None) -> ray.data.Dataset:
        """Return a dataset with one read task per part of the files; Ray Data must be connected to a cluster."""
        source = ScanDatasource(self).apply_projection(None if columns is None else {name: name for name in columns})
        parts = max(1, len(self.scan.splits(self.split_bytes)))
        dataset: ray.data.Dataset = ray.data.read_datasource(source, override_num_blocks=parts)
        return dataset


@dataclass(frozen=True)
class _Part:
    """What a read task returns: rows of files that satisfy all conditions, in the order of the files."""

    scan: Scan
    columns: tuple[str, ...]
    conditions: tuple[str, ...]
    predicate: Expr | None
    filesystem: fsspec.AbstractFileSystem | None = field(default=None, repr=False)

    def query(self) -> str:
        """Return the SELECT of the rows, with the columns of the predicate, which is evaluated afterwards."""
        names = dict.fromkeys((*self.columns, *(() if self.predicate is None else columns_of(self.predicate))))
        names = names or dict.fromkeys(self.scan.schema.names[:1])  # for a count
        where = " and ".join(f"({condition}\n)" for condition in self.conditions)
        return f"select {listed(list(names))} from ({self.scan.query()}) as {_ROWS}" + (
            f" where {where}" if where else ""
        )


class ScanDatasource(Datasource):
    """A source with one task per part of a table's files, into which Ray Data pushes projections and filters."""

    def __init__(self, read: TableRead) -> None:
        """Create the source; nothing is read yet."""
        super().__init__()  # type: ignore[no-untyped-call]  # Ray is untyped
        self._projection_map: dict[str, str] | None = None
        self._read = read
        self._known: dict[tuple[str, ...], tuple[DataFile, ...]] = {}

    def get_name(self) -> str:
        """Return the name of the table, shown in the Ray dashboard."""
        return self._read.name

    def supports_projection_pushdown(self) -> bool:
        """Return whether only the selected columns are read."""
        return True

    def supports_predicate_pushdown(self) -> bool:
        """Return whether filters are evaluated while reading."""
        return True

    def estimate_inmemory_data_size(self) -> int:
        """Return the bytes of the files that are opened."""
        return sum(file.size_bytes for file in self._files())

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """Return one task per part of the files that may satisfy all conditions, ignoring Ray's parallelism."""
        del parallelism, data_context
        scan = replace(self._read.scan, files=self._files())
        return [self._task(part, per_task_row_limit) for part in scan.splits(self._read.split_bytes)]

    def _task(self, scan: Scan, row_limit: int | None) -> ReadTask:
        read, predicate = self._read, self.get_current_predicate()
        part = _Part(scan, self._columns(), self._conditions(), predicate, read.filesystem)
        is_exact = read.where is None and predicate is None
        # Ray answers count() from this metadata, without reading
        metadata = BlockMetadata(
            num_rows=scan.rows if is_exact else None,
            size_bytes=scan.size_bytes,
            input_files=tuple(file.uri for file in scan.files),
            exec_stats=None,
        )
        return ReadTask(partial(_blocks, part), metadata, schema=_schema(part), per_task_row_limit=row_limit)

    def _columns(self) -> tuple[str, ...]:
        known = self._read.scan.schema.names
        columns = known if self._projection_map is None else tuple(self._projection_map)
        unknown = next((name for name in columns if name not in known), None)
        if unknown is not None:
            raise RequestError(f"table {self._read.name!r} has no column {unknown!r}", do=did_you_mean(unknown, known))
        return columns

    def _conditions(self) -> tuple[str, ...]:
        read, predicate = self._read, self.get_current_predicate()
        pushed = () if predicate is None else conditions_of(predicate, read.scan.schema)
        return pushed if read.where is None else (read.where, *pushed)

    def _files(self) -> tuple[DataFile, ...]:
        """Return the files that may contain rows that satisfy all conditions."""
        conditions, read = self._conditions(), self._read
        if read.files_for is None or not conditions:
            return read.scan.files
        if conditions not in self._known:
            trees = [parse(f"select * from {quoted(read.name)} where {text}", what="a filter") for text in conditions]
            pruning = [each for tree in trees for each in file_conditions(tree, read.name, read.scan.schema)]
            self._known[conditions] = read.files_for(pruning)
        return self._known[conditions]


def _schema(part: _Part) -> pa.Schema:
    with connect(_LIMITS) as con:
        kinds = part.scan.schema.select(part.columns)
        return arrow(con, no_rows(kinds)).schema if kinds.columns else pa.schema([])


def _blocks(part: _Part) -> Iterator[pa.Table]:
    """Yield the rows of a part, at least one table; in a worker."""
    predicate = None if part.predicate is None else part.predicate.to_pyarrow()
    with connect(_LIMITS, filesystem=part.filesystem) as con:
        reader = arrow_reader(con, part.query(), BATCH_ROWS)
        is_first = True
        for batch in reader:
            is_first = False
            rows = pa.Table.from_batches([batch], reader.schema)
            yield _projected(rows if predicate is None else rows.filter(predicate), part.columns)
        if is_first:
            yield _projected(reader.schema.empty_table(), part.columns)


def _projected(rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Return some columns; for none, Ray's column without a name of its own, because it counts the rows of a column."""
    if columns:
        return rows.select(columns)
    return pa.table({_BATCH_SIZE_PRESERVING_STUB_COL_NAME: pa.nulls(rows.num_rows)})
