"""One stream: micro-batches that read and process rows, and epochs that commit them exactly once.

    micro-batch   ready ─▶ source tasks read splits ─▶ watermark ─▶ shards process ─▶ rows, and rows for the quarantine
    epoch         rows validated and staged, state written ─▶ one commit of the table ─▶ post-commit

Before its commit, nothing of an epoch is durable except files that nothing refers to. A killed stream resumes from its
last commit, with the offsets and the state that the commit names. If two processes run the same stream, one of them
commits first; the other one detects the foreign commit and ends.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import duckdb
import pyarrow as pa

from pipeline.core.clock import Clock, now
from pipeline.core.epochs import Epoch
from pipeline.core.sources import ReadyOffsets
from pipeline.core.staging import Manifest, Mode
from pipeline.project.workspace import Workspace
from pipeline.streaming.operators.operator import WatermarkAdvance
from pipeline.streaming.planning.plan import StreamPlan
from pipeline.streaming.runtime.commit import EpochCommitter, PreparedEpoch
from pipeline.streaming.runtime.log_watcher import LogWatcher
from pipeline.streaming.runtime.metrics import StreamMetrics
from pipeline.streaming.runtime.opening import open_at
from pipeline.streaming.runtime.options import StreamOptions
from pipeline.streaming.runtime.progress import (
    Arrivals,
    Splits,
    StreamProgress,
    advance,
    lag,
    offsets_after,
    splits_to_take,
    waits_for,
)
from pipeline.streaming.runtime.source_task import SourceRequest
from pipeline.streaming.runtime.start import stamps_of
from pipeline.streaming.runtime.steps import CommitStep, OnStep
from pipeline.streaming.runtime.stream_workers import start_workers
from pipeline.streaming.runtime.validate_and_stage import EpochStager, PendingRows, StagedEpoch, remove_staged
from pipeline.streaming.runtime.wider_types import apply_column_changes


@dataclass(frozen=True)
class MicroBatchResult:
    """The outcome of the last micro-batch."""

    has_ended: bool = False
    """Whether all inputs have ended."""
    unanswered: tuple[str, ...] = ()
    """The inputs whose system did not answer."""


class Stream:
    """An open stream. Its methods must be called by one thread.

    They raise the errors of its source, its definition and the lake. Errors do not affect committed data. After an
    error, the stream can only be closed; a new one resumes from the last commit.
    """

    def __init__(
        self,
        workspace: Workspace,
        plan: StreamPlan,
        options: StreamOptions | None = None,
        *,
        clock: Clock = now,
        on_step: OnStep = lambda _: None,
    ) -> None:
        """Open a stream at its last commit or as its options require. `on_step` is called at each step of a commit."""
        self.plan = plan
        self.options = StreamOptions() if options is None else options
        self.session = _new_session()
        self.last = MicroBatchResult()
        self.metrics = StreamMetrics()
        """Counts micro-batches. The caller's `on_step` must record the commit steps. It may be replaced."""
        self._workspace = workspace
        self._clock = clock
        self._on_step = on_step
        self._stack = ExitStack()
        with ExitStack() as opening:
            self._open(opening)
            if self._pending.has_progress and self.options.begin != "earliest":
                self.save()  # the start offsets could not be determined again
            self._stack = opening.pop_all()

    def close(self) -> None:
        """Stop the workers. The next stream reads uncommitted rows again."""
        self._stack.close()

    # -- opening

    def _open(self, stack: ExitStack) -> None:
        at = self._clock().isoformat()
        self.options = apply_column_changes(self._workspace, self.plan, self.options, self.session, at)
        self._committer = EpochCommitter(self._workspace, self.plan, self._on_step)
        stack.callback(self._committer.close)
        opened = open_at(self._workspace, self.plan, self.options, self._committer.head)
        self._committer.committed = opened.epoch
        self.progress: StreamProgress = opened.progress
        """Its progress, including rows that are read but not committed yet."""
        self._logs = LogWatcher(self.plan.inputs, opened.extents)
        stack.callback(self._logs.close)
        self._lookups = {name: self._workspace.require(name) for name in self.plan.lookups}
        self._staged: StagedEpoch | None = None
        """An epoch that is staged, but whose commit has not started."""
        stack.callback(self._remove_staged)
        self._workers = start_workers(self._workspace, self.plan, self.options, opened, self._lookups)
        stack.callback(self._workers.close)
        self._sources, self._shards = self._workers.sources, self._workers.shards
        self._opened = opened
        self._committed_progress = opened.progress
        """Its progress at the last commit that has started."""
        self._replaces_table = opened.replaces_table
        self._stager = EpochStager(self._workspace, self.plan, anew=opened.replaces_table)
        stack.callback(self._stager.close)
        self._pending = PendingRows(time.monotonic(), has_progress=opened.has_progress)

    # -- micro-batches

    def run_micro_batch(self) -> int:
        """Read and process ready rows, waiting up to `batch_s` for some; commit if due. Return the number of rows."""
        self.metrics.begin()
        ready = self._sources.ready(self.options.intervals.batch_s)
        unanswered = tuple(n for n in self.progress.inputs if any(g[n].is_unanswered for g in ready if n in g))
        if not unanswered:  # do not send more requests to a system that does not answer
            self._refresh_inputs()
        self.metrics.end_phase("wait")
        arrivals = self._read(ready)
        self.metrics.end_phase("read")
        for batch in arrivals.batches:
            self._pending.note(batch)
            self.metrics.count_rows(batch.rows_in, batch.bytes_in)
        self._process(arrivals)
        self.metrics.end_phase("advance")
        self._pending.has_progress |= any(any(splits.values()) for splits in arrivals.splits)
        self.last = MicroBatchResult(bool(arrivals.ended) and all(arrivals.ended.values()), unanswered)
        self._commit_if_due()
        return sum(batch.rows_in for batch in arrivals.batches)

    def _refresh_inputs(self) -> None:
        """Add new partitions, and use newer versions of the looked-up tables."""
        if not self._logs.refresh():
            return
        for name, log_extents in self._logs.extents.items():
            new = {uri: extent.begin for uri, extent in log_extents.items() if not self._sources.has(name, uri)}
            self._sources.add(name, new)
            self.progress = self.progress.reading(name, new, stamps_of(log_extents))
        versions = {name: self._workspace.require(name) for name in self._lookups}
        changed = {name: v.scan() for name, v in versions.items() if v.manifest_id != self._lookups[name].manifest_id}
        if changed:
            self._sources.update_lookups(changed)
            self._lookups = versions

    def _read(self, ready: Sequence[Mapping[str, ReadyOffsets]]) -> Arrivals:
        """Let the source tasks read their ready records, up to the limit of a micro-batch."""
        most, inputs = self.options.intervals.batch_offsets, self.plan.inputs
        chosen = [splits_to_take(self.progress, inputs, task_ready, most) for task_ready in ready]
        splits, is_cut = [taken for taken, _ in chosen], any(cut for _, cut in chosen)
        now_us = int(self._clock().timestamp() * 1e6)
        prepared, shards = self.plan.prepared(self.progress.watermark), self.shards
        batches = self._sources.take([SourceRequest(each, prepared, shards, now_us) for each in splits])
        task_ready = {name: [each[name] for each in ready if name in each] for name in self.progress.inputs}
        ended = {name: not is_cut and bool(g) and all(each.has_ended for each in g) for name, g in task_ready.items()}
        return Arrivals(splits, batches, ended, self._logs.extents, self._upstream(splits), now_us)

    def _upstream(self, splits: Sequence[Splits]) -> dict[str, Epoch]:
        """Return, for inputs that are tables of the lake, the epoch of the last version that was read."""
        epochs = {
            each.name: each.upstream_epoch(
                offsets_after(self.progress, each.name, splits), self.progress.inputs[each.name]
            )
            for each in self.plan.inputs
        }
        return {name: epoch for name, epoch in epochs.items() if epoch is not None}

    def _process(self, arrivals: Arrivals) -> None:
        """Advance the watermark, and let each shard process its rows."""
        before = self.progress.watermark
        self.progress = advance(self.progress, self.plan.inputs, arrivals)
        if self._shards is None:
            for batch in arrivals.batches:
                self._pending.add(batch.ready[0])
        elif arrivals.batches or self.progress.watermark > before:
            # an advanced watermark without rows need not be committed: it would advance again
            for rows in self._shards.advance(arrivals.batches, WatermarkAdvance(before, self.progress.watermark)):
                self._pending.add(rows)

    # -- epochs

    def _commit_if_due(self) -> None:
        intervals, pending = self.options.intervals, self._pending
        due_s = intervals.idle_commit_s if pending.is_empty else intervals.commit_s
        if time.monotonic() - pending.since >= due_s and (pending.has_progress or not pending.is_empty):
            self.commit()

    def commit(self, *, drained: bool = False) -> None:
        """Stage the pending rows, and start their commit when the previous one has ended."""
        number = self.progress.epoch + 1
        run_id = f"{self.session}-{number:09d}"
        at = self._clock().isoformat()
        self.progress = replace(self.progress, epoch=number)
        outcome = self._stager.stage(self._pending, run_id, at)
        self._staged = StagedEpoch(run_id, outcome)
        self._on_step(CommitStep.STAGED)
        state = self.progress.state if self._shards is None else self._shards.snapshot(run_id, self.progress.state)
        self._on_step(CommitStep.SAVED)
        progress = replace(self.progress, state=state, is_drained=drained).counting(outcome.flow)
        mode: Mode = "overwrite" if self._replaces_table else "append"
        manifest = Manifest(
            table=self.plan.name,
            run_id=run_id,
            fingerprint=self.plan.definition.fingerprint,
            mode=mode,
            inputs={**{name: v.number for name, v in self._lookups.items()}, **self._consumed()},
            manifest_ids={name: v.manifest_id for name, v in self._lookups.items()},
            gaps=progress.gaps,
            flow=outcome.flow,
            checks=dict(outcome.checks),
            quarantined=outcome.quarantined,
            quarantine_mode=mode,
            epoch=self._epoch(progress),
            at=at,
        )
        self._committer.begin(PreparedEpoch(manifest, outcome))
        self.progress, self._replaces_table, self._pending = progress, False, PendingRows(time.monotonic())
        self._committed_progress, self._staged = progress, None

    def _consumed(self) -> dict[str, int]:
        """Return the last consumed version of each input that is a table of the lake."""
        return {
            name: version
            for each in self.plan.inputs
            for name, version in each.consumed(self.progress.inputs[each.name].offsets).items()
        }

    def _epoch(self, progress: StreamProgress) -> Epoch:
        return Epoch(
            number=progress.epoch,
            inputs=dict(progress.inputs),
            identity=self.plan.identity,
            watermark=progress.watermark,
            shards=self.shards,
            state=progress.state,
            totals=dict(progress.totals),
            engine=duckdb.__version__,
            drained=progress.is_drained,
        )

    def save(self) -> None:
        """Commit pending rows and progress, and wait for the commit."""
        if self._pending.has_progress or not self._pending.is_empty:
            self.commit()
        self.wait()
        self._committer.record()

    def wait(self) -> None:
        """Wait for the running commit; raise its error."""
        self._committer.wait()

    def drain(self) -> None:
        """Close all open windows and commit the emitted rows.

        The watermark advances only as far as necessary: later rows for the closed windows are late, all others are in
        time.
        """
        before = self.progress.watermark
        horizon = before if self._shards is None else max(before, self._shards.horizon())
        if self._shards is not None and horizon > before:
            self.progress = replace(self.progress, watermark=horizon)
            for rows in self._shards.advance((), WatermarkAdvance(before, horizon)):
                self._pending.add(rows)
            self._pending.has_progress = True
        if self._pending.has_progress or not self._pending.is_empty or not self.progress.is_drained:
            self.commit(drained=True)
        self.wait()
        self._committer.record()

    # -- other workers

    def rescale(self, shards: int) -> bool:
        """Continue with another number of shards; return whether it has them. Call it again if not.

        While additional workers start, the stream goes on. Then it commits, and its shards take over the committed
        state of their keys; source tasks go on as they are. A stream without state has no shards to change.
        """
        if self._shards is None or not self._shards.prepare(shards):
            return self._shards is None
        if shards != self.shards:
            self.commit()
            self.wait()
            self._pending.has_progress = True  # the next commit records the number of shards
            self._shards.rescale(shards, self.committed)
        return True

    @property
    def can_recover(self) -> bool:
        """Whether `recover` is possible: state that was rebuilt from the log must have been committed once."""
        return self.options.state != "rebuild" or self._committed_progress is not self._opened.progress

    def recover(self) -> int:
        """Return to the last commit after workers were lost; return how many were replaced.

        The other workers keep their processes. Rows that were not committed are read again. After an error, also one
        of the running commit, it may be called again or the stream be closed.
        """
        self._committer.wait()
        self.session = _new_session()  # a lost worker whose node is cut off may still write files of the old one
        self.progress = progress = self._committed_progress
        self.last = MicroBatchResult()
        has_committed = progress is not self._opened.progress
        lost = self._workers.return_to(
            {name: known.offsets for name, known in progress.inputs.items()},
            self._committer.committed,
            writes_bases=self._opened.writes_bases and not has_committed,
        )
        if self._staged is not None:
            self._stager.forget(self._staged)
        self._remove_staged()
        self._pending = PendingRows(time.monotonic(), has_progress=self._opened.has_progress and not has_committed)
        return lost

    def _remove_staged(self) -> None:
        """Remove the files of an epoch whose commit has not started, after the calls of its workers have ended."""
        staged, self._staged = self._staged, None
        if staged is not None:
            remove_staged(self._workspace, self.plan.name, staged)

    # -- status

    @property
    def committed(self) -> Epoch | None:
        """The last epoch that is known to be committed."""
        return self._committer.committed

    @property
    def shards(self) -> int:
        """The number of shards; 1 without state."""
        return 1 if self._shards is None else len(self._shards.tasks)

    def lag(self) -> dict[str, int]:
        """Return the number of offsets of each partition that are not read yet."""
        return lag(self.progress, self._logs.extents)

    def waits_for(self) -> tuple[str, ...]:
        """Return the partitions or inputs that hold the watermark back."""
        now_us = int(self._clock().timestamp() * 1e6)
        return waits_for(self.progress, self.plan.inputs, self._logs.extents, now_us)

    def state_tables(self, name: str | None = None) -> dict[str, pa.Table]:
        """Return the current, uncommitted state tables of all shards, or only one of them."""
        return {} if self._shards is None else self._shards.tables(name)


def _new_session() -> str:
    return f"stream-{secrets.token_hex(4)}"


__all__ = ["MicroBatchResult", "Stream"]
