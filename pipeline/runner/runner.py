"""A run: each definition is decided, computed, committed once and recorded, after its inputs.

All decisions of a run are based on facts read from the lake. A run can be killed at any point and repeated: committed
steps are skipped, others are computed again, and an unfinished post-commit is completed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from pipeline.commit.moments import Moment
from pipeline.connectors.guard import guard_here
from pipeline.core.clock import Clock, now
from pipeline.core.definitions import Definition, layer_of
from pipeline.core.errors import HeadwaterError
from pipeline.core.graph import Graph
from pipeline.core.logs import fields, logger
from pipeline.governance import RunRecord, StepRecord, SystemRecord
from pipeline.kernel.syntax.function_calls import read_functions
from pipeline.lake import Version
from pipeline.project.project import Project
from pipeline.project.workspace import Workspace
from pipeline.runner.context import RunContext
from pipeline.runner.decide import DecisionKind, RunOptions
from pipeline.runner.events import Observer, no_observer
from pipeline.runner.handlers import handler_of
from pipeline.runner.maintenance import maintain_written
from pipeline.runner.schedule import BlockedStep, Schedule
from pipeline.runner.shared_reads import SharedReads
from pipeline.streaming.planning.streamed import STREAMED

log = logger(__name__)


class Runner:
    """Runs a project's definitions. One runner is one run."""

    def __init__(
        self,
        project: Project,
        options: RunOptions | None = None,
        *,
        observer: Observer = no_observer,
        clock: Clock = now,
    ) -> None:
        """Create the runner without opening anything."""
        self.workspace = Workspace(project)
        self.options = RunOptions() if options is None else options
        self.errors: dict[str, Exception] = {}
        """The errors of failed steps, by definition name."""
        self._context = RunContext(self.workspace, self.options, observer, clock)

    @property
    def run_id(self) -> str:
        """The name of the run."""
        return self._context.run_id

    def run(self) -> RunRecord:
        """Run all selected definitions and return the run's record.

        Raises the first error, in the order of the definitions, once all other steps are completed and recorded.
        """
        run = self.attempt()
        for error in self.errors.values():
            raise error
        return run

    def attempt(self) -> RunRecord:
        """Run all selected definitions and return the run's record, which includes failures; see also `errors`.

        Independent definitions run concurrently. Definitions downstream of a failed one are skipped.
        """
        graph, settings, catalog = self.workspace.project.graph, self.workspace.settings, self.workspace.catalog
        context = self._context
        chosen = graph.select(self.options.select)
        definitions = {d.name: d for d in graph.definitions if is_chosen(d, chosen)}
        run = RunRecord(context.run_id, settings.name, settings.env, context.at(), None, "running", None)
        threading.Thread(target=read_functions, name="headwater-functions", daemon=True).start()
        with ThreadPoolExecutor(1) as pool:
            reclaiming = pool.submit(self.workspace.lake.reclaim)
            self.workspace.lake.begin_run(context.run_id)
        catalog.begin(run)
        context.notify(Moment.BEGUN)
        context.start_deadlines(definitions)
        context.shared_reads = SharedReads.among(self.workspace, tuple(definitions.values()))
        catalog.end_killed(reclaiming.result(), context.at())
        steps: dict[str, StepRecord] = {}
        numbers = {name: number for number, name in enumerate(definitions)}

        def ended(name: str, outcome: StepRecord | Exception | BlockedStep) -> None:
            step = _step(definitions[name], outcome)
            steps[name] = step = replace(step, number=numbers[name])
            if isinstance(outcome, Exception):
                self.errors[name] = outcome
            catalog.record(context.run_id, step)
            context.deadlines.ended(name)
            context.notify(Moment.RECORDED, name, step=step)

        reads = {name: _steps_read(graph, definition, definitions) for name, definition in definitions.items()}
        try:
            Schedule(reads, lambda name: self._timed(definitions[name]), ended).run(context.threads)
        except BaseException as raised:
            status = "failed" if isinstance(raised, Exception) else "stopped"
            catalog.end(context.run_id, context.at(), status, str(raised) or type(raised).__name__)
            raise
        in_order = [steps[name] for name in definitions]
        self.errors = {step.name: self.errors[step.name] for step in in_order if step.name in self.errors}
        status, error = _ending(in_order)
        run = replace(run, ended_at=context.at(), status=status, error=error, steps=tuple(in_order))
        catalog.end(context.run_id, str(run.ended_at), status, run.error)
        if called := _called(context):
            catalog.record_systems(called)
        self.workspace.lake.end_run(context.run_id)
        maintain_written(context, in_order)
        context.notify(Moment.ENDED)
        return run

    def _timed(self, definition: Definition) -> StepRecord:
        begun = time.perf_counter()
        with fields(run=self.run_id, table=definition.name):
            if definition.name in self._context.streamed:
                step = _streamed(definition, self.workspace.version(definition.name))
            else:
                step = handler_of(definition).run(self._context, definition)
            seconds = time.perf_counter() - begun
            log.info(
                "step", decision=step.decision, reason=step.reason, rows=step.flow.rows_out, seconds=f"{seconds:.3f}"
            )
        return replace(step, seconds=seconds)


def is_chosen(definition: Definition, chosen: frozenset[str]) -> bool:
    """Return whether a definition is a step of a run; a sink belongs to the step of its table."""
    return handler_of(definition).is_step and not chosen.isdisjoint({definition.name, definition.selected_with})


def _steps_read(graph: Graph, definition: Definition, steps: Collection[str]) -> list[str]:
    """Return the steps of a run that a definition reads, directly or through an unstored source."""
    names = []
    for name in definition.inputs:
        if name in steps:
            names.append(name)
        elif not handler_of(graph[name]).is_step:
            names += _steps_read(graph, graph[name], steps)
    return names


def _step(definition: Definition, outcome: StepRecord | Exception | BlockedStep) -> StepRecord:
    """Return the record of a step, however it ended."""
    if isinstance(outcome, StepRecord):
        return outcome
    decision = "failed"
    if isinstance(outcome, BlockedStep):
        decision, reason = "upstream_failed", f"skipped: {outcome.reason}"
    elif isinstance(outcome, HeadwaterError):
        reason = str(outcome)
    else:
        reason = f"{type(outcome).__name__}: {outcome}"
    return StepRecord(definition.name, 0, definition.kind, layer_of(definition), decision, reason)


def _called(context: RunContext) -> tuple[SystemRecord, ...]:
    """Return the systems that this process or its cluster called under a guard."""
    return tuple(
        SystemRecord(name, each.state, each.paused_s, each.calls, each.failures, context.run_id, context.at())
        for name, each in guard_here().reports().items()
    )


def _ending(steps: Sequence[StepRecord]) -> tuple[str, str | None]:
    """Return the status of a run, and its first error."""
    decisions = {step.decision for step in steps}
    status = next((word for word in ("failed", "refused") if word in decisions), "done")
    return status, next((f"{step.name}: {step.reason}" for step in steps if step.decision == "failed"), None)


def _streamed(definition: Definition, version: Version | None) -> StepRecord:
    """Return the step of a table that a stream updates; a run does not change it."""
    step = StepRecord(definition.name, 0, definition.kind, layer_of(definition), DecisionKind.STREAMED, STREAMED)
    return step if version is None else replace(step, version=version.number, total_rows=version.rows)
