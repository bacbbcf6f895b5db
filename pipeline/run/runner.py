"""A run: each definition in order is decided, executed, committed once, settled and recorded.

Everything that decides what a run does is read from the lake. A run can be killed at any moment and repeated:
what was committed is skipped, what was not is done again, and what follows from a commit is made good.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.core.clock import Clock, now
from pipeline.core.cursors import Cursor, Gap
from pipeline.core.definitions import Artifact, Definition, Feed, Source, Stored, Table
from pipeline.core.errors import DefinitionError, HeadwaterError
from pipeline.core.sinks import Sink
from pipeline.core.staging import Flow, Manifest, Mode
from pipeline.governance import Run, Step
from pipeline.lake import Version
from pipeline.run.bench import RunBench
from pipeline.run.contract import feed_contract, require_same, source_contract
from pipeline.run.decide import Decision, Options
from pipeline.run.events import Event, Moment, Observer, Work, nobody
from pipeline.run.execute import execute
from pipeline.run.foresight import (
    decide,
    feed_of,
    fingerprint_of,
    route_of,
    route_of_source,
    scans_of,
    stored_inputs,
)
from pipeline.run.merging import Arrival, follow, land, to_judge
from pipeline.run.order import Order
from pipeline.run.project import Project
from pipeline.run.readers import reader_of
from pipeline.run.sending import send
from pipeline.run.settle import judged, settle
from pipeline.run.stream.plan import STREAMED, Planner
from pipeline.run.workspace import Workspace
from pipeline.warehouse.modelling import DimensionTransform


@dataclass(frozen=True)
class _Basis:
    """What a step starts from: the definition and its version before, and what the step will have consumed."""

    definition: Stored
    decision: Decision
    version: Version | None
    inputs: Mapping[str, Version]
    cursor: Cursor | None = None
    gaps: tuple[Gap, ...] = ()


class Runner:
    """Runs a project's definitions. One runner is one run."""

    def __init__(
        self, project: Project, options: Options | None = None, *, observer: Observer = nobody, clock: Clock = now
    ) -> None:
        """Keep what to run; nothing is opened yet."""
        self.workspace = Workspace(project)
        self.options = Options() if options is None else options
        self.run_id = f"{clock():%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        self._observer = observer
        self._clock = clock
        self._planner = Planner(self.workspace)
        self._read: dict[str, Version] = {}
        """The versions of inputs that this run has read or made: it sees one of each."""

    def run(self) -> Run:
        """Do all chosen definitions and return the run's record.

        Raises the first error after recording it; what was committed before stays.
        """
        graph, settings, catalog = self.workspace.project.graph, self.workspace.settings, self.workspace.catalog
        chosen = graph.select(self.options.select)
        run = Run(self.run_id, settings.name, settings.env, self._at(), None, "running", None)
        catalog.begin(run)
        self._tell(Moment.BEGUN)
        steps: list[Step] = []
        try:
            for definition in graph.definitions:
                asked = definition.table if isinstance(definition, Sink) else definition.name
                if not chosen.isdisjoint({definition.name, asked}) and not isinstance(definition, Feed):
                    steps.append(self._step(definition, len(steps)))
        except BaseException as error:
            status = "failed" if isinstance(error, Exception) else "stopped"
            catalog.end(self.run_id, self._at(), status, str(error) or type(error).__name__)
            raise
        decisions = {step.decision for step in steps}
        status = next((word for word in ("failed", "refused") if word in decisions), "done")
        failed = next((f"{step.name}: {step.reason}" for step in steps if step.decision == "failed"), None)
        run = replace(run, ended_at=self._at(), status=status, error=failed, steps=tuple(steps))
        catalog.end(self.run_id, str(run.ended_at), status, run.error)
        self._tell(Moment.ENDED)
        return run

    def _step(self, definition: Definition, number: int) -> Step:
        begun = time.perf_counter()
        if self._planner.is_streamed(definition.name):
            step = _streamed(definition, self.workspace.version(definition.name))
        elif isinstance(definition, Artifact):
            step = self._build(definition)
        elif isinstance(definition, Sink):
            step = self._send(definition)
        elif isinstance(definition, Source | Table):
            step = self._make(definition)
        else:
            raise DefinitionError(f"{definition.name!r} is of no known kind", place=definition.place)
        step = replace(step, number=number, seconds=time.perf_counter() - begun)
        self.workspace.catalog.record(self.run_id, step)
        self._tell(Moment.RECORDED, definition.name, step=step)
        return step

    def _make(self, definition: Source | Table) -> Step:
        version = self.workspace.version(definition.name, lenient=self.options.full)
        if version is not None and not self.options.full:  # what is made anew need not be made good
            settle(self.workspace, definition, version)
        stored = stored_inputs(self.workspace, definition)
        inputs = {name: self._input(name, definition.name) for name in stored}
        decision = decide(self.workspace, self.options, definition, version, inputs)
        self._tell(Moment.DECIDED, definition.name, decision.kind)
        if decision.kind == "skip":
            if version is not None and version.manifest is not None:
                self._read[definition.name] = version
            return _skipped(definition, decision, version)
        if isinstance(definition, Source):
            return self._commit(*self._ingest(definition, decision, version))
        return self._commit(*self._compute(definition, decision, version, inputs))

    def _input(self, name: str, reader: str) -> Version:
        if name not in self._read:
            self._read[name] = self.workspace.require(name, reader)
        return self._read[name]

    def _ingest(self, definition: Source, decision: Decision, version: Version | None) -> tuple[Order, _Basis]:
        order = Order(
            definition=definition,
            route=route_of_source(self.workspace, definition, decision.parts),
            scans={},
            run_id=self.run_id,
            at=self._at(),
            parts=decision.parts,
            reader=reader_of(self.workspace, definition),
            schema=source_contract(self.workspace, definition, version, decision, full=self.options.full),
            existing=version if decision.kind == "append" else None,
        )
        return order, _basis(definition, decision, version, {})

    def _compute(
        self, definition: Table, decision: Decision, version: Version | None, inputs: Mapping[str, Version]
    ) -> tuple[Order, _Basis]:
        scans = scans_of(self.workspace, definition, inputs)
        feed = feed_of(self.workspace, definition)
        if decision.takes_new and feed is None:
            driving = route_of(self.workspace, definition, scans).driving
            scans[driving] = replace(scans[driving], files=decision.added)
        step = definition
        if isinstance(definition.transform, DimensionTransform) and definition.remembers:
            if version is None or self.options.full:
                step = replace(definition, transform=definition.transform.first())
            else:
                scans[definition.name] = version.scan()
        order = Order(
            definition=to_judge(step),
            route=route_of(self.workspace, definition, scans, decision.parts),
            scans=scans,
            run_id=self.run_id,
            at=self._at(),
            parts=decision.parts,
            reader=None if feed is None else reader_of(self.workspace, feed),
            schema=None if feed is None else feed_contract(self.workspace, feed, decision.parts),
            feed=feed,
            existing=version if decision.kind == "append" else None,
        )
        return order, _basis(definition, decision, version, inputs)

    def _commit(self, order: Order, basis: _Basis) -> Step:
        definition, begun = basis.definition, time.perf_counter()
        outcome = execute(order, self.workspace.lake, self.workspace.settings, lambda share: self._work(order, share))
        require_same(definition, basis.decision, basis.version, outcome.schema)
        kind = basis.decision.kind
        arrival = Arrival(definition, outcome, self.run_id, basis.version if basis.decision.takes_new else None)
        if basis.decision.removed:
            driving = order.route.driving
            files = (*basis.decision.removed, *basis.decision.added)
            landing = follow(self.workspace, arrival, driving, replace(order.scans[driving], files=files))
        else:
            landing = land(self.workspace, arrival)
        self._tell(Moment.STAGED, definition.name)
        mode: Mode = "append" if kind == "append" else "merge" if kind == "merge" else "overwrite"
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
        settle(self.workspace, definition, committed, lambda moment: self._tell(moment, definition.name))
        return Step(
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

    def _build(self, definition: Artifact) -> Step:
        bench = RunBench(self.workspace, definition, self.run_id)
        current = not self.options.full and definition.is_current(bench)
        self._tell(Moment.DECIDED, definition.name, "skip" if current else "rebuild")
        if current:
            return Step(definition.name, 0, definition.kind, "", "skip", "up to date")
        verdict = definition.build(bench)
        self._tell(Moment.COMMITTED, definition.name)
        decision = "accepted" if verdict.accepted else "refused"
        flow = Flow(rows_in=verdict.rows)
        return Step(definition.name, 0, definition.kind, "", decision, verdict.reason, flow=flow, verdict=verdict)

    def _send(self, sink: Sink) -> Step:
        """Bring a sink to its table's newest version; one that fails is told of, and the run goes on."""
        step = Step(sink.name, 0, sink.kind, "", "skip", "it has all of its table")
        if self._planner.is_streamed(sink.table):
            return replace(step, reason="`headwater stream` sends what it commits")
        self._tell(Moment.DECIDED, sink.name, "send")
        try:
            sent = send(self.workspace, sink)
        except HeadwaterError as error:
            return replace(step, decision="failed", reason=str(error))
        if sent is None:
            return step
        words = f"{sink.description}, version {sent.to.version} of {sink.table}"
        flow = Flow(rows_in=sent.rows + sent.gone, rows_made=sent.rows, rows_out=sent.rows)
        return replace(step, decision="sent", reason=words, version=sent.to.version, flow=flow)

    def _at(self) -> str:
        return self._clock().isoformat()

    def _work(self, order: Order, share: float) -> None:
        work = Work(share, order.route.rows, order.route.size_bytes)
        self._observer(Event(Moment.WORKING, self.run_id, order.definition.name, work=work))

    def _tell(self, moment: Moment, name: str = "", note: str = "", step: Step | None = None) -> None:
        self._observer(Event(moment, self.run_id, name, note, step))


def _basis(definition: Stored, decision: Decision, version: Version | None, inputs: Mapping[str, Version]) -> _Basis:
    """Return what a step starts from, with the cursor of its source and the gaps in what was read of it so far."""
    plan = decision.plan
    if plan is None:
        return _Basis(definition, decision, version, inputs)
    before = version.manifest if decision.takes_new and version is not None else None
    gaps = (*(() if before is None else before.gaps), *plan.gaps)
    return _Basis(definition, decision, version, inputs, plan.cursor, gaps)


def _streamed(definition: Definition, version: Version | None) -> Step:
    """Return the step of a table that a stream makes: a run leaves it as it is."""
    layer = definition.layer if isinstance(definition, Stored) else ""
    step = Step(definition.name, 0, definition.kind, layer, "skip", STREAMED)
    return step if version is None else replace(step, version=version.number, total_rows=version.rows)


def _skipped(definition: Stored, decision: Decision, version: Version | None) -> Step:
    return Step(
        name=definition.name,
        number=0,
        kind=definition.kind,
        layer=definition.layer,
        decision="skip",
        reason=decision.reason,
        version=None if version is None else version.number,
        total_rows=0 if version is None else version.rows,
    )
