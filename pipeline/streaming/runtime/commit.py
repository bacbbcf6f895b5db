"""An epoch comes to its table: one commit, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from pipeline.batch.work import Outcome
from pipeline.core.errors import StorageError
from pipeline.core.staging import Manifest, Mode
from pipeline.kernel.budget import budget_here
from pipeline.kernel.scan import DataFile, Scan
from pipeline.lake import MergeSpec, TableHead, compact, replace_keys
from pipeline.project.workspace import Workspace
from pipeline.runner.commit_plan import CommitPlan, StagedRows, merge_of, plan_commit
from pipeline.runner.post_commit import set_aside
from pipeline.streaming.planning.plan import StreamPlan

TIDY_EVERY = 100
"""After how many versions small files are put together, and the log is kept short."""
TOGETHER_BYTES = 32 << 20
"""Up to which size files are put together beside the stream: more would let an epoch wait."""


@dataclass(frozen=True)
class PreparedEpoch:
    """What is to be committed: what the manifest says, and what was staged."""

    manifest: Manifest
    outcome: Outcome


def commit_epoch(
    workspace: Workspace, plan: StreamPlan, head: TableHead, made: PreparedEpoch, reached: Callable[[str], None]
) -> Manifest:
    """Commit an epoch on top of the version at the head, and bring the quarantine to what it says.

    Raises `ConflictError` when somebody else committed the table in between: nothing of the epoch is seen then.
    """
    landing = _landing(workspace, plan, head, made)
    manifest = made.manifest
    mode: Mode = "merge" if landing.removed or landing.tombstones else manifest.mode
    manifest = replace(manifest, flow=landing.flow, mode=mode, tombstones=landing.tombstones)
    epoch = None if manifest.epoch is None else manifest.epoch.number
    number = head.commit(manifest, landing.files, plan.schema, removed=landing.removed, epoch=epoch)
    reached("committed")
    if manifest.aside or manifest.aside_mode == "overwrite":
        set_aside(workspace, plan.definition, manifest)
    reached("settled")
    if number and number % TIDY_EVERY == 0:
        with suppress(StorageError):  # the next time will do
            compact(workspace.table(plan.name), head, target_bytes=TOGETHER_BYTES)
    return manifest


def _landing(workspace: Workspace, plan: StreamPlan, head: TableHead, made: PreparedEpoch) -> CommitPlan:
    """Return what to commit: rows as they are, or in the place of those with their key."""
    manifest, outcome = made.manifest, made.outcome
    if plan.emits == "append" and merge_of(plan.definition) is None:
        return CommitPlan(outcome.files, outcome.flow, outcome.aside, manifest.aside_mode)
    seen = None if manifest.mode == "overwrite" else workspace.table(plan.name).version(head.number)
    if plan.emits == "append":
        return plan_commit(workspace, StagedRows(plan.definition, outcome, manifest.run_id, seen))
    landing = CommitPlan(outcome.files, outcome.flow, outcome.aside, manifest.aside_mode)
    if seen is None or not outcome.files:
        return landing
    table, key = workspace.table(plan.name), plan.definition.key
    limits = budget_here(workspace.settings.memory_bytes).whole()
    work = MergeSpec(table, key, None, manifest.run_id, outcome.files, outcome.schema, seen, limits)
    files = tuple(DataFile(work.uri(file), file.rows, file.size_bytes) for file in outcome.files)
    done = replace_keys(work, Scan(outcome.schema.select(key), files), key)
    return replace(landing, files=done.files, removed=done.removed)
