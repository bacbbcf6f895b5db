"""Runs one stream from start to end: micro-batches, pauses, requests, recoveries, and restarts after transient errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from pipeline.core.clock import now
from pipeline.core.errors import (
    ConflictError,
    HeadwaterError,
    NewColumnsError,
    UnavailableError,
    WiderTypesError,
    quantity,
)
from pipeline.core.logs import logger
from pipeline.core.schema import Schema
from pipeline.core.sources import Extent
from pipeline.governance import DesiredState
from pipeline.kernel.engine import first_line, is_file_error
from pipeline.streaming.planning.plan import Planner, StreamPlan
from pipeline.streaming.runtime.lease_manager import LeaseManager
from pipeline.streaming.runtime.metrics import RunStatus, StreamMetrics, StreamStatus
from pipeline.streaming.runtime.options import StreamOptions
from pipeline.streaming.runtime.rescaler import Rescaler
from pipeline.streaming.runtime.restart_policy import RestartPolicy, may_pass, may_recover
from pipeline.streaming.runtime.savepoints import restore
from pipeline.streaming.runtime.start import StartPosition
from pipeline.streaming.runtime.start_position import RequestedStart, resolved
from pipeline.streaming.runtime.status import status_of
from pipeline.streaming.runtime.steps import CommitStep
from pipeline.streaming.runtime.stream import Stream
from pipeline.streaming.runtime.wider_types import changes_of

log = logger(__name__)
REPORT_EVERY_S = 0.2
_PAUSED_S = 0.1


@dataclass(frozen=True)
class StreamJobOptions:
    """Which streams to run, and when they end."""

    names: tuple[str, ...] = ()
    """Empty means all streams of the project."""
    until_caught_up: bool = False
    """Whether a stream ends when it has read what its logs contained at its start. It always ends with its log."""
    drain: bool = False
    """Whether all windows are closed at the end."""
    stream_options: StreamOptions = field(default_factory=StreamOptions)
    begin: RequestedStart | None = None
    """Where to begin, instead of `stream_options.begin`. It may also be a time."""
    restore: str | None = None
    """The label of a savepoint to restore first."""
    take_over: bool = False
    """Whether to take over the streams from another process that runs them."""
    fail_fast: bool = False
    """Whether the first stream that fails stops the others."""
    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)


@dataclass
class StreamJobContext:
    """The shared context of the streams of a process."""

    planner: Planner
    options: StreamJobOptions
    names: tuple[str, ...]
    leases: LeaseManager
    on_step: Callable[[str, CommitStep], None] = lambda _, __: None
    on_restart: Callable[[str, str], None] = lambda _, __: None
    """Called at each restart, recovery and change of shards with the name of the stream and a message."""
    stop: threading.Event = field(default_factory=threading.Event)
    ended: set[str] = field(default_factory=set)
    streams: dict[str, Stream] = field(default_factory=dict)
    statuses: dict[str, StreamStatus] = field(default_factory=dict)


class StreamDriver:
    """Runs one stream in the thread that calls `run`."""

    def __init__(self, name: str, context: StreamJobContext) -> None:
        """Create the driver; nothing is opened yet."""
        self.name = name
        self.metrics = StreamMetrics()
        self._context = context
        self._restarts: list[float] = []
        self._stream_options = context.options.stream_options
        self._was_opened = False
        self._reported_at = 0.0
        self._rescaler = Rescaler(self._stream_options.shards, self.metrics, self._say)
        self._recoveries = 0
        """Recoveries since the last commit."""
        self._commits_at_recovery = 0
        self._waits_since = now()

    def run(self) -> None:
        """Run the stream to its end; raise the error that ended it."""
        context = self._context
        try:
            self._wait_for_inputs()
            while not context.stop.is_set():
                try:
                    self._run_once()
                    break
                except Exception as error:
                    if not self._wait_for_restart(error):
                        raise
        except Exception as error:
            self._set_status(RunStatus.FAILED, str(error))
            raise
        if context.statuses[self.name].status not in {RunStatus.ENDED, RunStatus.STOPPED}:
            self._set_status(RunStatus.STOPPED)

    def _run_once(self) -> None:
        plan = self._context.planner.plan(self.name)
        with closing(self._opened(plan)) as stream:
            stream.metrics = self.metrics
            self._context.streams[self.name] = stream
            self._was_opened = True
            try:
                self._drive(stream)
            except Exception:
                self._prepare_restart(stream)
                raise

    def _opened(self, plan: StreamPlan) -> Stream:
        context, options = self._context, self._context.options
        if not self._was_opened:
            if options.restore is not None:
                restore(context.planner.workspace, plan, options.restore)
            if options.begin is not None:
                self._stream_options = replace(self._stream_options, begin=resolved(plan, options.begin))
        return Stream(context.planner.workspace, plan, self._stream_options, on_step=self._on_commit_step)

    def _prepare_restart(self, stream: Stream) -> None:
        """Let the next start resume from the last commit or, if there is none, from the same offsets as this one."""
        if self.metrics.commits:
            self._stream_options = replace(self._stream_options, begin="committed", anew=False, state="restore")
        elif self._stream_options.begin != "committed":
            began: StartPosition = {
                uri: o for known in stream.progress.inputs.values() for uri, o in known.began.items()
            }
            self._stream_options = replace(self._stream_options, begin=began, anew=True)

    def _wait_for_restart(self, error: Exception) -> bool:
        """Wait until the stream may restart; return false if the error ends it."""
        context = self._context
        lake = context.planner.workspace.lake.storage
        if is_file_error(error) and not lake.is_local:
            error = lake.failed("the lake does not answer a query", error)
        is_away, has_grown = isinstance(error, UnavailableError), isinstance(error, NewColumnsError | WiderTypesError)
        new_columns = self._replanned(error) if has_grown else None
        if new_columns is not None:
            context.on_restart(self.name, f"{error}; resumes from the last commit with {new_columns}")
            return not context.stop.is_set()
        # while this process holds the lease, the other writer is a previous owner that is about to end
        is_taken_over = isinstance(error, ConflictError) and context.leases.holds(self.name)
        may_restart = may_pass(error) or has_grown or is_taken_over
        if context.stop.is_set() or not may_restart or not (self._was_opened or is_away):
            return False
        wait_s = context.options.restart_policy.wait_s(self._restarts, time.monotonic(), error)
        if wait_s is None:
            return False
        self._restarts.append(time.monotonic())
        self.metrics.restarted()
        if is_away and context.statuses[self.name].status != RunStatus.WAITING:
            self._waits_since = now()
        since = f"since {self._waits_since:%H:%M:%S} UTC: " if is_away else ""
        self._set_status(RunStatus.WAITING if is_away else RunStatus.RESTARTING, f"{since}{error}")
        log.info("stream restarts", wait_s=wait_s, error=str(error))
        lately = f"restart {len(self._restarts)} in {wait_s:g} s"
        reason = f"another process has committed to {self.name!r}" if is_taken_over else str(error)
        context.on_restart(self.name, f"{reason}; resumes from the last commit: {lately}")
        context.stop.wait(wait_s)
        return True

    def _replanned(self, error: Exception) -> str | None:
        """Plan the stream again because of new columns or wider types; return how they changed, `None` if they did not."""
        planner = self._context.planner
        before = planner.plan(self.name)
        if isinstance(error, WiderTypesError):
            planner.widen(self.name, error.columns)
        planner.forget(self.name)
        try:
            plan = planner.plan(self.name)
            if (plan.schema, _contracts(plan)) == (before.schema, _contracts(before)):
                return None
        except HeadwaterError:
            return None  # the next start reports the error
        return "; ".join(map(str, changes_of(planner.workspace, plan, before.schema))) or "these columns"

    def _on_commit_step(self, step: CommitStep) -> None:
        if step in {CommitStep.STAGED, CommitStep.SAVED}:
            self._context.leases.require(self.name)
        self.metrics.reached(step)
        self._context.on_step(self.name, step)

    # -- driving

    def _drive(self, stream: Stream) -> None:
        context, options = self._context, self._context.options
        target = _target(stream)
        desired = DesiredState.RUN
        while not context.stop.is_set():
            desired = context.leases.desired_state(self.name)
            context.leases.require(self.name)
            if desired == DesiredState.PAUSE:
                self._pause(stream)
                continue
            if desired in {DesiredState.DRAIN, DesiredState.STOP}:
                break
            self._advance(stream)
            self._report_status(stream, RunStatus.WAITING if stream.last.unanswered else RunStatus.RUNNING)
            if stream.last.has_ended or (options.until_caught_up and self._has_caught_up(stream, target)):
                break
        is_over = stream.last.has_ended or options.drain or desired == DesiredState.DRAIN
        if is_over:
            self._report_status(stream, RunStatus.DRAINING, at_once=True)
            stream.drain()
        else:
            stream.save()
        has_ended = is_over or (desired != DesiredState.STOP and not context.stop.is_set())
        self._report_status(stream, RunStatus.ENDED if has_ended else RunStatus.STOPPED, at_once=True)

    def _advance(self, stream: Stream) -> None:
        """Rescale if wanted, and run a micro-batch; after the loss of workers, return to the last commit."""
        if self.metrics.commits > self._commits_at_recovery:
            self._recoveries = 0
        try:
            self._rescaler.rescale(stream, self._context.leases.desired_shards(self.name))
            stream.run_micro_batch()
        except Exception as error:
            if not may_recover(error, self._recoveries) or not stream.can_recover:
                raise
            self._recover(stream, error)

    def _recover(self, stream: Stream, loss: Exception) -> None:
        began, error = time.monotonic(), loss
        self._set_status(RunStatus.RECOVERING, first_line(loss))
        while may_recover(error, self._recoveries):
            self._recoveries += 1
            self._commits_at_recovery = self.metrics.commits
            log.info("workers are lost: stream recovers", error=first_line(error))
            try:
                lost = stream.recover()
            except Exception as again:  # noqa: BLE001 - the restart meets it again, unless it was passing
                error = again
                continue
            seconds = time.monotonic() - began
            self.metrics.recovered(seconds)
            workers = quantity(lost, "worker")
            self._say(f"{workers} lost and replaced in {seconds:.1f} s, from the last commit")
            return
        raise loss

    def _say(self, message: str) -> None:
        self._context.on_restart(self.name, message)

    def _pause(self, stream: Stream) -> None:
        stream.save()
        leases, stop = self._context.leases, self._context.stop
        while leases.desired_state(self.name) == DesiredState.PAUSE and not stop.wait(_PAUSED_S):
            leases.require(self.name)
            self._report_status(stream, RunStatus.PAUSED)

    def _report_status(self, stream: Stream, status: RunStatus, *, at_once: bool = False) -> None:
        instant = time.monotonic()
        if (
            at_once
            or instant - self._reported_at >= REPORT_EVERY_S
            or self._context.statuses[self.name].status != status
        ):
            self._reported_at = instant
            known = self._context.statuses[self.name]
            if status == RunStatus.WAITING and known.status != RunStatus.WAITING:
                self._waits_since = now()
            error = f"{_named(stream.last.unanswered)} has not answered since {self._waits_since:%H:%M:%S} UTC"
            statuses = status_of(stream, self.metrics, status, now())
            self._context.statuses[self.name] = (
                replace(statuses, error=error) if status == RunStatus.WAITING else statuses
            )

    def _set_status(self, status: RunStatus, error: str = "") -> None:
        known = self._context.statuses[self.name]
        self._context.statuses[self.name] = replace(
            known,
            status=status,
            error=error or known.error,
            restarts=self.metrics.restarts,
            recoveries=self.metrics.recoveries,
            recovery_s=self.metrics.recovery_s,
            rows_per_s=0,
            bytes_per_s=0,
        )

    def _wait_for_inputs(self) -> None:
        """Wait until the upstream streams have written their tables; in a rebuild, until they have rebuilt them."""
        context = self._context
        workspace = context.planner.workspace
        above = set(workspace.project.graph.upstream(self.name)) & set(context.names)
        while not context.stop.is_set():
            if all(other in context.ended or self._has_begun(other) for other in above):
                return
            context.stop.wait(0.02)

    def _has_begun(self, other: str) -> bool:
        context = self._context
        if context.options.begin in {"earliest", "latest"} and other in context.names:
            stream = context.streams.get(other)  # an existing table is about to be replaced
            return stream is not None and stream.metrics.commits > 0
        return context.planner.workspace.table(other).number() is not None

    def _has_caught_up(self, stream: Stream, target: Mapping[str, int]) -> bool:
        offsets = {uri: o for known in stream.progress.inputs.values() for uri, o in known.offsets.items()}
        if any(offsets.get(uri, 0) < end for uri, end in target.items()):
            return False
        context = self._context
        for stream_input in stream.plan.inputs:
            if stream_input.is_of_lake:
                has_ended = stream_input.name in context.ended or stream_input.name not in context.names
                if not has_ended or any(offsets.get(uri, 0) < e.end for uri, e in stream_input.log.extents().items()):
                    return False
        return True


def _contracts(plan: StreamPlan) -> dict[str, Schema]:
    return {stream_input.name: stream_input.schema for stream_input in plan.inputs}


def _named(inputs: Sequence[str]) -> str:
    return "the source of " + ", ".join(map(repr, inputs))


def _target(stream: Stream) -> dict[str, int]:
    extents: dict[str, Extent] = {}
    for stream_input in stream.plan.inputs:
        if not stream_input.is_of_lake:
            extents |= stream_input.log.extents()
    return {uri: extent.end for uri, extent in extents.items()}
