"""An epoch comes to its table: one commit, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.batch.work import Outcome
from pipeline.core.staging import Manifest, Mode
from pipeline.kernel.budget import budget_here
from pipeline.kernel.scan import DataFile, Scan
from pipeline.lake import MergeWork, Version, replace_keys
from pipeline.run.merging import Arrival, Landing, land
from pipeline.run.settle import set_aside
from pipeline.run.stream.plan import StreamPlan
from pipeline.run.workspace import Workspace


@dataclass(frozen=True)
class Made:
    """What is to be committed: what the manifest says, what was staged, and the version it comes on top of."""

    manifest: Manifest
    outcome: Outcome
    before: Version | None


def land_epoch(workspace: Workspace, plan: StreamPlan, made: Made, reached: Callable[[str], None]) -> Version:
    """Commit an epoch on top of the version before it, and bring the quarantine to what it says.

    Raises `ConflictError` when somebody else committed the table in between: nothing of the epoch is seen then.
    """
    landing = _landing(workspace, plan, made)
    manifest, table = made.manifest, workspace.table(plan.name)
    mode: Mode = "merge" if landing.removed or landing.tombstones else manifest.mode
    manifest = replace(manifest, flow=landing.flow, mode=mode, tombstones=landing.tombstones)
    committed = table.commit(manifest, landing.files, plan.schema, made.before, landing.removed)
    reached("committed")
    set_aside(workspace, plan.definition, manifest)
    reached("settled")
    return committed


def _landing(workspace: Workspace, plan: StreamPlan, made: Made) -> Landing:
    """Return what to commit: rows as they are, or in the place of those with their key."""
    manifest, outcome = made.manifest, made.outcome
    seen = None if manifest.mode == "overwrite" else made.before
    if plan.emits == "append":
        return land(workspace, Arrival(plan.definition, outcome, manifest.run_id, seen))
    landing = Landing(outcome.files, outcome.flow, outcome.aside, manifest.aside_mode)
    if seen is None or not outcome.files:
        return landing
    table, key = workspace.table(plan.name), plan.definition.key
    limits = budget_here(workspace.settings.memory_bytes).whole()
    work = MergeWork(table, key, None, manifest.run_id, outcome.files, outcome.schema, seen, limits)
    files = tuple(DataFile(work.uri(file), file.rows, file.size_bytes) for file in outcome.files)
    done = replace_keys(work, Scan(outcome.schema.select(key), files), key)
    return replace(landing, files=done.files, removed=done.removed)
