"""Post-commit: updates quarantine, warehouse and catalog. It is idempotent.

The manifest contains everything it needs, so the next run completes it for a run that was killed after a commit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from pipeline.commit.commit_plan import row_key
from pipeline.commit.moments import Moment
from pipeline.core.definitions import Action, StoredDefinition
from pipeline.core.errors import StorageError
from pipeline.core.staging import Manifest, RowCounts
from pipeline.governance import CheckRecord, VersionRecord
from pipeline.kernel.checks import key_expectations, merge_expectations
from pipeline.lake import QUARANTINE, Commit, LakeTable, Version
from pipeline.project.workspace import Workspace
from pipeline.warehouse import Load
from pipeline.warehouse.modelling.facts import foreign_keys_of


def post_commit(
    workspace: Workspace,
    definition: StoredDefinition,
    version: Version,
    reached: Callable[[Moment], None] = lambda _: None,
) -> None:
    """Update quarantine, warehouse and catalog to match a version's manifest.

    The catalog is updated last, so a version of a run that it has is in the quarantine. Streams record theirs at any time.
    """
    manifest = version.manifest
    if manifest is None:
        return
    if manifest.epoch is not None or not _is_recorded(workspace, version, manifest):
        update_quarantine(workspace, definition, manifest, version.manifest_id)
    reached(Moment.SETTLED)
    update_warehouse_and_catalog(workspace, definition, version, reached)


def update_warehouse_and_catalog(
    workspace: Workspace,
    definition: StoredDefinition,
    version: Version,
    reached: Callable[[Moment], None] = lambda _: None,
) -> None:
    """Update the warehouse and the catalog to a version."""
    manifest = version.manifest
    if manifest is None:
        return
    if definition.is_in_warehouse:
        _load(workspace, definition, version)
        reached(Moment.LOADED)
    if not _is_recorded(workspace, version, manifest):
        workspace.catalog.keep(_version_record(definition, version, manifest))


def _is_recorded(workspace: Workspace, version: Version, manifest: Manifest) -> bool:
    """Return whether the catalog has a version."""
    return workspace.catalog.has_version(manifest.table, version.number, manifest.run_id)


def check_records(
    definition: StoredDefinition, violations: Mapping[str, int], flow: RowCounts
) -> tuple[CheckRecord, ...]:
    """Return a table's expectations with the number of violations of each, and the columns with discarded values."""
    merge = definition.merge
    promised = key_expectations(definition.key) if merge is None else merge_expectations(definition.key, merge)
    expectations = (*definition.expect, *promised)
    records = [
        CheckRecord(e.name, e.condition, e.action, flow.rows_made, violations.get(e.name, 0)) for e in expectations
    ]
    discarded = set(violations) - {record.expectation for record in records}
    records += [
        CheckRecord(name, "other values are stored as null", Action.WARN, flow.rows_made, violations[name])
        for name in sorted(discarded)
    ]
    return tuple(records)


def update_quarantine(
    workspace: Workspace, definition: StoredDefinition, manifest: Manifest, manifest_id: int | None = None
) -> None:
    """Update the quarantine to match a manifest, if the table is still at it.

    `manifest_id` identifies the version that the manifest was read from; without it, the manifest was just committed. A
    manifest of an earlier format is converted to the current fields, whose hash is a different id.

    A process that commits on top of a manifest has already applied it, so a delayed process must not quarantine its
    rows again.
    """
    if not manifest.quarantined and manifest.quarantine_mode != "overwrite":
        return
    manifest_id = manifest.manifest_id if manifest_id is None else manifest_id
    quarantined = workspace.lake.quarantine(definition.name)
    before = quarantined.version()
    if manifest.quarantined and workspace.table(definition.name).manifest_id() != manifest_id:
        return
    if before is None or before.manifest_id != manifest_id:
        _require_staged(quarantined, definition, manifest)
    if manifest.quarantined or (before is not None and manifest.quarantine_mode == "overwrite"):
        note = {"headwater.run": manifest.run_id}
        quarantined.commit_files(
            Commit(manifest.quarantined, QUARANTINE, manifest.quarantine_mode, manifest_id, note), before
        )


def _require_staged(quarantined: LakeTable, definition: StoredDefinition, manifest: Manifest) -> None:
    missing = [file.path for file in manifest.quarantined if not quarantined.storage.has(file.path)]
    if missing:
        raise StorageError(
            f"quarantined rows of {definition.name!r} are missing in the lake",
            got=f"no file {missing[0]}",
            do=f"recompute them: headwater run --full --select {definition.name}",
        )


def _load(workspace: Workspace, definition: StoredDefinition, version: Version) -> None:
    """Load a version into the warehouse, unless it has this one or a later one."""
    table, loaded = workspace.table(definition.name), workspace.warehouse.loaded().get(definition.name)
    if loaded == (version.number, version.manifest_id):
        return
    if loaded is not None and version.number < loaded[0] <= (table.number() or 0):  # a delayed process
        return
    change = None if loaded is None else table.change_since(*loaded, version)
    manifest = version.manifest
    load = Load(
        name=definition.name,
        version=version.number,
        manifest_id=version.manifest_id or 0,
        scan=version.scan(),
        key=row_key(definition),
        description=definition.description,
        since=loaded if change is not None else None,
        added=() if change is None else change.added,
        removed=() if change is None else change.removed,
        foreign_keys=foreign_keys_of(definition),
        masking=workspace.project.account.masking_of(definition.name),
        seen=loaded,
        run_id="" if manifest is None else manifest.run_id,
        committed_at=None if manifest is None or not manifest.at else datetime.fromisoformat(manifest.at),
    )
    workspace.warehouse.load(load, filesystem=workspace.lake.storage.filesystem())


def _version_record(definition: StoredDefinition, version: Version, manifest: Manifest) -> VersionRecord:
    return VersionRecord(
        name=definition.name,
        version=version.number,
        layer=definition.layer,
        run_id=manifest.run_id,
        at=manifest.at,
        rows=version.rows,
        size_bytes=sum(file.size_bytes for file in version.files),
        schema=version.schema,
        inputs=manifest.inputs,
    )
