"""Putting the small files of a table together, and removing those that nobody needs any more.

A compaction is one commit that moves rows to other files and says so: its actions change no data, it keeps the mark,
and its note names, for each file that came, the files whose rows it holds. So

- the change data feed and readers who follow (`LakeTable.change_since`) see nothing new: who has read up to a version
  gets the files that came since as they were staged, which stand until they are vacuumed;
- when rows later go from a compacted file, readers are told of the files it was made of (`pipeline/lake/changes.py`);
- the manifest stays the table's, so a stream or a run whose commit comes next finds its mark and goes on.

Beside a writer the log decides: the one who comes second tries again on top, as long as the mark is its own. A writer
who wanted to replace a file that has moved meanwhile fails, with nothing changed.
"""

from __future__ import annotations

import datetime as dt
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
from pipeline.lake.delta import DeltaStager, LakeTable, Version
from pipeline.lake.head import Commit, TableHead, conflict, open_table
from pipeline.lake.log import COMPACTED

TARGET_BYTES = 128 << 20
"""The size of the files that small ones become."""
MIN_FILES = 4
"""The fewest files of a partition that are worth being written again."""


@dataclass(frozen=True)
class Compacted:
    """A compaction that was committed: the version, and how many files became how many."""

    number: int
    before: int
    after: int


def compact(
    table: LakeTable, head: TableHead, *, target_bytes: int = TARGET_BYTES, limits: Limits | None = None
) -> Compacted | None:
    """Put files of less than half the target together, partition by partition, in one commit; `None` for nothing to do.

    Between the epochs of a stream pass its own head. Rows, marks and what readers are told stay the same. Raises what
    `TableHead.commit_files` raises; what was staged is removed then, unless the outcome is unknown.
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
            files = stager.stage(con, Scan(version.schema, group).query(), number)
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


def vacuum(table: LakeTable, *, keep: dt.timedelta, now: dt.datetime) -> tuple[str, ...]:
    """Remove the files that no version of the time to keep needs, and return their paths below the table.

    A file that was never committed goes when it is that old, so `keep` must be longer than any run or epoch takes.
    Readers who follow and are further behind than that read the table anew.
    """
    delta_table = open_table(table.place)
    if delta_table is None:
        return ()
    hours = max(0, int(keep.total_seconds() // 3600))
    candidates = set(delta_table.vacuum(retention_hours=hours, enforce_retention_duration=False, full=True))
    old = tuple(sorted(name for name in candidates & _ages(table, now - keep)))
    table.storage.remove(old)
    return old


def _ages(table: LakeTable, before: dt.datetime) -> set[str]:
    return {name for name, changed in table.storage.modified_times().items() if changed < before}


def _groups(table: LakeTable, version: Version, target_bytes: int) -> Iterator[tuple[DataFile, ...]]:
    """Return files to put together: neighbours of one partition, up to the target."""
    partitions: Mapping[str, list[DataFile]] = defaultdict(list)
    for file in version.files:
        if file.size_bytes < target_bytes // 2:
            partitions[_path(table, file).rpartition("/")[0]].append(file)
    for files in partitions.values():
        if len(files) >= MIN_FILES:
            yield from (s.files for s in Scan(version.schema, tuple(files)).splits(target_bytes) if len(s.files) > 1)


def _path(table: LakeTable, file: DataFile) -> str:
    return file.uri.removeprefix(f"{table.storage.uri}/")
