"""Runs several streams in one process, each in its own thread, until they are stopped or have caught up.

If a stream fails, the others continue unless `fail_fast` is set: unrelated streams are not affected, and a stream that
reads the table of the failed one finds no new versions. The error is raised when all streams have ended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from pipeline.core.errors import ModelError, RequestError
from pipeline.core.logs import fields
from pipeline.governance import Leases
from pipeline.project.workspace import Workspace
from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime.driver import StreamDriver, StreamJobContext, StreamJobOptions
from pipeline.streaming.runtime.lease_manager import LeaseManager
from pipeline.streaming.runtime.metrics import TROUBLED, RunStatus, StreamStatus
from pipeline.streaming.runtime.options import StreamOptions
from pipeline.streaming.runtime.sink_worker import SinkWorker, sinks_of
from pipeline.streaming.runtime.status import lease_facts
from pipeline.streaming.runtime.steps import CommitStep
from pipeline.streaming.runtime.stream import Stream

__all__ = ["StreamJob", "StreamJobOptions", "catch_up"]


class StreamJob:
    """A job that runs streams of a project."""

    def __init__(
        self,
        workspace: Workspace,
        options: StreamJobOptions,
        *,
        on_step: Callable[[str, CommitStep], None] = lambda _, __: None,
        on_restart: Callable[[str, str], None] = lambda _, __: None,
    ) -> None:
        """Find the streams; raise `RequestError` if there are none that can start.

        `on_step` is called at each step of a commit and `on_restart` at each restart, both with the name of the stream.
        """
        self.workspace = workspace
        self.options = options
        self._planner = Planner(workspace)
        self.left_out: Mapping[str, str]
        """Tables that read a stream but are not streamed by this job, with the reason."""
        names, self.left_out = (options.names, {}) if options.names else _startable(self._planner)
        if not names:
            left_out = {**self._planner.untimed, **self.left_out}
            reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
            is_waiting = self.left_out.keys() > self._planner.left_out.keys()
            raise RequestError(
                "no table of this project can be streamed" if reasons else "this project has no streams",
                got=reasons or None,
                do=None if is_waiting else "set event_time= of a source and read it in a table; see docs/streams.md",
            )
        ordered = [n for n in workspace.project.graph.names if n in names]
        self.names = (*ordered, *(n for n in names if n not in ordered))
        for name in self.names:
            workspace.stored(name)
        if options.restore is not None and len(self.names) != 1:
            raise RequestError(
                "a savepoint belongs to one stream", do="name the stream: headwater stream NAME --restore …"
            )
        self.streams: dict[str, Stream] = {}
        self.statuses: dict[str, StreamStatus] = {name: StreamStatus(name) for name in self.names}
        self.errors: dict[str, BaseException] = {}
        self.trouble = ""
        """The error of the last request to the catalog, if it failed."""
        self._on_step = on_step
        self._on_restart = on_restart
        self._stop = threading.Event()
        self._ended: set[str] = set()
        self.sinks: dict[str, SinkWorker] = {}
        """The sinks of these streams, by name; set when the job runs."""

    @property
    def is_ready(self) -> bool:
        """Whether every stream runs or has ended without failure, and none waits for an unavailable system."""
        return all(f.status not in {RunStatus.STARTING, *TROUBLED} for f in self.statuses.values())

    def stop(self) -> None:
        """Let every stream commit its pending rows and end."""
        self._stop.set()

    def run(self, watch: Callable[[StreamJob], None] = lambda _: None, every_s: float = 0.25) -> None:
        """Run until all streams have ended. `watch` is called periodically from this thread.

        Raises `ConflictError` immediately if another live process runs one of them. The first error of a stream is
        raised when all have ended. Commits are kept.
        """
        leases = LeaseManager(Leases(self.workspace.catalog), self._lease_facts)
        try:
            for name in self.names:
                leases.take(name, take_over=self.options.take_over)
            self._run(leases, watch, every_s)
        finally:
            leases.close()
        for error in self.errors.values():
            raise error

    def _run(self, leases: LeaseManager, watch: Callable[[StreamJob], None], every_s: float) -> None:
        context = StreamJobContext(
            planner=self._planner,
            options=self.options,
            names=self.names,
            leases=leases,
            on_step=self._on_commit_step,
            on_restart=self._on_restart,
            stop=self._stop,
            ended=self._ended,
            streams=self.streams,
            statuses=self.statuses,
        )
        threads = [
            threading.Thread(target=self._run_stream, args=(name, context), name=f"headwater-{name}")
            for name in self.names
        ]
        self.sinks = {
            sink.name: SinkWorker(
                self.workspace, sink, partial(leases.require, sink.table), self._on_restart, self.options.restart_policy
            )
            for sink in sinks_of(self.workspace, self.names)
        }
        for worker in self.sinks.values():
            worker.start()
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                self.trouble = leases.trouble
                watch(self)
                threads[0].join(every_s)
                time.sleep(0 if threads[0].is_alive() else every_s)
        except BaseException:
            self.stop()
            raise
        finally:
            for thread in threads:
                thread.join()
        watch(self)

    def _end_sinks(self, table: str) -> None:
        """Deliver the last commit of a table to its sinks and end them."""
        for name, worker in self.sinks.items():
            if worker.status.table == table:
                worker.end()
                if worker.error is not None:
                    self.errors[name] = worker.error

    def _on_commit_step(self, name: str, step: CommitStep) -> None:
        self._on_step(name, step)
        if step == CommitStep.COMMITTED:
            for worker in self.sinks.values():
                if worker.status.table == name:
                    worker.wake()

    def _run_stream(self, name: str, context: StreamJobContext) -> None:
        try:
            with fields(stream=name):
                StreamDriver(name, context).run()
        except Exception as error:  # noqa: BLE001 - raised by `run`, in its thread
            self.errors[name] = error
            if self.options.fail_fast:
                self.stop()
        finally:
            self._ended.add(name)
            self._end_sinks(name)
            context.leases.release(name)

    def _lease_facts(self, name: str) -> Mapping[str, Any]:
        sinks = {n: asdict(s.status) for n, s in self.sinks.items() if s.status.table == name}
        return {**lease_facts(self.statuses[name]), **({"sinks": sinks} if sinks else {})}


def _startable(planner: Planner) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Return the streams that can start; and the other tables that read a stream, with the reason.

    A table whose statement cannot be streamed is computed in batch. Without a champion of the model that it uses, a stream,
    or one that reads its table, cannot start yet; what such streams use is loaded here.
    """
    names, waiting = [], {}
    for name in planner.workspace.table_names:
        try:
            if planner.is_streamed(name):
                planner.plan(name).load()
                names.append(name)
        except ModelError as error:
            waiting[name] = str(error)
    return tuple(names), {**planner.left_out, **waiting}


def catch_up(workspace: Workspace, names: Sequence[str] = (), stream_options: StreamOptions | None = None) -> StreamJob:
    """Run streams until they have caught up with their logs, and return the job."""
    running = StreamJob(
        workspace,
        StreamJobOptions(tuple(names), until_caught_up=True, stream_options=stream_options or StreamOptions()),
    )
    running.run()
    return running
