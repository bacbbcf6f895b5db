"""Reads of a source that several tables of a run share: the rows of each source split, in temporary files."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import cast

import duckdb

from pipeline.batch.executor import Executor
from pipeline.batch.fast_path import is_complete, rejected_rows
from pipeline.batch.retries import OnProgress, SplitTask, TaskRound
from pipeline.batch.row_producers import SourceProducer
from pipeline.batch.splits import SPLIT_BYTES, divided
from pipeline.batch.step import StepSpec
from pipeline.batch.work import SharedRead, Split
from pipeline.core.definitions import Feed
from pipeline.core.errors import SplitError, StorageError
from pipeline.core.schema import Schema
from pipeline.core.sources import Reader, ScannableTogether
from pipeline.core.staging import StagedFile
from pipeline.kernel.engine import Stop, connect
from pipeline.kernel.pool import Limits
from pipeline.kernel.profile import last_profile, start_profiling
from pipeline.kernel.scan import DataFile
from pipeline.kernel.types import stored
from pipeline.lake import DeltaStager, Lake


@dataclass(frozen=True)
class _SplitRead:
    """The task: the rows of one source split, in a temporary file."""

    producer: SourceProducer
    stager: DeltaStager
    limits: Limits

    def __call__(
        self, split: Split, on_progress: OnProgress | None = None, stop: Stop | None = None
    ) -> tuple[StagedFile, ...] | None:
        """Return the files of a split, or `None` if it is not shared: the tables that read it reject rows, or fail."""
        del on_progress
        with connect(self.limits, filesystem=self.stager.storage.filesystem(), stop=stop) as con:
            start_profiling(con)
            with self.producer.for_fast_path(con, split) as query:
                if query is None:
                    return None
                try:
                    files = self.stager.stage(con, query.query, split.index, query.schema)
                    is_valid = is_complete(con, query, last_profile(con)) and rejected_rows(con, query) == 0
                except (duckdb.InterruptException, duckdb.OutOfMemoryException):
                    raise
                except (duckdb.Error, StorageError):
                    return None
        return files if is_valid else None


def read_shared(
    spec: StepSpec, columns: Collection[str], lake: Lake, executor: Executor, on_progress: OnProgress
) -> SharedRead:
    """Read the source splits of a step once, with these columns of their contract.

    Not shared are splits with rejected rows, splits that cannot be read, and small files, which are scanned together. If
    the lake would store a column in another type, nothing is shared.
    """
    reader, contract, feed = cast("Reader", spec.reader), cast("Schema", spec.schema), cast("Feed", spec.feed)
    schema = Schema(tuple(c for c in contract.columns if c.name in columns))
    producer = SourceProducer(reader, schema, spec.at, event_time=feed.event_time)
    source_splits = tuple(divided(reader, spec.source_splits, SPLIT_BYTES))
    read = SharedRead(producer.all_columns, source_splits, {})
    if stored(schema) != schema:
        return read
    shared = [each for each in source_splits if not (isinstance(reader, ScannableTogether) and reader.is_small(each))]
    place, limits = lake.scratch(spec.run_id, feed.name), executor.part(max(1, len(shared)))
    task = _SplitRead(producer, DeltaStager(place, spec.run_id), limits)
    tasks = [SplitTask(task, Split(n, source_splits=(source_split,))) for n, source_split in enumerate(shared)]
    try:
        results = TaskRound(spec.definition, limits, executor, on_progress).of(tasks)
    except SplitError:  # a file cannot be divided because of its quoting
        return read
    files = {
        shared[n]: tuple(DataFile(f"{place.uri}/{file.path}", file.rows, file.size_bytes) for file in result)
        for n, result in results.items()
        if isinstance(result, tuple)
    }
    return replace(read, files=files)
