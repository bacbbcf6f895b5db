"""Savepoints: commits of a stream that are kept under a label and can be restored.

A savepoint consists of the manifest of the commit, copies of its state files, and the list of the files of the table
and of its quarantine. These files are not copied, so a clean-up must not delete the files that `pinned` returns.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath

from pipeline.commit.post_commit import update_quarantine
from pipeline.core.clock import Clock, now
from pipeline.core.epochs import StateFile
from pipeline.core.errors import ConflictError, RequestError, StorageError, did_you_mean
from pipeline.core.format_versions import require_known
from pipeline.core.staging import Manifest, StagedFile
from pipeline.kernel.engine import connect
from pipeline.kernel.sql_text import literal
from pipeline.lake import DeltaStager, LakeTable, Storage, Version
from pipeline.lake.holds import Hold, has_hold, place_hold, release_hold
from pipeline.project.holds import SAVEPOINTS, incomplete_savepoints, savepoint_file, savepoint_hold
from pipeline.project.workspace import Workspace
from pipeline.streaming.operators.snapshots import read_verified
from pipeline.streaming.planning.plan import StreamPlan

FORMAT_VERSION = 2
"""The format of new savepoints. Format 1 has the same fields without `format_version`."""
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TRIES = 50
_STORED_QUARANTINE = "aside"
"""The JSON key of `quarantined` in formats 1 and 2."""


@dataclass(frozen=True)
class Savepoint:
    """A commit of a stream that is kept under a label."""

    stream: str
    label: str
    at: str
    """The time at which it was created, ISO 8601 in UTC."""
    version: int
    """The version of the table."""
    manifest: str
    """The manifest of the commit as JSON."""
    files: Sequence[StagedFile]
    """The files of the table at that version."""
    quarantined: Sequence[StagedFile]
    """The files of its quarantine at that version."""
    columns: Sequence[tuple[str, str]]
    format_version: int = FORMAT_VERSION

    @property
    def epoch(self) -> int:
        """The number of the epoch."""
        epoch = Manifest.from_json(self.manifest).epoch
        return 0 if epoch is None else epoch.number

    @property
    def rows(self) -> int:
        """The number of rows of the table at that version."""
        return sum(file.rows for file in self.files)

    def to_json(self) -> str:
        """Return it as JSON."""
        fields = asdict(self)
        fields[_STORED_QUARANTINE] = fields.pop("quarantined")
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Savepoint:
        """Return a savepoint from JSON of this or an earlier format; raise `StorageError` for a later format."""
        parts = json.loads(text)
        what = f"savepoint {parts.get('label')!r} of stream {parts.get('stream')!r}"
        do = "upgrade Headwater, or restore another savepoint"
        require_known(parts.get("format_version", 1), FORMAT_VERSION, what, do)
        parts["quarantined"] = parts.pop(_STORED_QUARANTINE)
        for name in ("files", "quarantined"):
            parts[name] = tuple(StagedFile(**file) for file in parts[name])
        parts["columns"] = tuple((name, kind) for name, kind in parts["columns"])
        return cls(**{**parts, "format_version": FORMAT_VERSION})


def save(workspace: Workspace, name: str, label: str | None = None, *, clock: Clock = now) -> Savepoint:
    """Keep the last commit of a stream under a label (default: `epoch-N`). The stream may be running.

    Raises `RequestError` for a label that exists or is invalid, and for a table that no stream has written.
    """
    table = workspace.table(name)
    for _ in range(_TRIES):
        version = workspace.require(name)
        manifest = version.manifest
        if manifest is None or manifest.epoch is None:
            raise RequestError(f"{name!r} was not written by a stream", do=f"run `headwater stream {name}`")
        named = label or f"epoch-{manifest.epoch.number}"
        _require_unused(table.storage, name, named)
        folder = f"{SAVEPOINTS}/{named}"
        try:
            state = [_copy_state_file(table.storage, file, folder) for file in manifest.epoch.state]
        except StorageError:  # the stream has advanced, and a clean-up has deleted the files
            if table.number() == version.number:
                raise
            continue
        quarantined = _quarantine_at(workspace, name, version)
        if quarantined is None:
            time.sleep(0.05)
            continue
        kept = replace(manifest, epoch=replace(manifest.epoch, state=tuple(state)))
        savepoint = Savepoint(
            stream=name,
            label=named,
            at=clock().isoformat(),
            version=version.number,
            manifest=kept.to_json(),
            files=table.staged(version),
            quarantined=quarantined,
            columns=tuple((c.name, c.type) for c in version.schema.columns),
        )
        hold = Hold(savepoint_hold(named), version.number, f"savepoint {named}")
        place_hold(table.storage, hold)
        # written last, because this file completes the savepoint
        table.storage.write_text(f"{folder}/savepoint.json", savepoint.to_json())
        if not has_hold(table.storage, hold.id):  # released in between, because there was no savepoint of its label
            place_hold(table.storage, hold)
        return savepoint
    raise ConflictError(
        f"stream {name!r} commits faster than a savepoint can be created", do="pause the stream and try again"
    )


def savepoints(workspace: Workspace, name: str) -> tuple[Savepoint, ...]:
    """Return a stream's savepoints, the oldest first."""
    storage = workspace.table(name).storage
    return tuple(sorted((_read(storage, label) for label in _labels(storage)), key=lambda each: each.at))


def delete_savepoint(workspace: Workspace, name: str, label: str) -> None:
    """Delete a savepoint and release its version, also if the process that created it was killed before it was complete.

    Raises `RequestError` for an unknown label, and if the last commit of the stream still uses the state in the savepoint.
    """
    storage = workspace.table(name).storage
    labels = _labels(storage)
    if label not in labels and label not in incomplete_savepoints(storage):
        raise RequestError(f"stream {name!r} has no savepoint {label!r}", do=did_you_mean(label, labels))
    folder = f"{SAVEPOINTS}/{label}"
    version = workspace.require(name)
    epoch = None if version.manifest is None else version.manifest.epoch
    if epoch is not None and any(file.path.startswith(f"{folder}/") for file in epoch.state):
        raise RequestError(
            f"the last commit of stream {name!r} uses the state in savepoint {label!r}, which was restored",
            do=f"let the stream commit first: headwater stream {name}",
        )
    if label in labels:
        storage.remove([f"{folder}/savepoint.json"])
    storage.at(folder).clear()
    release_hold(storage, savepoint_hold(label))


def pinned(workspace: Workspace, name: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the files of the table and of its quarantine that savepoints need, and that a clean-up must not delete.

    The paths are relative to the folders of these two tables.
    """
    kept = savepoints(workspace, name)
    return (
        frozenset(file.path for each in kept for file in each.files),
        frozenset(file.path for each in kept for file in each.quarantined),
    )


def restore(workspace: Workspace, plan: StreamPlan, label: str, *, clock: Clock = now) -> Version:
    """Restore a stream and its table to a savepoint in one commit. The caller must hold the lease of the stream.

    This restores rows, quarantine, offsets, watermark and state. Raises `RequestError` for an unknown label,
    `StorageError` if a file is missing or the columns have changed, and `ConflictError` if another process committed in
    between; then nothing is changed.
    """
    table = workspace.table(plan.name)
    labels = _labels(table.storage)
    if label not in labels:
        raise RequestError(f"stream {plan.name!r} has no savepoint {label!r}", do=did_you_mean(label, labels))
    savepoint = _read(table.storage, label)
    seen = table.version(lenient=True)
    if seen is None:
        raise StorageError(f"table {plan.name!r} no longer exists", do="rebuild it: headwater stream --from earliest")
    quarantined = workspace.lake.quarantine(plan.name)
    _require_same_columns(savepoint, seen)
    _require_files(table, savepoint.files, label)
    _require_files(quarantined, savepoint.quarantined, label)
    manifest = Manifest.from_json(savepoint.manifest)
    for file in () if manifest.epoch is None else manifest.epoch.state:
        read_verified(file, table.storage.read_bytes)
    run_id = f"restore-{secrets.token_hex(4)}"
    again = {file.path for file in savepoint.files}
    now_there = {file.uri.removeprefix(f"{table.storage.uri}/"): file.uri for file in seen.files}
    manifest = replace(
        manifest,
        run_id=run_id,
        mode="merge",
        quarantined=_restage(workspace, quarantined, savepoint.quarantined, run_id),
        quarantine_mode="overwrite",
        at=clock().isoformat(),
    )
    committed = table.commit(
        manifest,
        [file for file in savepoint.files if file.path not in now_there],
        seen.schema,
        seen,
        frozenset(uri for path, uri in now_there.items() if path not in again),
    )
    update_quarantine(workspace, plan.definition, manifest)
    return committed


def _labels(storage: Storage) -> tuple[str, ...]:
    return tuple(label for label in storage.list_folder(SAVEPOINTS) if storage.has(savepoint_file(label)))


def _read(storage: Storage, label: str) -> Savepoint:
    return Savepoint.from_json(storage.read_text(savepoint_file(label)))


def _require_unused(storage: Storage, name: str, label: str) -> None:
    if not _LABEL.fullmatch(label):
        raise RequestError(
            "a label must start with a letter or digit and consist of letters, digits, '.', '_' and '-'",
            got=repr(label),
        )
    if storage.has(savepoint_file(label)):
        raise RequestError(f"stream {name!r} already has a savepoint {label!r}", do="use another label")


def _copy_state_file(storage: Storage, file: StateFile, folder: str) -> StateFile:
    copy = replace(file, path=f"{folder}/{PurePosixPath(file.path).name}")
    storage.write_bytes(copy.path, read_verified(file, storage.read_bytes))
    return copy


def _quarantine_at(workspace: Workspace, name: str, version: Version) -> tuple[StagedFile, ...] | None:
    """Return the files of the quarantine that belong to a version of the table; `None` if they are not known yet."""
    quarantined = workspace.lake.quarantine(name)
    there = quarantined.version()
    waits = version.manifest is not None and bool(version.manifest.quarantined)
    if waits and (there is None or there.manifest_id != version.manifest_id):
        return None  # post-commit has not run yet
    files = () if there is None else quarantined.staged(there)
    return files if workspace.table(name).number() == version.number else None


def _require_same_columns(savepoint: Savepoint, seen: Version) -> None:
    columns = tuple((c.name, c.type) for c in seen.schema.columns)
    if columns != savepoint.columns:
        changed = sorted(set(columns) ^ set(savepoint.columns))
        raise StorageError(
            f"the columns of table {savepoint.stream!r} have changed since savepoint {savepoint.label!r}",
            got=", ".join(f"{name} {kind}" for name, kind in changed),
            do="revert the change and rebuild the table: headwater stream --from earliest",
        )


def _require_files(table: LakeTable, files: Sequence[StagedFile], label: str) -> None:
    missing = [file.path for file in files if not table.storage.has(file.path)]
    if missing:
        raise StorageError(
            f"savepoint {label!r} cannot be restored: files of {table.name!r} are missing",
            got=f"no file {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
            do="restore a later savepoint, or rebuild the table: headwater stream --from earliest",
        )


def _restage(
    workspace: Workspace, quarantined: LakeTable, files: Sequence[StagedFile], run_id: str
) -> tuple[StagedFile, ...]:
    """Stage quarantined rows under new file names, because a commit cannot remove and add a file of the same name."""
    if not files:
        return ()
    uris = ", ".join(literal(f"{quarantined.storage.uri}/{file.path}") for file in files)
    with connect(filesystem=workspace.lake.storage.filesystem()) as con:
        return DeltaStager(quarantined.storage, run_id).stage(
            con, f"select * from read_parquet([{uris}], hive_partitioning = false)", 0
        )
