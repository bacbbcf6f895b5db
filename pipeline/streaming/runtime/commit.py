"""Commits epochs to the table of a stream, one commit each, and runs post-commit."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from pipeline.batch.work import Outcome
from pipeline.commit.commit_plan import CommitPlan, StagedRows, plan_commit
from pipeline.commit.post_commit import update_quarantine, update_warehouse_and_catalog
from pipeline.core.epochs import Epoch
from pipeline.core.errors import StorageError
from pipeline.core.logs import logger
from pipeline.core.staging import Manifest, Mode
from pipeline.kernel.budget import budget_here
from pipeline.kernel.scan import DataFile, Scan
from pipeline.lake import CompactionOptions, MergeSpec, TableHead, compact, replace_keys
from pipeline.project.workspace import Workspace
from pipeline.streaming.planning.plan import StreamPlan
from pipeline.streaming.runtime.leftovers import Leftovers, find_leftovers
from pipeline.streaming.runtime.steps import CommitStep, OnStep

log = logger(__name__)
MAINTENANCE_EVERY = 100
"""The number of versions after which small files are compacted and the table's log is shortened."""
COMPACT_BYTES = 32 << 20
"""The size up to which files are compacted while the stream runs. Compacting larger files would delay an epoch, and so would
writing files again that are divided or ordered otherwise: `headwater lake maintain` does that."""


@dataclass(frozen=True)
class PreparedEpoch:
    """An epoch that is ready to commit: its manifest and its staged files."""

    manifest: Manifest
    outcome: Outcome


class EpochCommitter:
    """Commits the epochs of a stream in order, in a separate thread.

    A commit uses the head of the table that was opened at the start. If another process has committed in between, it
    raises `ConflictError`, and nothing of the epoch is visible.
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
        self._leftovers: Future[Leftovers] | None = self._tidying.submit(
            find_leftovers,
            self._table.storage,
            workspace.lake.quarantine(plan.name).storage,
            self.head.epoch or 0,
        )
        self._committing: Future[Manifest] | None = None
        self._recordings = ThreadPoolExecutor(1, thread_name_prefix="headwater-load")
        self._recording: Future[None] | None = None
        self._recorded_at = time.monotonic()

    def close(self) -> None:
        """Wait for running commits, loads and maintenance, ignoring their outcome."""
        self._commits.shutdown()
        self._recordings.shutdown()
        self._tidying.shutdown()

    def begin(self, epoch: PreparedEpoch) -> None:
        """Start a commit after the previous one has ended; raise the error of the previous one."""
        self.wait()
        self._committing = self._commits.submit(self._commit, epoch)

    def _commit(self, epoch: PreparedEpoch) -> Manifest:
        """Commit an epoch; after the first one, remove the files of earlier processes that were listed before it."""
        leftovers = None if self._leftovers is None else self._leftovers.result()
        manifest = commit_epoch(self._workspace, self._plan, self.head, epoch, self._on_step)
        if leftovers is not None:
            self._leftovers = None
            self._tidying.submit(leftovers.remove, manifest.run_id.rpartition("-")[0])
        return manifest

    def wait(self) -> None:
        """Wait for the running commit; raise its error."""
        if self._committing is None:
            return
        self.committed = self._committing.result().epoch
        self._committing = None
        if self.head.number and self.head.number % MAINTENANCE_EVERY == 0:
            self._tidying.submit(self._tidy)
        is_recording = self._recording is not None and not self._recording.done()
        if not is_recording and time.monotonic() - self._recorded_at >= self._workspace.settings.warehouse_seconds:
            self._recorded_at = time.monotonic()
            self._recording = self._recordings.submit(self._record_later)

    def record(self) -> None:
        """Update the catalog and the warehouse to the last commit. This also happens periodically, in the background."""
        if self._recording is not None:
            self._recording.result()
        self._record()

    def _record(self) -> None:
        version = self._workspace.table(self._plan.name).version()
        if version is not None:
            update_warehouse_and_catalog(self._workspace, self._plan.definition, version)

    def _record_later(self) -> None:
        """Update them while the stream goes on. A load that takes longer than epochs is followed by one of the newest version."""
        try:
            self._record()
        except Exception as error:  # noqa: BLE001 - whatever it is, the epochs are committed, and nothing else reports it
            log.warning("catalog or warehouse was not updated: it is updated later", **self._where(error))

    def _tidy(self) -> None:
        """Shorten the logs of the table and its quarantine. Errors are logged; the stream itself reports store failures."""
        try:
            self._table.tidy()
            self._workspace.lake.quarantine(self._plan.name, self._table.policy).tidy()
        except Exception as error:  # noqa: BLE001 - likewise
            log.warning("table log was not shortened: it is retried later", **self._where(error))

    def _where(self, error: Exception) -> dict[str, str]:
        return {"table": self._plan.name, "error": str(error)}


def commit_epoch(
    workspace: Workspace, plan: StreamPlan, head: TableHead, prepared: PreparedEpoch, on_step: OnStep
) -> Manifest:
    """Commit an epoch on top of the version at the head, and update the quarantine.

    Raises `ConflictError` if another process committed the table in between; then nothing of the epoch is visible.
    """
    commit_plan = _commit_plan(workspace, plan, head, prepared)
    manifest = prepared.manifest
    mode: Mode = "merge" if commit_plan.removed or commit_plan.tombstones else manifest.mode
    conflicts = [file for file in commit_plan.quarantined if file not in prepared.outcome.quarantined]
    manifest = replace(
        manifest,
        flow=commit_plan.flow,
        mode=mode,
        tombstones=commit_plan.tombstones,
        quarantined=(*manifest.quarantined, *conflicts),
    )
    epoch = None if manifest.epoch is None else manifest.epoch.number
    number = head.commit(
        manifest, commit_plan.files, commit_plan.schema or plan.schema, removed=commit_plan.removed, epoch=epoch
    )
    on_step(CommitStep.COMMITTED)
    if manifest.quarantined or manifest.quarantine_mode == "overwrite":
        update_quarantine(workspace, plan.definition, manifest)
    on_step(CommitStep.SETTLED)
    policy = workspace.table(plan.name).policy
    if number and number % MAINTENANCE_EVERY == 0 and policy.maintenance == "auto":
        how = CompactionOptions.of(policy)
        how = replace(how, target_bytes=min(how.target_bytes, COMPACT_BYTES), rewrite_bytes=0)
        try:
            compact(workspace.table(plan.name), head, how)
        except StorageError as error:
            log.warning(
                "small files were not compacted: it is retried later",
                table=plan.name,
                error=str(error),
            )
    return manifest


def _commit_plan(workspace: Workspace, plan: StreamPlan, head: TableHead, prepared: PreparedEpoch) -> CommitPlan:
    """Return what to commit: rows to append, or rows that replace those with the same key."""
    manifest, outcome = prepared.manifest, prepared.outcome
    commit_plan = CommitPlan(outcome.files, outcome.flow, outcome.quarantined, manifest.quarantine_mode)
    if plan.emits == "append" and plan.definition.merge is None:
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
