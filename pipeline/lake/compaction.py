"""Compacts the small files of a table, and writes files again that are divided or ordered otherwise than new ones.

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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.core.errors import ConflictError, StorageError
from pipeline.core.fingerprint import fingerprint
from pipeline.core.lake_policy import LakePolicy
from pipeline.core.staging import StagedFile
from pipeline.kernel.engine import connect
from pipeline.kernel.partition_transforms import folders_in, folders_of
from pipeline.kernel.pool import Limits
from pipeline.kernel.scan import DataFile, Scan
from pipeline.lake.clustering import clustered
from pipeline.lake.delta import LakeTable, Version
from pipeline.lake.head import Commit, TableHead, conflict
from pipeline.lake.log import COMPACTED
from pipeline.lake.read_notes import folder_of
from pipeline.lake.stager import DeltaStager

TARGET_BYTES = 128 << 20
"""The target size of compacted files."""
MIN_FILES = 4
"""Minimum number of files of a partition to compact."""
MIN_HOT_FILES = 2
"""The same for a partition that queries open often."""


@dataclass(frozen=True)
class CompactionOptions:
    """How files are compacted."""

    target_bytes: int = TARGET_BYTES
    """The size of the files that are written, about."""
    cluster_by: tuple[str, ...] = ()
    """The columns by which the rows of each new file are ordered, those that the table has: by one column, or along a
    Z-order curve of several (`pipeline/lake/clustering.py`)."""
    rewrite_bytes: int = 0
    """How many bytes of files that are divided or ordered otherwise than new ones are written again, about."""
    limits: Limits | None = None
    hot: tuple[str, ...] = ()
    """The folders that queries open most: they are compacted first, and from two small files on."""

    @classmethod
    def of(cls, policy: LakePolicy, limits: Limits | None = None, hot: tuple[str, ...] = ()) -> CompactionOptions:
        """Return the options of a table's policy."""
        return cls(policy.target_mb << 20, policy.cluster_by, policy.rewrite_mb << 20, limits, hot)

    def rank(self, folder: str) -> int:
        """Return the place of a folder in the order in which they are compacted."""
        return self.hot.index(folder) if folder in self.hot else len(self.hot)


@dataclass(frozen=True)
class Compacted:
    """A committed compaction: the version, and the number of files before and after."""

    number: int
    before: int
    after: int
    folders: tuple[str, ...] = ()
    """The folders of the files before, in the order in which they were compacted."""


def compact(table: LakeTable, head: TableHead, how: CompactionOptions = CompactionOptions()) -> Compacted | None:
    """Compact files in one commit; `None` if there are none to compact.

    Files of less than half the target size are written together, partition by partition. With `rewrite_bytes`, so are files
    that are divided or ordered otherwise than new ones, up to about that many bytes.

    Between the epochs of a stream, pass the stream's head. Rows, manifest id and the changes that readers see stay the
    same. Raises the errors of `TableHead.commit_files`; staged files are then removed, unless the outcome is unknown.
    """
    version = table.version(head.number)
    if version is None or version.manifest_id is None:
        return None
    if version.manifest_id != head.manifest_id:
        raise conflict(table.name)
    groups = list(_groups(table, version, how))
    if not groups:
        return None
    staged, moved = _written(table, version, groups, how)
    note = {COMPACTED: json.dumps({new: [_path(table, file) for file in old] for new, old in moved.items()})}
    replaced = frozenset(file.uri for group in groups for file in group)
    commit = Commit(staged, version.schema, "append", version.manifest_id, note, replaced, moves=True)
    try:
        number = head.commit_files(commit)
    except (ConflictError, StorageError):
        table.storage.remove([file.path for file in staged])
        raise
    folders = dict.fromkeys(folder_of(table.storage.uri, file) for group in groups for file in group)
    return Compacted(number, len(replaced), len(staged), tuple(folders))


def _written(
    table: LakeTable, version: Version, groups: Sequence[Sequence[DataFile]], how: CompactionOptions
) -> tuple[list[StagedFile], dict[str, Sequence[DataFile]]]:
    """Stage the rows of each group; return the files, and for each the group whose rows it contains."""
    mark = _mark(how.cluster_by)
    stager = DeltaStager(table.storage, f"compacted-{mark}{uuid.uuid4().hex}", table.partition_by)
    staged: list[StagedFile] = []
    moved: dict[str, Sequence[DataFile]] = {}
    limits = Limits(how.limits.memory_bytes, 1) if how.limits else Limits(threads=1)
    with connect(limits, filesystem=table.storage.filesystem()) as con:
        for number, group in enumerate(groups):
            rows_of = clustered(Scan(version.schema, tuple(group)), how.cluster_by)
            files = stager.stage(con, rows_of, number, version.schema)
            rows = sum(file.rows for file in files)
            staged.extend(files)
            if rows != sum(file.rows for file in group):
                table.storage.remove([file.path for file in staged])
                raise StorageError(
                    f"files of table {table.name!r} do not match the log",
                    got=f"{rows} rows in {len(files)} files of {len(group)} files",
                    do="recompute the table with --full",
                )
            moved |= {file.path: group for file in files}
    return staged, moved


def compactable(table: LakeTable, version: Version, how: CompactionOptions) -> tuple[DataFile, ...]:
    """Return the files that a compaction would write again."""
    return tuple(file for group in _groups(table, version, how) for file in group)


def former_files(table: LakeTable, version: Version) -> tuple[DataFile, ...]:
    """Return the files that are divided otherwise than the files that are written now."""
    now = folders_of(table.partition_by, version.schema.names)
    return tuple(file for file in version.files if folders_in(_path(table, file)) != now)


def _groups(table: LakeTable, version: Version, how: CompactionOptions) -> Iterator[tuple[DataFile, ...]]:
    """Return groups of files to compact: neighbors in one partition, up to the target size; former files in any.

    Hot folders come first.
    """
    former = {file.uri: file for file in former_files(table, version)}
    left = how.rewrite_bytes
    if left > 0 and former:
        by_rank = sorted(former.values(), key=lambda file: how.rank(folder_of(table.storage.uri, file)))
        due, left = _within(tuple(by_rank), left)
        yield from (part.files for part in Scan(version.schema, due).splits(how.target_bytes))
    partitions: dict[str, list[DataFile]] = defaultdict(list)
    large: dict[str, list[DataFile]] = defaultdict(list)
    mark = _mark(how.cluster_by)
    for file in version.files:
        folder, _, name = _path(table, file).rpartition("/")
        if file.uri in former:
            continue
        if file.size_bytes < how.target_bytes // 2:
            partitions[folder].append(file)
        elif mark and not name.startswith(f"part-compacted-{mark}"):
            large[folder].append(file)
    for folder in sorted(partitions, key=how.rank):
        files = tuple(partitions[folder])
        if len(files) >= (MIN_HOT_FILES if folder in how.hot else MIN_FILES):
            yield from (s.files for s in Scan(version.schema, files).splits(how.target_bytes) if len(s.files) > 1)
    for folder in sorted(large, key=how.rank) if left > 0 else ():
        due, left = _within(tuple(large[folder]), left)
        if due:
            yield from (part.files for part in Scan(version.schema, due).splits(how.target_bytes))


def _within(files: tuple[DataFile, ...], most_bytes: int) -> tuple[tuple[DataFile, ...], int]:
    """Return the first files, until they have this many bytes, and how many are left."""
    chosen: list[DataFile] = []
    for file in files:
        if most_bytes <= 0:
            break
        chosen.append(file)
        most_bytes -= file.size_bytes
    return tuple(chosen), most_bytes


def _mark(cluster_by: tuple[str, ...]) -> str:
    """Return the part of the names of compacted files that says how their rows are ordered; empty if they are not."""
    return f"{fingerprint('clustered', cluster_by)[:8]}-" if cluster_by else ""


def _path(table: LakeTable, file: DataFile) -> str:
    return file.uri.removeprefix(f"{table.storage.uri}/")
