"""Epochs come to their table: one commit for each, and what follows from it."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from pipeline.batch.work import Outcome
from pipeline.commit.commit_plan import CommitPlan, StagedRows, merge_of, plan_commit
from pipeline.commit.post_commit import update_quarantine, update_warehouse_and_catalog
from pipeline.core.epochs import Epoch
from pipeline.core.errors import HeadwaterError, StorageError
from pipeline.core.logs import logger
from pipeline.core.staging import Manifest, Mode
from pipeline.kernel.budget import budget_here
from pipeline.kernel.scan import DataFile, Scan
from pipeline.lake import MergeSpec, TableHead, compact, replace_keys
from pipeline.project.workspace import Workspace
from pipeline.streaming.planning.plan import StreamPlan
from pipeline.streaming.runtime.steps import CommitStep, OnStep

log = logger(__name__)
MAINTENANCE_EVERY = 100
"""After how many versions small files are put together, and the log is kept short."""
COMPACT_BYTES = 32 << 20
"""Up to which size files are put together beside the stream: more would let an epoch wait."""
RECORD_EVERY_S = 20.0
"""How often the catalog and, for a gold table, the warehouse are brought to the last commit."""


@dataclass(frozen=True)
class PreparedEpoch:
    """What is to be committed: what the manifest says, and what was staged."""

    manifest: Manifest
    outcome: Outcome


class EpochCommitter:
    """Commits the epochs of a stream one after the other, in a thread beside it.

    A commit goes through the head of the table as it was opened: when somebody else has committed in between, it raises
    `ConflictError` and nothing of the epoch is seen.
    """

    def __init__(self, workspace: Workspace, plan: StreamPlan, on_step: OnStep) -> None:
        """Open the head of the table."""
        self._workspace = workspace
        self._plan = plan
        self._on_step = on_step
        self._table = workspace.table(plan.name)
        self.head = self._table.head()
        self.committed: Epoch | None = None
        """The last epoch that is known to be committed."""
        self._commits = ThreadPoolExecutor(1, thread_name_prefix="headwater-commit")
        self._tidying = ThreadPoolExecutor(1, thread_name_prefix="headwater-tidy")
        self._committing: Future[Manifest] | None = None
        self._recorded_at = time.monotonic()

    def close(self) -> None:
        """Wait for what was begun, whatever becomes of it."""
        self._commits.shutdown()
        self._tidying.shutdown()

    def begin(self, epoch: PreparedEpoch) -> None:
        """Begin a commit, once the one before is done; raise what became of that."""
        self.wait()
        self._committing = self._commits.submit(
            commit_epoch, self._workspace, self._plan, self.head, epoch, self._on_step
        )

    def wait(self) -> None:
        """Wait for the commit that was begun; raise what became of it."""
        if self._committing is None:
            return
        self.committed = self._committing.result().epoch
        self._committing = None
        if self.head.number and self.head.number % MAINTENANCE_EVERY == 0:
            self._tidying.submit(self._tidy)
        if time.monotonic() - self._recorded_at > RECORD_EVERY_S:
            try:
                self.record()
            except StorageError as error:
                log.warning("catalog is behind: it is brought up to date later", **self._where(error))

    def record(self) -> None:
        """Bring the catalog and the warehouse to the last commit: not at each one, but now and then, and in the end."""
        self._recorded_at = time.monotonic()
        version = self._table.version()
        if version is not None:
            update_warehouse_and_catalog(self._workspace, self._plan.definition, version)

    def _tidy(self) -> None:
        """Keep the log of the table short, beside the stream, which finds out by itself what is wrong with the store."""
        try:
            self._table.tidy()
            self._workspace.lake.quarantine(self._plan.name).tidy()
        except (HeadwaterError, OSError) as error:
            log.warning("table log was not tidied: it is tried again later", **self._where(error))

    def _where(self, error: Exception) -> dict[str, str]:
        return {"table": self._plan.name, "error": str(error)}


def commit_epoch(
    workspace: Workspace, plan: StreamPlan, head: TableHead, prepared: PreparedEpoch, on_step: OnStep
) -> Manifest:
    """Commit an epoch on top of the version at the head, and bring the quarantine to what it says.

    Raises `ConflictError` when somebody else committed the table in between: nothing of the epoch is seen then.
    """
    commit_plan = _commit_plan(workspace, plan, head, prepared)
    manifest = prepared.manifest
    mode: Mode = "merge" if commit_plan.removed or commit_plan.tombstones else manifest.mode
    manifest = replace(manifest, flow=commit_plan.flow, mode=mode, tombstones=commit_plan.tombstones)
    epoch = None if manifest.epoch is None else manifest.epoch.number
    number = head.commit(manifest, commit_plan.files, plan.schema, removed=commit_plan.removed, epoch=epoch)
    on_step(CommitStep.COMMITTED)
    if manifest.quarantined or manifest.quarantine_mode == "overwrite":
        update_quarantine(workspace, plan.definition, manifest)
    on_step(CommitStep.SETTLED)
    if number and number % MAINTENANCE_EVERY == 0:
        try:
            compact(workspace.table(plan.name), head, target_bytes=COMPACT_BYTES)
        except StorageError as error:
            log.warning(
                "small files were not put together: it is tried again later",
                table=plan.name,
                error=str(error),
            )
    return manifest


def _commit_plan(workspace: Workspace, plan: StreamPlan, head: TableHead, prepared: PreparedEpoch) -> CommitPlan:
    """Return what to commit: rows as they are, or in the place of those with their key."""
    manifest, outcome = prepared.manifest, prepared.outcome
    commit_plan = CommitPlan(outcome.files, outcome.flow, outcome.quarantined, manifest.quarantine_mode)
    if plan.emits == "append" and merge_of(plan.definition) is None:
        return commit_plan
    version = None if manifest.mode == "overwrite" else workspace.table(plan.name).version(head.number)
    if plan.emits == "append":
        return plan_commit(workspace, StagedRows(plan.definition, outcome, manifest.run_id, version))
    if version is None or not outcome.files:
        return commit_plan
    table, key = workspace.table(plan.name), plan.definition.key
    limits = budget_here(workspace.settings.memory_bytes).whole()
    merge = MergeSpec(table, key, None, manifest.run_id, outcome.files, outcome.schema, version, limits)
    files = tuple(DataFile(merge.uri(file), file.rows, file.size_bytes) for file in outcome.files)
    merged = replace_keys(merge, Scan(outcome.schema.select(key), files), key)
    return replace(commit_plan, files=merged.files, removed=merged.removed)
