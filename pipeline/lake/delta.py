"""Delta tables: staged files in, versions out. The Delta log is the only commit point.

Delivery: a manifest is committed at most once, whatever is retried; a reader sees all of a commit or none.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from pipeline.core.as_of import AsOf
from pipeline.core.errors import ConflictError, OutcomeUnknownError, RequestError, StorageError
from pipeline.core.lake_policy import DEFAULT_POLICY, LakePolicy
from pipeline.core.logs import logger
from pipeline.core.schema import Schema
from pipeline.core.staging import Manifest, StagedFile
from pipeline.kernel.scan import DataFile, Scan
from pipeline.lake.actions import actions_of, uris
from pipeline.lake.changes import NetChange, VersionChange, net_change
from pipeline.lake.head import (
    Commit,
    TableHead,
    conflict,
    schema_of_table,
)
from pipeline.lake.log import APP, entries
from pipeline.lake.log_copies import copy_of
from pipeline.lake.log_files import LOG, LogFiles
from pipeline.lake.log_maintenance import KEPT_VERSIONS, TIDY_INTERVAL, tidy
from pipeline.lake.manifests import read_manifest, write_manifest
from pipeline.lake.opening import TableDescription, open_table
from pipeline.lake.partition_columns import former_columns, staged_files
from pipeline.lake.stager import DeltaStager
from pipeline.lake.storage import Storage
from pipeline.lake.versions import commit_times

log = logger(__name__)


@dataclass(frozen=True)
class Version:
    """A committed version of a table: its number, schema, files and manifest."""

    number: int
    schema: Schema
    files: tuple[DataFile, ...]
    partition_by: tuple[str, ...] = ()
    """The partition columns in Delta; a table whose partitioning has changed or has transforms has none."""
    partitioned_before: tuple[str, ...] = ()
    """Its last partition columns in Delta, also if it has none any more."""
    manifest: Manifest | None = None
    manifest_id: int | None = None
    actions: pa.Table | None = field(default=None, compare=False, repr=False)
    """What the log says about the files, as delta-rs returns it; `None` if it is to be read again."""

    def scan(self) -> Scan:
        """Return all rows."""
        return Scan(self.schema, self.files)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(file.rows for file in self.files)


@dataclass(frozen=True)
class CommittedPaths:
    """The paths of files that commits refer to: below the table, and below its quarantine."""

    table: frozenset[str]
    quarantine: frozenset[str]


@dataclass(frozen=True)
class LakeTable:
    """One table of the lake, at `<lake>/<layer>/<name>`."""

    storage: Storage
    name: str
    partition_by: tuple[str, ...] = ()
    description: str = ""
    is_quarantine: bool = False
    """Whether its commits have no manifest of their own: a quarantine uses the manifest of its table."""
    policy: LakePolicy = DEFAULT_POLICY

    def version(self, number: int | None = None, *, lenient: bool = False) -> Version | None:
        """Return the newest version, or a given one; `None` if the table does not exist.

        Raises `StorageError` if it cannot be read, or if a given version is no longer available. With `lenient`, for a
        caller that recreates the table, a version with a missing or damaged manifest is returned without one. A version
        that is not the newest is also returned without a manifest if it is no longer available.
        """
        delta_table = open_table(self.place, number)
        described = None if delta_table is None else self._describe(delta_table, lenient=lenient)
        has_manifest = described is None or described.manifest_id is None or described.manifest is not None
        if number is None and not (has_manifest or lenient or self.is_quarantine):
            return self.version()  # a stream has committed so often in the meantime that the manifest was removed
        return described

    def number(self) -> int | None:
        """Return the number of the newest version without opening the table; `None` if the table does not exist."""
        if (copy := copy_of(self.storage)) is not None:
            return copy.newest()
        log = Path(self.storage.uri) / "_delta_log"
        if self.storage.is_local:
            names = os.listdir(log) if log.is_dir() else []  # noqa: PTH208 - only the names are needed
            return max(LogFiles(tuple(f"{LOG}{name}" for name in names)).entries, default=None)
        return max(LogFiles.of(self.storage).entries, default=None)

    def version_as_of(self, as_of: AsOf) -> Version | None:
        """Return the version of a time or a given one, otherwise the newest; `None` if the table does not exist.

        Raises `RequestError` for a version that does not exist yet, and `StorageError` for a version or a time before the
        oldest version that can be read. A version that is not the newest may have no manifest.
        """
        number = as_of.versions.get(self.name)
        if number is None and as_of.time is None:
            return self.version()
        newest = self.number()
        if newest is None:
            return None
        if number is None and as_of.time is not None:
            number = self.number_at(as_of.time)
        elif number is not None and number not in (known := LogFiles.of(self.storage).readable()):
            if number > newest:
                raise RequestError(f"table {self.name!r} has no version {number}", do=f"the newest is {newest}")
            others = f"the oldest that can be read is {known[0]}" if known else "none can be read"
            nearest = max((each for each in known if each < number), default=None)
            do = f"read a later version, or raise history= in its lake_policy: {others}"
            raise StorageError(
                f"version {number} of table {self.name!r} can no longer be read",
                got=None if nearest is None else f"{nearest} as the nearest before it",
                do=do,
            )
        return self.version(number, lenient=True)

    def number_at(self, time: dt.datetime) -> int:
        """Return the newest version committed at or before a time, among those that can be opened.

        Raises `StorageError` if the oldest of them was committed later.
        """
        times = commit_times(self.storage)
        number = max((number for number, at in times.items() if at <= time), default=None)
        if number is not None:
            return number
        if not times:
            raise StorageError(f"table {self.name!r} has no version that can be opened", do=f"check {self.storage.uri}")
        oldest = min(times)
        raise StorageError(
            f"table {self.name!r} cannot be read as of {time.isoformat(timespec='seconds')}",
            got=f"a first version of {times[0].isoformat(timespec='milliseconds')}"
            if oldest == 0
            else f"{oldest} as the oldest version that can be read, of {times[oldest].isoformat(timespec='milliseconds')}",
            do="choose a later time",
        )

    def manifest_id(self) -> int | None:
        """Return the manifest id of the newest version; `None` if the table does not exist or has none."""
        delta_table = open_table(self.place)
        return None if delta_table is None else delta_table.transaction_version(APP)

    def added_since(self, number: int, manifest_id: int | None, now: Version) -> tuple[DataFile, ...] | None:
        """Return the files added between a version and `now`, or `None` if there were other changes.

        `None` also if the earlier version is no longer available, or has another manifest id because the table was
        recreated: the caller then reads everything.
        """
        change = self.change_since(number, manifest_id, now)
        return None if change is None or change.removed else change.added

    def change_since(self, number: int, manifest_id: int | None, now: Version) -> VersionChange | None:
        """Return the files added and removed between a version and `now`; `None` if the changes are not known.

        The removed files can still be read; otherwise the result is `None`.
        """
        if now.number < number:
            return None
        try:
            commits = entries(self.storage, number, now.number)
            if commits is None or commits[0].manifest_id != manifest_id or commits[-1].manifest_id != now.manifest_id:
                return None
            change = net_change(commits[1:])
            return (
                None if change is None else VersionChange(self._added_files(change, now), self._removed_files(change))
            )
        except (StorageError, OSError, pa.ArrowInvalid):
            return None

    def _added_files(self, change: NetChange, now: Version) -> tuple[DataFile, ...]:
        """Return the added files, ordered by name; raise `StorageError` if one does not exist."""
        known = {file.uri: file for file in now.files}
        added = {f"{self.storage.uri}/{file.path}": file for file in change.added}
        for uri, file in added.items():
            if uri not in known and not self.storage.has(file.path):
                raise StorageError(f"table {self.name!r} no longer has an added file", got=file.path)
        return tuple(known.get(uri, DataFile(uri, added[uri].rows, added[uri].size_bytes)) for uri in sorted(added))

    def _removed_files(self, change: NetChange) -> tuple[DataFile, ...]:
        """Return the removed files, which can still be read; raise `OSError` if one cannot."""
        removed = []
        for file in sorted(change.removed, key=lambda file: file.path):
            with self.storage.open(file.path) as content:
                rows = pq.ParquetFile(content).metadata.num_rows
            removed.append(DataFile(f"{self.storage.uri}/{file.path}", rows, file.size_bytes))
        return tuple(removed)

    def committed_since(self, number: int) -> CommittedPaths | None:
        """Return the files that the commits after a version (-1: all) refer to; `None` if some of them are not known."""
        now = self.number()
        commits = () if now is None or now <= number else entries(self.storage, number + 1, now)
        if commits is None:
            return None
        ids = {commit.manifest_id for commit in commits if commit.manifest_id is not None}
        try:
            manifests = [read_manifest(self.storage, self.name, each) for each in ids]
        except StorageError:  # one was removed, because there are many newer ones
            return None
        added = {file.path for commit in commits for file in commit.added}
        tombstones = {file.path for manifest in manifests for file in manifest.tombstones}
        quarantined = {file.path for manifest in manifests for file in manifest.quarantined}
        return CommittedPaths(frozenset(added | tombstones), frozenset(quarantined))

    def stager(self, run_id: str) -> DeltaStager:
        """Return the writer of this table's files for a run."""
        return DeltaStager(self.storage, run_id, self.partition_by)

    def bounds(self, version: Version, columns: Sequence[str]) -> pa.Table:
        """Return the column bounds of a version's files: `uri`, and `min_0`, `max_0` of the first column and so on.

        A bound is null if the log has none. The bounds of a partition column are its value.
        """
        actions = version.actions
        if actions is None:
            table = open_table(self.place, version.number, is_known=True)
            if table is None:
                raise StorageError(f"table {self.name!r} does not exist", do=f"check {self.storage.uri}")
            actions = actions_of(table)
        columns_by_name: dict[str, pa.Array | pa.ChunkedArray] = {
            "uri": pa.array(uris(self.storage, actions), pa.string())
        }
        for number, name in enumerate(columns):
            for which in ("min", "max"):
                logged_name = next(
                    (n for n in (f"partition.{name}", f"{which}.{name}") if n in actions.column_names), None
                )
                columns_by_name[f"{which}_{number}"] = (
                    pa.nulls(actions.num_rows) if logged_name is None else actions.column(logged_name)
                )
        return pa.table(columns_by_name)

    def staged(self, version: Version) -> tuple[StagedFile, ...]:
        """Return the files of a version as staged files, to commit them again, with their bounds if the log has them."""
        table = open_table(self.place, version.number, is_known=True)
        if table is None:
            raise StorageError(f"table {self.name!r} does not exist", do=f"check {self.storage.uri}")
        return staged_files(self.storage, table)

    def commit(
        self,
        manifest: Manifest,
        files: Sequence[StagedFile],
        schema: Schema,
        seen: Version | None,
        removed: frozenset[str] = frozenset(),
    ) -> Version:
        """Commit staged files with their manifest, on top of the version the work is based on.

        `removed` are the URIs of files to remove in the same commit, for a merge. Raises `ConflictError` if there was
        another commit in between (nothing is changed), and `OutcomeUnknownError` if the outcome is not known.
        """
        self.storage.make()
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write_manifest, self.storage, manifest)
            head = self.head()  # meanwhile: both wait for the store
            writing.result()
        note = {"headwater.run": manifest.run_id, "headwater.mode": manifest.mode}
        commit = Commit(files, schema, manifest.mode, manifest.manifest_id, note, removed)
        return self._commit(head, commit, seen, manifest)

    def commit_files(self, commit: Commit, seen: Version | None) -> Version:
        """Commit files under a manifest id, unless the table already has that id."""
        return self._commit(self.head(), commit, seen)

    def _commit(
        self, head: TableHead, commit: Commit, seen: Version | None, manifest: Manifest | None = None
    ) -> Version:
        if head.manifest_id not in {commit.manifest_id, None if seen is None else seen.manifest_id}:
            raise conflict(self.name)
        number = head.commit_files(commit)
        if number and number % TIDY_INTERVAL == 0:
            try:
                self.tidy()
            except StorageError as error:
                log.warning("cleaning up the table log failed and is retried later", table=self.name, error=str(error))
        version = (
            self._describe(head.table, manifest)
            if head.table is not None and head.number == number
            else self.version(number)
        )
        if version is None:
            raise OutcomeUnknownError(f"table {self.name!r} does not exist after its commit")
        return version

    def head(self) -> TableHead:
        """Return the table opened at its newest version, for repeated commits."""
        return TableHead(self.place)

    def tidy(self) -> bool:
        """Keep the log short; see `pipeline.lake.log_maintenance`. Return false if another process maintains the table meanwhile.

        Raises `StorageError` if the store fails.
        """
        try:
            tidy(self.place, versions=max(KEPT_VERSIONS, self.policy.min_versions), history=self.policy.history)
        except ConflictError:
            return False
        except (DeltaError, OSError) as error:
            problem = f"the log of table {self.name!r} cannot be shortened"
            raise self.storage.failed(problem, error, "nothing was removed; try again") from error
        return True

    @property
    def place(self) -> TableDescription:
        """The description of the table, from its definition."""
        return TableDescription(
            self.storage,
            self.name,
            self.partition_by,
            self.description,
            self.is_quarantine,
            self.policy.cluster_by,
        )

    def _describe(self, table: DeltaTable, manifest: Manifest | None = None, *, lenient: bool = False) -> Version:
        """Describe the version of an open table; its manifest is read unless it is given."""
        manifest_id = table.transaction_version(APP)
        is_read = manifest is None and not (lenient or self.is_quarantine)
        actions = actions_of(table)
        counts = (actions.column(name).to_pylist() for name in ("num_records", "size_bytes"))
        files = tuple(
            DataFile(uri, int(rows or 0), int(size))
            for uri, rows, size in sorted(zip(uris(self.storage, actions), *counts, strict=True))
        )
        self.storage.know(files)
        return Version(
            number=table.version(),
            schema=schema_of_table(table),
            files=files,
            partition_by=tuple(table.metadata().partition_columns),
            partitioned_before=former_columns(table),
            manifest=self._manifest(table, manifest_id) if manifest_id is not None and is_read else manifest,
            manifest_id=manifest_id,
            actions=actions,
        )

    def _manifest(self, table: DeltaTable, manifest_id: int) -> Manifest | None:
        """Return a version's manifest; `None` if it was removed and there is a newer version."""
        try:
            return read_manifest(self.storage, self.name, manifest_id)
        except StorageError as error:
            newest = open_table(self.place) if isinstance(error.__cause__, FileNotFoundError) else None
            if newest is None or newest.transaction_version(APP) == manifest_id or newest.version() < table.version():
                raise
            return None
