"""Delta tables: staged files in, versions out. The Delta log is the only commit point.

Delivery: a manifest is committed at most once, whatever is retried; a reader sees all of a commit or none.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from pipeline.core.as_of import AsOf
from pipeline.core.errors import OutcomeUnknownError, RequestError, StorageError
from pipeline.core.lake_policy import DEFAULT_POLICY, LakePolicy
from pipeline.core.logs import logger
from pipeline.core.schema import Schema
from pipeline.core.scratch import Owner
from pipeline.core.staging import Manifest, StagedFile
from pipeline.kernel.engine import connect
from pipeline.kernel.scan import DataFile, Scan
from pipeline.lake.changes import NetChange, VersionChange, net_change
from pipeline.lake.head import (
    Commit,
    TableDescription,
    TableHead,
    actions_of,
    conflict,
    open_table,
    schema_of_table,
    uris,
)
from pipeline.lake.holds import held_versions
from pipeline.lake.log import APP, entries
from pipeline.lake.manifests import manifest_name, read_manifest
from pipeline.lake.stager import DeltaStager
from pipeline.lake.stats import logged
from pipeline.lake.storage import Storage
from pipeline.lake.tidy import KEPT_VERSIONS, TIDY_INTERVAL, tidy
from pipeline.lake.versions import LogFiles, commit_times, logged_stats

log = logger(__name__)


_SCRATCH = "_headwater"
"""The folder of the temporary data of runs: `run-<process>/<run>/steps/<table>-<hex>`, and the notes of what they stage."""
_NOTES = "staging"
"""The folder of these notes: `<layer>/<table>/<version>`, with the version before, or -1."""
_BEGUN = "begun"
"""The file that notes that a run has begun."""
QUARANTINE_FOLDER = "quarantine"
"""The folder of the quarantine tables, next to the folders of the layers."""


@dataclass(frozen=True)
class Version:
    """A committed version of a table: its number, schema, files and manifest."""

    number: int
    schema: Schema
    files: tuple[DataFile, ...]
    partition_by: tuple[str, ...] = ()
    manifest: Manifest | None = None
    manifest_id: int | None = None

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
        log = Path(self.storage.uri) / "_delta_log"
        if self.storage.is_local:
            names = os.listdir(log) if log.is_dir() else []  # noqa: PTH208 - only the names are needed
        else:
            names = [name.rpartition("/")[2] for name in self.storage.names("_delta_log/")]
        return max((int(name[:20]) for name in names if name.endswith(".json") and name[:20].isdigit()), default=None)

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
                got=None if nearest is None else f"the nearest before it is {nearest}",
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
            got=f"its first version is of {times[0].isoformat(timespec='milliseconds')}"
            if oldest == 0
            else f"the oldest version that can be read is {oldest}, of {times[oldest].isoformat(timespec='milliseconds')}",
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
        table = open_table(self.place, version.number)
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
        table = open_table(self.place, version.number)
        if table is None:
            raise StorageError(f"table {self.name!r} does not exist", do=f"check {self.storage.uri}")
        actions = actions_of(table)
        values = [name for name in actions.column_names if name.startswith("partition.")]
        rows = actions.select(["size_bytes", "num_records", *values]).to_pylist()
        stats = logged_stats(self.storage, version.number)
        return tuple(
            StagedFile(
                path=uri.removeprefix(f"{self.storage.uri}/"),
                size_bytes=row["size_bytes"],
                rows=row["num_records"],
                partition={name.removeprefix("partition."): logged(row[name]) for name in values},
                stats=stats.get(uri.removeprefix(f"{self.storage.uri}/"))
                or json.dumps({"numRecords": row["num_records"]}),
            )
            for uri, row in sorted(zip(uris(self.storage, actions), rows, strict=True), key=itemgetter(0))
        )

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
        self.storage.write_text(manifest_name(manifest.manifest_id), manifest.to_json())
        note = {"headwater.run": manifest.run_id, "headwater.mode": manifest.mode}
        return self.commit_files(Commit(files, schema, manifest.mode, manifest.manifest_id, note, removed), seen)

    def commit_files(self, commit: Commit, seen: Version | None) -> Version:
        """Commit files under a manifest id, unless the table already has that id."""
        head = self.head()
        if head.manifest_id not in {commit.manifest_id, None if seen is None else seen.manifest_id}:
            raise conflict(self.name)
        number = head.commit_files(commit)
        if number and number % TIDY_INTERVAL == 0:
            try:
                self.tidy()
            except StorageError as error:
                log.warning("cleaning up the table log failed and is retried later", table=self.name, error=str(error))
        version = self.version(number) if head.table is None or head.number != number else self._describe(head.table)
        if version is None:
            raise OutcomeUnknownError(f"table {self.name!r} does not exist after its commit")
        return version

    def head(self) -> TableHead:
        """Return the table opened at its newest version, for repeated commits."""
        return TableHead(self.place)

    def tidy(self) -> None:
        """Keep the log short; see `pipeline.lake.tidy`. Raises `StorageError` if the store fails."""
        versions, held = max(KEPT_VERSIONS, self.policy.min_versions), held_versions(self.storage)
        try:
            tidy(self.place, versions=versions, history=self.policy.history, held=held)
        except (DeltaError, OSError) as error:
            problem = f"the log of table {self.name!r} cannot be shortened"
            raise self.storage.failed(problem, error, "nothing was removed; try again") from error

    @property
    def place(self) -> TableDescription:
        """The description of the table, from its definition."""
        return TableDescription(self.storage, self.name, self.partition_by, self.description, self.is_quarantine)

    def _describe(self, table: DeltaTable, *, lenient: bool = False) -> Version:
        manifest_id = table.transaction_version(APP)
        has_manifest = not (lenient or self.is_quarantine)
        actions = actions_of(table)
        counts = (actions.column(name).to_pylist() for name in ("num_records", "size_bytes"))
        files = tuple(
            DataFile(uri, int(rows or 0), int(size))
            for uri, rows, size in sorted(zip(uris(self.storage, actions), *counts, strict=True))
        )
        return Version(
            number=table.version(),
            schema=schema_of_table(table),
            files=files,
            partition_by=tuple(table.metadata().partition_columns),
            manifest=self._manifest(table, manifest_id) if manifest_id is not None and has_manifest else None,
            manifest_id=manifest_id,
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


@dataclass(frozen=True)
class Lake:
    """A location with a folder per layer and a Delta table per definition."""

    storage: Storage

    def table(
        self,
        layer: str,
        name: str,
        *,
        partition_by: tuple[str, ...] = (),
        description: str = "",
        policy: LakePolicy = DEFAULT_POLICY,
    ) -> LakeTable:
        """Return a table, whether it exists or not."""
        return LakeTable(self.storage.at(layer, name), name, partition_by, description, policy=policy)

    def quarantine(self, name: str, policy: LakePolicy = DEFAULT_POLICY) -> LakeTable:
        """Return the quarantine table of a table."""
        description = f"Quarantined rows of {name}"
        storage = self.storage.at(QUARANTINE_FOLDER, name)
        return LakeTable(storage, name, description=description, is_quarantine=True, policy=policy)

    def scratch(self, run_id: str, name: str) -> Storage:
        """Return a new location for temporary data of a step, accessible to all workers; its path names this process.

        A run may call this several times for a name: for two shared reads of a source, whose files have the same names.
        """
        return self._run(run_id).at("steps", f"{name}-{secrets.token_hex(4)}")

    def _run(self, run_id: str) -> Storage:
        return self.storage.at(_SCRATCH, Owner.of_process(os.getpid()).folder, run_id)

    def begin_run(self, run_id: str) -> None:
        """Note that this process runs a run, so that `reclaim` finds it if the process is killed; a failure is logged."""
        with _logged_failure():
            self._run(run_id).touch(_BEGUN)

    def note_staging(self, table: LakeTable, run_id: str, seen: Version | None) -> Callable[[], None]:
        """Note that a run stages files and commits them on top of a version, for `end_run`; return what forgets it."""
        notes = self._run(run_id).at(_NOTES)
        path = table.storage.uri.removeprefix(f"{self.storage.uri.rstrip('/')}/")
        note = f"{path}/{-1 if seen is None else seen.number}"
        notes.touch(note)
        return lambda: notes.remove([note])

    @contextmanager
    def staging(self, table: LakeTable, run_id: str, seen: Version | None) -> Iterator[None]:
        """Note what a step stages until it has committed; the note remains if it fails.

        If the outcome of the commit is unknown, the files are kept.
        """
        forget = self.note_staging(table, run_id, seen)
        try:
            yield
        except OutcomeUnknownError:
            forget()
            raise
        try:
            forget()
        except StorageError as error:  # it has no effect on a commit
            log.warning("the note of a step that has committed remains", table=table.name, error=str(error))

    def end_run(self, run_id: str) -> None:
        """Remove the temporary data of a run of this process, and the files that it has staged and not committed.

        A failure is logged, because it does not affect the tables.
        """
        with _logged_failure():
            self._remove_uncommitted(self._run(run_id), run_id)
            self.storage.at(_SCRATCH, Owner.of_process(os.getpid()).folder).remove_if_empty()

    def reclaim(self) -> tuple[str, ...]:
        """Remove what `end_run` removes for the runs of killed processes, and return the names of these runs.

        Only a process on the same machine is known to have ended, so the data of other machines is kept.
        """
        killed: list[str] = []
        with _logged_failure():
            place = self.storage.at(_SCRATCH)
            owners = {folder: Owner.of_folder(folder) for folder in place.list_folder("")}
            for folder in (folder for folder, owner in owners.items() if owner is not None and owner.is_dead):
                for run_id in place.list_folder(folder):
                    self._remove_uncommitted(place.at(folder, run_id), run_id)
                    killed.append(run_id)
                place.at(folder).clear()
                log.info("removed what a killed run has left in the lake", folder=folder)
        return tuple(killed)

    def _remove_uncommitted(self, place: Storage, run_id: str) -> None:
        """Remove the files of a run that the notes in its folder lead to, and then the folder."""
        for note in place.at(_NOTES).names():
            layer, name, number = note.split("/")
            table = self.table(layer, name)
            committed = table.committed_since(int(number))
            if committed is not None:
                table.stager(run_id).keep_only(committed.table)
                self.quarantine(name).stager(run_id).keep_only(committed.quarantine)
        place.clear()

    def rows(self, table: LakeTable) -> pa.Table:
        """Return all rows of a table's newest version."""
        version = table.version()
        if version is None:
            raise StorageError(f"table {table.name!r} does not exist yet", do="run the project first")
        with connect(filesystem=self.storage.filesystem()) as con:
            return con.sql(version.scan().query()).to_arrow_table()


@contextmanager
def _logged_failure() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, the tables are not affected
        log.warning("removing uncommitted files failed and is retried later", error=str(error))
