"""Compacts the small files of a table.

A compaction is one commit that moves rows to other files. Its actions are marked as not changing data, it keeps the
manifest id, and its commit info names, for each new file, the files whose rows it contains. Therefore

- the change data feed and incremental readers (`LakeTable.change_since`) see no change: a reader gets the files added
  since its version as they were staged, which exist until they are vacuumed;
- if a compacted file is later removed, readers get the files it was compacted from (`pipeline/lake/changes.py`);
- the manifest remains the table's manifest, so the next commit of a stream or a run succeeds.

With a concurrent writer, the log decides: the second one retries on top, as long as the manifest id is unchanged. A
writer that wants to replace a file that was compacted in the meantime fails without changes.
"""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.core.errors import StorageError
from pipeline.core.staging import StagedFile
from pipeline.kernel.engine import connect
from pipeline.kernel.pool import Limits
from pipeline.kernel.scan import DataFile, Scan
from pipeline.lake.clustering import clustered
from pipeline.lake.delta import LakeTable, Version
from pipeline.lake.head import Commit, TableHead, conflict
from pipeline.lake.log import COMPACTED
from pipeline.lake.stager import DeltaStager

TARGET_BYTES = 128 << 20
"""The target size of compacted files."""
MIN_FILES = 4
"""Minimum number of files of a partition to compact."""


@dataclass(frozen=True)
class Compacted:
    """A committed compaction: the version, and the number of files before and after."""

    number: int
    before: int
    after: int


def compact(
    table: LakeTable,
    head: TableHead,
    *,
    target_bytes: int = TARGET_BYTES,
    limits: Limits | None = None,
    cluster_by: tuple[str, ...] = (),
) -> Compacted | None:
    """Compact files of less than half the target size, partition by partition, in one commit; `None` if there are none.

    The rows of each new file are ordered by the columns of `cluster_by` that the table has: by one column, or along a
    Z-order curve of several (`pipeline/lake/clustering.py`).

    Between the epochs of a stream, pass the stream's head. Rows, manifest id and the changes that readers see stay the
    same. Raises the errors of `TableHead.commit_files`; staged files are then removed, unless the outcome is unknown.
    """
    version = table.version(head.number)
    if version is None or version.manifest_id is None:
        return None
    if version.manifest_id != head.manifest_id:
        raise conflict(table.name)
    groups = list(_groups(table, version, target_bytes))
    if not groups:
        return None
    stager = DeltaStager(table.storage, f"compacted-{uuid.uuid4().hex}", table.partition_by)
    moved: dict[str, tuple[DataFile, ...]] = {}
    staged: list[StagedFile] = []
    with connect(
        Limits(limits.memory_bytes, 1) if limits else Limits(threads=1), filesystem=table.storage.filesystem()
    ) as con:
        for number, group in enumerate(groups):
            files = stager.stage(con, clustered(Scan(version.schema, group), cluster_by), number, version.schema)
            rows = sum(file.rows for file in files)
            if len(files) != 1 or rows != sum(file.rows for file in group):
                table.storage.remove([file.path for file in (*staged, *files)])
                raise StorageError(
                    f"files of table {table.name!r} do not match the log",
                    got=f"{rows} rows in {len(files)} files of {len(group)} files",
                    do="recompute the table with --full",
                )
            staged.extend(files)
            moved[files[0].path] = group
    note = {COMPACTED: json.dumps({new: [_path(table, file) for file in old] for new, old in moved.items()})}
    replaced = frozenset(file.uri for group in groups for file in group)
    commit = Commit(staged, version.schema, "append", version.manifest_id, note, replaced, moves=True)
    try:
        number = head.commit_files(commit)
    except StorageError:
        table.storage.remove([file.path for file in staged])
        raise
    return Compacted(number, len(replaced), len(staged))


def small_files(table: LakeTable, version: Version, target_bytes: int) -> tuple[DataFile, ...]:
    """Return the files that a compaction would write together."""
    return tuple(file for group in _groups(table, version, target_bytes) for file in group)


def _groups(table: LakeTable, version: Version, target_bytes: int) -> Iterator[tuple[DataFile, ...]]:
    """Return groups of files to compact: neighbors in one partition, up to the target size."""
    partitions: Mapping[str, list[DataFile]] = defaultdict(list)
    for file in version.files:
        if file.size_bytes < target_bytes // 2:
            partitions[_path(table, file).rpartition("/")[0]].append(file)
    for files in partitions.values():
        if len(files) >= MIN_FILES:
            yield from (s.files for s in Scan(version.schema, tuple(files)).splits(target_bytes) if len(s.files) > 1)


def _path(table: LakeTable, file: DataFile) -> str:
    return file.uri.removeprefix(f"{table.storage.uri}/")
