"""A run: each definition is decided, executed, committed once, settled and recorded, after those that it reads.

Everything that decides what a run does is read from the lake. A run can be killed at any moment and repeated:
what was committed is skipped, what was not is done again, and what follows from a commit is made good.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.batch.execute import execute
from pipeline.batch.planning import EXPANSION
from pipeline.batch.step import StepSpec
from pipeline.batch.work import Outcome
from pipeline.core.clock import Clock, now
from pipeline.core.cursors import Cursor, Gap
from pipeline.core.definitions import Artifact, Definition, Feed, Source, StoredDefinition, Table
from pipeline.core.errors import DefinitionError, HeadwaterError, OrderError
from pipeline.core.graph import Graph
from pipeline.core.sinks import Sink
from pipeline.core.staging import Manifest, Mode, RowCounts
from pipeline.governance import RunRecord, StepRecord
from pipeline.kernel.budget import MemoryPool, budget_here
from pipeline.lake import Version
from pipeline.project.contracts import feed_contract
from pipeline.project.project import Project
from pipeline.project.readers import reader_of
from pipeline.project.workspace import Workspace
from pipeline.runner.build_context import RunBuildContext
from pipeline.runner.commit_plan import CommitPlan, StagedRows, definition_to_validate, plan_commit, replace_by_key
from pipeline.runner.contracts import require_same, source_contract
from pipeline.runner.decide import Decision, DecisionKind, RunOptions
from pipeline.runner.dry_run import (
    decide,
    feed_of,
    fingerprint_of,
    keeps_rows,
    made_anew,
    route_of,
    route_of_source,
    scans_of,
    still_refused,
    stored_inputs,
)
from pipeline.runner.events import Event, Moment, Observer, StepProgress, nobody
from pipeline.runner.post_commit import judged, post_commit
from pipeline.runner.schedule import BlockedStep, Schedule
from pipeline.runner.sink_delivery import send
from pipeline.streaming.planning.streamed import STREAMED, StreamedDefinitions
from pipeline.warehouse.modelling import DimensionTransform


@dataclass(frozen=True)
class _StepBasis:
    """What a step starts from: the definition and its version before, and what the step will have consumed."""

    definition: StoredDefinition
    decision: Decision
    version: Version | None
    inputs: Mapping[str, Version]
    cursor: Cursor | None = None
    gaps: tuple[Gap, ...] = ()


class Runner:
    """Runs a project's definitions. One runner is one run."""

    def __init__(
        self, project: Project, options: RunOptions | None = None, *, observer: Observer = nobody, clock: Clock = now
    ) -> None:
        """Keep what to run; nothing is opened yet."""
        self.workspace = Workspace(project)
        self.options = RunOptions() if options is None else options
        self.run_id = f"{clock():%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        self._observer = observer
        self._clock = clock
        self.errors: dict[str, Exception] = {}
        """What ended the steps that failed, by the definition's name."""
        budget = budget_here(self.workspace.settings.memory_bytes)
        self._threads = self.options.threads or budget.slots
        self._memory = MemoryPool(budget, self._threads)
        self._streamed = StreamedDefinitions(self.workspace)
        self._reading = threading.Lock()
        self._read: dict[str, Version] = {}
        """The versions of inputs that this run has read or made: it sees one of each."""

    def run(self) -> RunRecord:
        """Do all chosen definitions and return the run's record.

        Raises the first error, in the order of the definitions, once everything else is done and recorded.
        """
        run = self.attempt()
        for error in self.errors.values():
            raise error
        return run

    def attempt(self) -> RunRecord:
        """Do all chosen definitions and return the run's record; what failed is in it, and in `errors`.

        Definitions that do not read each other are done side by side. One that reads a failed one is skipped.
        """
        graph, settings, catalog = self.workspace.project.graph, self.workspace.settings, self.workspace.catalog
        chosen = graph.select(self.options.select)
        definitions = {d.name: d for d in graph.definitions if _is_chosen(d, chosen)}
        run = RunRecord(self.run_id, settings.name, settings.env, self._at(), None, "running", None)
        catalog.begin(run)
        self._tell(Moment.BEGUN)
        steps: dict[str, StepRecord] = {}
        numbers = {name: number for number, name in enumerate(definitions)}

        def ended(name: str, outcome: StepRecord | Exception | BlockedStep) -> None:
            step = _step(definitions[name], outcome)
            steps[name] = step = replace(step, number=numbers[name])
            if isinstance(outcome, Exception):
                self.errors[name] = outcome
            catalog.record(self.run_id, step)
            self._tell(Moment.RECORDED, name, step=step)

        reads = {name: _steps_read(graph, definition, definitions) for name, definition in definitions.items()}
        try:
            Schedule(reads, lambda name: self._timed(definitions[name]), ended).run(self._threads)
        except BaseException as raised:
            status = "failed" if isinstance(raised, Exception) else "stopped"
            catalog.end(self.run_id, self._at(), status, str(raised) or type(raised).__name__)
            raise
        in_order = [steps[name] for name in definitions]
        self.errors = {step.name: self.errors[step.name] for step in in_order if step.name in self.errors}
        status, error = _ending(in_order)
        run = replace(run, ended_at=self._at(), status=status, error=error, steps=tuple(in_order))
        catalog.end(self.run_id, str(run.ended_at), status, run.error)
        self._tell(Moment.ENDED)
        return run

    def _timed(self, definition: Definition) -> StepRecord:
        begun = time.perf_counter()
        step = self._do(definition)
        return replace(step, seconds=time.perf_counter() - begun)

    def _do(self, definition: Definition) -> StepRecord:
        if definition.name in self._streamed:
            return _streamed(definition, self.workspace.version(definition.name))
        if isinstance(definition, Artifact):
            with self._memory.reserve(None):  # a model is trained with libraries that know no bound
                return self._build(definition)
        if isinstance(definition, Sink):
            return self._send(definition)
        if isinstance(definition, Source | Table):
            return self._make(definition)
        raise DefinitionError(f"{definition.name!r} is of no known kind", place=definition.place)

    def _make(self, definition: Source | Table) -> StepRecord:
        version = self.workspace.version(definition.name, lenient=self.options.full)
        if version is not None and not self.options.full:  # what is made anew need not be made good
            post_commit(self.workspace, definition, version)
        stored = stored_inputs(self.workspace, definition)
        inputs = {name: self._input(name, definition.name) for name in stored}
        decision = decide(self.workspace, self.options, definition, version, inputs)
        self._tell(Moment.DECIDED, definition.name, decision.kind)
        if decision.kind is DecisionKind.SKIP:
            if version is not None and version.manifest is not None:
                self._read[definition.name] = version
            return _skipped(definition, decision, version)
        try:
            return self._execute(definition, decision, version, inputs)
        except OrderError as error:
            decision = made_anew(self.workspace, definition, version, decision, error.problem)
            return self._execute(definition, decision, version, inputs)

    def _execute(
        self, definition: Source | Table, decision: Decision, version: Version | None, inputs: Mapping[str, Version]
    ) -> StepRecord:
        if isinstance(definition, Source):
            return self._commit(*self._ingest(definition, decision, version))
        return self._commit(*self._compute(definition, decision, version, inputs))

    def _input(self, name: str, reader: str) -> Version:
        with self._reading:
            if name not in self._read:
                self._read[name] = self.workspace.require(name, reader, is_streamed=name in self._streamed)
            return self._read[name]

    def _ingest(self, definition: Source, decision: Decision, version: Version | None) -> tuple[StepSpec, _StepBasis]:
        contract = source_contract(self.workspace, definition, version, decision, full=self.options.full)
        notes = dict.fromkeys(column.note for column in contract.columns if column.note)
        decision = replace(decision, reason="; ".join([decision.reason, *notes]))
        order = StepSpec(
            definition=definition,
            route=route_of_source(self.workspace, definition, decision.parts),
            scans={},
            run_id=self.run_id,
            at=self._at(),
            parts=decision.parts,
            reader=reader_of(self.workspace, definition),
            schema=contract,
            existing=version if decision.kind is DecisionKind.APPEND else None,
            existing_first=decision.is_later,
        )
        return order, _basis(definition, decision, version, {})

    def _compute(
        self, definition: Table, decision: Decision, version: Version | None, inputs: Mapping[str, Version]
    ) -> tuple[StepSpec, _StepBasis]:
        scans = scans_of(self.workspace, definition, inputs)
        feed = feed_of(self.workspace, definition)
        if decision.takes_new and feed is None:
            driving = route_of(self.workspace, definition, scans).driving
            scans[driving] = replace(scans[driving], files=decision.added)
        step = definition
        if isinstance(definition.transform, DimensionTransform) and definition.remembers:
            if (
                version is None
                or self.options.full
                or all(keeps_rows(self.workspace, name) for name in definition.inputs)
            ):
                step = replace(definition, transform=definition.transform.first())
            else:
                scans[definition.name] = version.scan()
        order = StepSpec(
            definition=definition_to_validate(step),
            route=route_of(self.workspace, definition, scans, decision.parts),
            scans=scans,
            run_id=self.run_id,
            at=self._at(),
            parts=decision.parts,
            reader=None if feed is None else reader_of(self.workspace, feed),
            schema=None if feed is None else feed_contract(self.workspace, feed, decision.parts),
            feed=feed,
            existing=version if decision.kind is DecisionKind.APPEND else None,
            existing_first=decision.is_later,
        )
        return order, _basis(definition, decision, version, inputs)

    def _commit(self, order: StepSpec, basis: _StepBasis) -> StepRecord:
        definition, begun, kind = basis.definition, time.perf_counter(), basis.decision.kind
        with self._memory.reserve(_needed_bytes(order, basis)) as memory_bytes:
            outcome, landing = self._staged(order, basis, memory_bytes)
        self._tell(Moment.STAGED, definition.name)
        mode: Mode = "append" if kind is DecisionKind.APPEND else "merge" if kind is DecisionKind.MERGE else "overwrite"
        manifest = Manifest(
            table=definition.name,
            run_id=self.run_id,
            fingerprint=fingerprint_of(self.workspace, definition),
            mode=mode,
            inputs={name: found.number for name, found in basis.inputs.items()},
            marks={name: found.mark for name, found in basis.inputs.items()},
            cursor=basis.cursor,
            gaps=basis.gaps,
            flow=landing.flow,
            checks=dict(outcome.checks),
            aside=landing.aside,
            aside_mode=landing.aside_mode,
            tombstones=landing.tombstones,
            seconds=time.perf_counter() - begun,
            at=order.at,
        )
        table = self.workspace.table(definition.name)
        committed = table.commit(manifest, landing.files, outcome.schema, basis.version, landing.removed)
        self._read[definition.name] = committed
        self._tell(Moment.COMMITTED, definition.name)
        post_commit(self.workspace, definition, committed, lambda moment: self._tell(moment, definition.name))
        return StepRecord(
            name=definition.name,
            number=0,
            kind=definition.kind,
            layer=definition.layer,
            decision=basis.decision.kind,
            reason=basis.decision.reason,
            strategy=order.route.strategy,
            executor=order.route.executor,
            version=committed.number,
            total_rows=committed.rows,
            flow=landing.flow,
            checks=judged(definition, outcome.checks, landing.flow),
        )

    def _staged(self, order: StepSpec, basis: _StepBasis, memory_bytes: int) -> tuple[Outcome, CommitPlan]:
        settings = replace(self.workspace.settings, memory_bytes=memory_bytes)
        outcome = execute(order, self.workspace.lake, settings, lambda share: self._work(order, share))
        require_same(basis.definition, basis.decision, basis.version, outcome.schema, may_be_made_anew=True)
        arrival = StagedRows(
            basis.definition, outcome, self.run_id, basis.version if basis.decision.takes_new else None
        )
        if not basis.decision.removed:
            return outcome, plan_commit(self.workspace, arrival)
        driving = order.route.driving
        files = (*basis.decision.removed, *basis.decision.added)
        return outcome, replace_by_key(self.workspace, arrival, driving, replace(order.scans[driving], files=files))

    def _build(self, definition: Artifact) -> StepRecord:
        bench = RunBuildContext(self.workspace, definition, self.run_id)
        verdict = None if self.options.full else definition.verdict(bench)
        self._tell(Moment.DECIDED, definition.name, "rebuild" if verdict is None else "skip")
        step = StepRecord(definition.name, 0, definition.kind, "", "skip", "up to date")
        if verdict is not None:
            refused = replace(step, decision="refused", reason=still_refused(verdict), verdict=verdict)
            return step if verdict.accepted else refused
        verdict = definition.build(bench)
        self._tell(Moment.COMMITTED, definition.name)
        decision = "accepted" if verdict.accepted else "refused"
        flow = RowCounts(rows_in=verdict.rows)
        return replace(step, decision=decision, reason=verdict.reason, flow=flow, verdict=verdict)

    def _send(self, sink: Sink) -> StepRecord:
        """Bring a sink to its table's newest version."""
        step = StepRecord(sink.name, 0, sink.kind, "", "skip", "it has all of its table")
        if sink.table in self._streamed:
            return replace(step, reason="`headwater stream` sends what it commits")
        self._tell(Moment.DECIDED, sink.name, "send")
        sent = send(self.workspace, sink)
        if sent is None:
            return step
        words = f"{sink.description}, version {sent.to.version} of {sink.table}"
        flow = RowCounts(rows_in=sent.rows + sent.gone, rows_made=sent.rows, rows_out=sent.rows)
        return replace(step, decision="sent", reason=words, version=sent.to.version, flow=flow)

    def _at(self) -> str:
        return self._clock().isoformat()

    def _work(self, order: StepSpec, share: float) -> None:
        work = StepProgress(share, order.route.rows, order.route.size_bytes)
        self._observer(Event(Moment.WORKING, self.run_id, order.definition.name, work=work))

    def _tell(self, moment: Moment, name: str = "", note: str = "", step: StepRecord | None = None) -> None:
        self._observer(Event(moment, self.run_id, name, note, step))


def _basis(
    definition: StoredDefinition, decision: Decision, version: Version | None, inputs: Mapping[str, Version]
) -> _StepBasis:
    """Return what a step starts from, with the cursor of its source and the gaps in what was read of it so far."""
    plan = decision.plan
    if plan is None:
        return _StepBasis(definition, decision, version, inputs)
    before = version.manifest if decision.takes_new and version is not None else None
    gaps = (*(() if before is None else before.gaps), *plan.gaps)
    return _StepBasis(definition, decision, version, inputs, plan.cursor, gaps)


def _is_chosen(definition: Definition, chosen: frozenset[str]) -> bool:
    """Return whether a definition is a step of a run; a sink is one with its table, a source that is not stored never."""
    asked = definition.table if isinstance(definition, Sink) else definition.name
    return not chosen.isdisjoint({definition.name, asked}) and not isinstance(definition, Feed)


def _steps_read(graph: Graph, definition: Definition, steps: Collection[str]) -> list[str]:
    """Return the steps of a run that a definition reads, directly or by a source that is not stored."""
    found = []
    for name in definition.inputs:
        if name in steps:
            found.append(name)
        elif isinstance(graph[name], Feed):
            found += _steps_read(graph, graph[name], steps)
    return found


def _needed_bytes(order: StepSpec, basis: _StepBasis) -> int | None:
    """Return the memory that holds all rows of a step; `None` for one that works on the cluster."""
    if order.is_dataset or order.route.executor == "ray":
        return None
    read = sum(scan.size_bytes for scan in order.scans.values()) + sum(part.size_bytes for part in order.parts)
    before = 0 if basis.version is None else sum(file.size_bytes for file in basis.version.files)
    return EXPANSION * (read + before)


def _step(definition: Definition, outcome: StepRecord | Exception | BlockedStep) -> StepRecord:
    """Return the record of a step that ended in whichever way."""
    if isinstance(outcome, StepRecord):
        return outcome
    layer = definition.layer if isinstance(definition, StoredDefinition) else ""
    decision = "upstream_failed" if isinstance(outcome, BlockedStep) else "failed"
    is_ours = isinstance(outcome, BlockedStep | HeadwaterError)
    reason = str(outcome) if is_ours else f"{type(outcome).__name__}: {outcome}"
    return StepRecord(definition.name, 0, definition.kind, layer, decision, reason)


def _ending(steps: Sequence[StepRecord]) -> tuple[str, str | None]:
    """Return the status of a run, and its first error."""
    decisions = {step.decision for step in steps}
    status = next((word for word in ("failed", "refused") if word in decisions), "done")
    return status, next((f"{step.name}: {step.reason}" for step in steps if step.decision == "failed"), None)


def _streamed(definition: Definition, version: Version | None) -> StepRecord:
    """Return the step of a table that a stream makes: a run leaves it as it is."""
    layer = definition.layer if isinstance(definition, StoredDefinition) else ""
    step = StepRecord(definition.name, 0, definition.kind, layer, DecisionKind.STREAMED, STREAMED)
    return step if version is None else replace(step, version=version.number, total_rows=version.rows)


def _skipped(definition: StoredDefinition, decision: Decision, version: Version | None) -> StepRecord:
    return StepRecord(
        name=definition.name,
        number=0,
        kind=definition.kind,
        layer=definition.layer,
        decision="skip",
        reason=decision.reason,
        version=None if version is None else version.number,
        total_rows=0 if version is None else version.rows,
    )
