"""The rows of a result: Parquet files that are written while the statement runs, and read in parts."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.kernel.sql_text import literal, quoted
from pipeline.kernel.types import arrow_schema
from serve.background.records import BackgroundQuery, QueryStatus
from serve.queries.engine import Engine
from serve.queries.formats import record_batches
from serve.queries.select import PageStatement, Statement

MOST_RESULT_ROWS = 100_000_000
"""The most rows of a result."""
_FILE_ROWS = 1 << 20
_GROUP_ROWS, _GROUP_BYTES = 1 << 17, 16 << 20
"""How much is in memory before it is written."""


@dataclass
class WrittenRows:
    """What was written so far."""

    rows: int = 0
    bytes: int = 0
    is_truncated: bool = False
    files: list[int] = field(default_factory=list)
    """The rows of each file."""


def write_rows(
    engine: Engine, made: PageStatement, folder: Path, most_rows: int, written: Callable[[WrittenRows], None]
) -> WrittenRows:
    """Write at most so many rows of a statement, and call `written` after each part, which may raise.

    Raises as `Engine.batches`, and `OSError` if a file cannot be written. There is one file at least.
    """
    counts, schema = WrittenRows(), arrow_schema(made.schema)
    with closing(_groups(record_batches(engine, made))) as groups:
        group = next(groups, pa.table([pa.array([], each.type) for each in schema], schema=schema))
        while group is not None:
            counts.files.append(0)
            path = folder / f"{len(counts.files) - 1:05}.parquet"
            descriptor, before = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), counts.bytes
            with os.fdopen(descriptor, "wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
                while group is not None and counts.files[-1] < _FILE_ROWS:
                    if counts.rows + group.num_rows > most_rows:
                        group, counts.is_truncated = group.slice(0, most_rows - counts.rows), True
                    writer.write_table(group)
                    counts.rows += group.num_rows
                    counts.files[-1] += group.num_rows
                    counts.bytes = before + file.tell()
                    written(counts)
                    group = None if counts.is_truncated else next(groups, None)
            counts.bytes = before + path.stat().st_size
    written(counts)
    return counts


def _groups(batches: Iterator[pa.RecordBatch]) -> Generator[pa.Table, None, None]:
    """Yield batches together, so that few are in memory and each part is worth writing."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if (
            sum(each.num_rows for each in waiting) >= _GROUP_ROWS
            or sum(each.nbytes for each in waiting) >= _GROUP_BYTES
        ):
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


def rows_of(query: BackgroundQuery, status: QueryStatus, folder: Path, span: tuple[int, int] | None) -> PageStatement:
    """Return the statement of a result's rows: of all, or from a number, so many and one more if there are.

    Only the files with these rows are read.
    """
    columns = ", ".join(f"cast({quoted(name)} as {kind}) as {quoted(name)}" for name, kind in query.columns)
    numbers, skipped = _files(status.files, span)
    paths = ", ".join(literal(str(folder / f"{number:05}.parquet")) for number in numbers)
    sql = f"select {columns} from read_parquet([{paths}])"
    if span is not None:
        sql += f" limit {span[1] + 1} offset {span[0] - skipped}"
    return PageStatement(Statement(sql), query.schema)


def _files(rows: Sequence[int], span: tuple[int, int] | None) -> tuple[list[int], int]:
    """Return the numbers of the files with a span of rows, one at least, and how many rows are before them."""
    if span is None:
        return list(range(len(rows))), 0
    first, count = span
    numbers: list[int] = []
    begin = skipped = 0
    for number, size in enumerate(rows):
        end = begin + size
        if begin <= first + count and end > first:
            skipped = skipped if numbers else begin
            numbers.append(number)
        begin = end
    return (numbers, skipped) if numbers else ([0], 0)
