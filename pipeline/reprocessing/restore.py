"""Restores a table to an earlier version, in one commit after which runs and streams go on exactly once.

The commit makes the table's files and schema those of the version, with its manifest: the versions, cursors, offsets and
state that had been consumed then. The next run or the stream goes on from there, and tables that read this one see
a change like any other. The restore of the Delta library would move only the files: it keeps the newest manifest and epoch, so
what was consumed since would never be read again.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pipeline.commit.moments import Moment
from pipeline.commit.post_commit import post_commit
from pipeline.core.as_of import AsOf
from pipeline.core.clock import Clock, now
from pipeline.core.definitions import Feed, StoredDefinition
from pipeline.core.errors import RequestError, StorageError
from pipeline.core.schema import Schema
from pipeline.core.staging import Manifest, Mode, RowCounts, StagedFile
from pipeline.governance import Leases
from pipeline.kernel.engine import connect
from pipeline.lake import Commit, DeltaStager, LakeTable, Version
from pipeline.lake.history import RESTORED
from pipeline.lake.holds import Hold, place_hold, release_hold
from pipeline.lake.log import entries
from pipeline.lake.log_files import LogFiles
from pipeline.lake.maintenance_claims import wait_for_maintenance
from pipeline.lake.manifests import manifest_name
from pipeline.project.workspace import Workspace
from pipeline.runner.facts import is_computed_by
from pipeline.streaming.operators.snapshots import read_verified
from pipeline.streaming.runtime.lease_manager import LeaseManager

_HELD_FOR = dt.timedelta(days=1)
"""How long a restore holds its version if it is killed."""


@dataclass(frozen=True)
class TableRestore:
    """A table's newest version, and the version that it is to be restored to."""

    definition: StoredDefinition
    before: Version
    target: Version
    manifest: Manifest
    """The manifest of the target."""
    redefined: bool = False
    """Whether the definition has changed since, so that the next run computes the table again."""
    read_by: tuple[str, ...] = ()
    """The tables that read this one, directly or not; their next run takes over the change."""

    @property
    def is_streamed(self) -> bool:
        """Whether a stream goes on from the restored version."""
        return self.manifest.epoch is not None


def plan_restore(workspace: Workspace, name: str, as_of: AsOf) -> TableRestore:
    """Check that a table can be restored to the version of a time, or a given one; nothing is changed.

    Raises `RequestError` if the table has these rows already, and `StorageError` if something that the version needs is
    no longer there.
    """
    definition, table = workspace.stored(name), workspace.table(name)
    before = workspace.require(name)
    chosen = table.version_as_of(as_of)
    target = None if chosen is None else table.version(chosen.number)
    if target is None or target.manifest_id == before.manifest_id:
        raise RequestError(
            f"table {name!r} already has the rows of this version",
            got=f"version {before.number if target is None else target.number}",
            do="choose an earlier version; see `headwater lake history`",
        )
    manifest = target.manifest
    if manifest is None:
        raise _refused(name, target, "its manifest is no longer there")
    if before.manifest is not None and before.manifest.epoch is not None and manifest.epoch is None:
        raise _refused(name, target, "it was not written by the stream, which could not go on from it")
    _require_files(table, target, manifest)
    quarantine_at(workspace, name, target.number)
    graph = workspace.project.graph
    reads_feed = any(isinstance(workspace.definition(each), Feed) for each in definition.inputs)
    return TableRestore(
        definition,
        before,
        target,
        manifest,
        redefined=not reads_feed and not is_computed_by(workspace, definition, target, manifest.fingerprint),
        read_by=tuple(each for each in graph.names if each in graph.downstream(name)),
    )


def restore(
    workspace: Workspace,
    plan: TableRestore,
    *,
    clock: Clock = now,
    reached: Callable[[Moment], None] = lambda _: None,
) -> Version:
    """Restore a table as planned, and return its new version.

    Rows, schema and quarantine become those of the target. Raises `ConflictError` if another process has committed since
    the plan, or runs the stream, and the errors of `plan_restore`; then nothing is changed.
    """
    name, run_id = plan.definition.name, f"restore-{secrets.token_hex(4)}"
    table, lake = workspace.table(name), workspace.lake
    with _leased(workspace, plan), _held(table, plan.target, run_id, clock):
        wait_for_maintenance(table.storage)
        _require_files(table, plan.target, plan.manifest)
        lake.begin_run(run_id)
        post_commit(workspace, plan.definition, plan.before)
        with lake.staging(table, run_id, plan.before):
            commit = _commit(workspace, plan, run_id, clock)
            reached(Moment.STAGED)
            committed = table.commit_files(commit, plan.before)
        reached(Moment.COMMITTED)
        post_commit(workspace, plan.definition, committed, reached)
        lake.end_run(run_id)
    return committed


def quarantine_at(workspace: Workspace, name: str, number: int) -> Version | None:
    """Return the quarantine of a table as of one of its versions; `None` if nothing had been quarantined.

    Raises `StorageError` if that is no longer known.
    """
    quarantined, table = workspace.lake.quarantine(name), workspace.table(name)
    newest = quarantined.number()
    if newest is None:
        return None
    later = entries(table.storage, number + 1, table.number() or number)
    readable = LogFiles.of(quarantined.storage).readable()
    ids = None if later is None else {entry.manifest_id for entry in later}
    for each in reversed(readable):
        entry = entries(quarantined.storage, each, each)
        if ids is None or entry is None:
            break
        if entry[0].manifest_id not in ids:
            return quarantined.version(each)
    if ids is not None and readable[:1] == (0,):
        return None
    raise StorageError(
        f"the quarantine of table {name!r} as of version {number} is no longer known",
        do="restore a later version, or recompute the table: headwater run --full",
    )


def _commit(workspace: Workspace, plan: TableRestore, run_id: str, clock: Clock) -> Commit:
    """Stage what the commit needs besides existing files, and write its manifest."""
    table = workspace.table(plan.definition.name)
    fits = _columns(plan.target.schema) == _columns(plan.before.schema)
    there = {file.uri.removeprefix(f"{table.storage.uri}/"): file.uri for file in plan.before.files}
    staged = table.staged(plan.target)
    again = frozenset(file.path for file in staged)
    mode: Mode = "merge" if fits else "overwrite"
    files = [file for file in staged if file.path not in there]
    if not fits:  # files that stay are copied: a commit cannot remove and add a file of the same name
        files += _copied(table, [file for file in staged if file.path in there], run_id)
    quarantined, quarantine_mode = _requarantined(workspace, plan, run_id)
    manifest = replace(
        plan.manifest,
        run_id=run_id,
        mode=mode,
        flow=RowCounts(),
        checks={},
        quarantined=quarantined,
        quarantine_mode=quarantine_mode,
        seconds=0.0,
        at=clock().isoformat(),
    )
    note = {"headwater.run": run_id, "headwater.mode": mode, RESTORED: str(plan.target.number)}
    removed = frozenset(uri for path, uri in there.items() if path not in again) if fits else frozenset[str]()
    table.storage.write_text(manifest_name(manifest.manifest_id), manifest.to_json())
    return Commit(files, plan.target.schema, mode, manifest.manifest_id, note, removed)


def _columns(schema: Schema) -> tuple[tuple[str, str, bool], ...]:
    return tuple((column.name, column.type, column.is_added) for column in schema.columns)


def _copied(table: LakeTable, files: Sequence[StagedFile], run_id: str) -> list[StagedFile]:
    copies = []
    for number, file in enumerate(files):
        folder = file.path.rpartition("/")[0]
        path = f"{folder}/part-{run_id}-{number:05d}.parquet".removeprefix("/")
        table.storage.copy(table.storage, file.path, path)
        copies.append(replace(file, path=path))
    return copies


def _requarantined(workspace: Workspace, plan: TableRestore, run_id: str) -> tuple[tuple[StagedFile, ...], Mode]:
    """Stage the quarantine of the target under new names, unless the quarantine has not changed since."""
    quarantined = workspace.lake.quarantine(plan.definition.name)
    target = quarantine_at(workspace, plan.definition.name, plan.target.number)
    newest = quarantined.version()
    if newest is None or (target is not None and target.files == newest.files):
        return (), "append"
    if target is None or not target.files:
        return (), "overwrite"
    with connect(filesystem=workspace.lake.storage.filesystem()) as con:
        return DeltaStager(quarantined.storage, run_id).stage(con, target.scan().query(), 0), "overwrite"


def _require_files(table: LakeTable, target: Version, manifest: Manifest) -> None:
    """Raise `StorageError` unless all files are there that a version needs: rows, tombstones and state."""
    names = frozenset(table.storage.names())
    paths = [file.uri.removeprefix(f"{table.storage.uri}/") for file in target.files]
    missing = [path for path in (*paths, *(file.path for file in manifest.tombstones)) if path not in names]
    if missing:
        raise _refused(table.name, target, f"{len(missing)} of its files are no longer there, the first {missing[0]}")
    for file in () if manifest.epoch is None else manifest.epoch.state:
        if file.path not in names:
            raise _refused(table.name, target, f"state of its stream is no longer there: {file.path}")
        read_verified(file, table.storage.read_bytes)


def _refused(name: str, target: Version, reason: str) -> StorageError:
    return StorageError(
        f"table {name!r} cannot be restored to version {target.number}: {reason}",
        do="restore a later version, or recompute the table",
    )


@contextmanager
def _leased(workspace: Workspace, plan: TableRestore) -> Iterator[None]:
    """Keep the stream of the table from starting, however long the restore takes."""
    if not plan.is_streamed:
        yield
        return
    status = "restoring"
    leases = LeaseManager(Leases(workspace.catalog), lambda _: {"status": status})
    try:
        leases.take(plan.definition.name)
        yield
    finally:
        status = "stopped"
        leases.close()


@contextmanager
def _held(table: LakeTable, target: Version, run_id: str, clock: Clock) -> Iterator[None]:
    until = (clock() + _HELD_FOR).isoformat()
    place_hold(table.storage, Hold(run_id, target.number, "a restore that is running", until=until))
    try:
        yield
    finally:
        release_hold(table.storage, run_id)
