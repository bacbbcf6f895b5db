"""Partitioning of an input into buckets: each split writes one file per non-empty bucket."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.batch.work import Split
from pipeline.core.errors import StorageError
from pipeline.core.schema import Schema
from pipeline.kernel.engine import Stop, connect, watched
from pipeline.kernel.pool import Limits, configure
from pipeline.kernel.profile import Profile, last_profile, start_profiling
from pipeline.kernel.scan import DataFile, Scan
from pipeline.kernel.sql_text import bucket_of, listed, literal

if TYPE_CHECKING:
    import duckdb
    import fsspec

MOST_BUCKETS = 256
_BUCKET = "_headwater_bucket"


@dataclass(frozen=True)
class ShuffleSpec:
    """How an input is partitioned: the key expressions, the number of buckets, the columns, and the output folder."""

    keys: tuple[str, ...]
    buckets: int
    schema: Schema
    """The columns that the statement needs."""
    folder: str
    """The output folder of this input, accessible to all workers."""
    limits: Limits
    filesystem: fsspec.AbstractFileSystem | None = None


@dataclass(frozen=True)
class BucketFiles:
    """The files of one split by bucket."""

    files: tuple[tuple[int, DataFile], ...]
    profile: Profile


def write_buckets(
    cut: ShuffleSpec, split: Split, on_progress: Callable[[float], None] | None = None, stop: Stop | None = None
) -> BucketFiles:
    """Write a split's rows by bucket; a retry writes the same files."""
    scan = split.scan or Scan(cut.schema)
    with connect(cut.limits, filesystem=cut.filesystem, stop=stop) as con:
        start_profiling(con)
        configure(con, "partitioned_write_max_open_files", MOST_BUCKETS)
        with nullcontext() if on_progress is None else watched(con, on_progress):
            return BucketFiles(tuple(_written(con, cut, scan, split.index)), last_profile(con))


def _written(
    con: duckdb.DuckDBPyConnection, cut: ShuffleSpec, scan: Scan, index: int
) -> Iterable[tuple[int, DataFile]]:
    if cut.filesystem is None:
        Path(cut.folder).mkdir(parents=True, exist_ok=True)
    rows = f"select {listed(cut.schema.names)}, {bucket_of(cut.keys, cut.buckets)} as {_BUCKET} from ({scan.query()})"
    options = (
        f"format parquet, compression lz4, partition_by ({_BUCKET}), return_stats true, overwrite_or_ignore true, "
        f"filename_pattern {literal(f'cut-{index:05d}-{{i}}')}"
    )
    try:
        cursor = con.execute(f"copy ({rows}) to {literal(cut.folder)} ({options})")
    except OSError as error:
        raise StorageError(f"cannot write to {cut.folder}", got=str(error), do="check its free space") from error
    names = [column[0] for column in cursor.description or ()]
    for row in cursor.fetchall():
        stats = dict(zip(names, row, strict=True))
        file = DataFile(str(stats["filename"]), int(stats["count"]), int(stats["file_size_bytes"]))
        yield int(stats["partition_keys"][_BUCKET]), file


def by_bucket(cut: ShuffleSpec, pieces: Iterable[BucketFiles]) -> dict[int, Scan]:
    """Return a scan of each bucket, with the files of all splits in order."""
    files_of: dict[int, list[DataFile]] = {}
    for piece in pieces:
        for bucket, file in piece.files:
            files_of.setdefault(bucket, []).append(file)
    return {bucket: Scan(cut.schema, tuple(files)) for bucket, files in files_of.items()}
