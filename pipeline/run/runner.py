"""A run: each definition in order is decided, executed, committed once, settled and recorded.

Everything that decides what a run does is read from the lake. A run can be killed at any moment and repeated:
what was committed is skipped, what was not is done again, and what follows from a commit (its quarantined rows,
its place in the warehouse, its record) is made good from the manifest.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from pipeline.core.clock import Clock, now
from pipeline.core.definitions import Artifact, Definition, Source, Stored, Table, Verdict
from pipeline.core.errors import DefinitionError, SchemaError, StorageError
from pipeline.core.reading import PROVENANCE, Piece
from pipeline.core.schema import Schema
from pipeline.core.staging import Flow, Manifest
from pipeline.governance import Catalog, Check, Made, Run, Step
from pipeline.kernel.checks import key_expectations
from pipeline.kernel.scan import Scan
from pipeline.kernel.types import stored
from pipeline.lake import Commit, Lake, LakeTable, Storage, Version
from pipeline.run.decide import Decision, Inputs, decide_source, decide_table
from pipeline.run.events import Event, Moment, Observer, nobody
from pipeline.run.execute import Order, execute
from pipeline.run.planning import Route, route, source_route
from pipeline.run.project import Project
from pipeline.warehouse import DuckDBWarehouse, Load
from pipeline.warehouse.modelling import DimensionTransform

QUARANTINE = Schema.of(
    {
        "reasons": "VARCHAR",
        "_source": "VARCHAR",
        "_position": "BIGINT",
        "row": "VARCHAR",
        "_run": "VARCHAR",
        "_quarantined_at": "TIMESTAMPTZ",
    }
)
"""The columns of every quarantine table; `row` is JSON, or for a source the text as it stood in the file."""


@dataclass(frozen=True)
class Options:
    """What a run is asked to do: patterns of `Graph.select`, and whether to recompute what is up to date."""

    select: tuple[str, ...] = ()
    full: bool = False


class Runner:
    """Runs a project's definitions. One runner is one run."""

    def __init__(
        self, project: Project, options: Options | None = None, *, observer: Observer = nobody, clock: Clock = now
    ) -> None:
        """Keep what to run; nothing is opened yet."""
        self.project = project
        self.settings = project.settings
        self.options = Options() if options is None else options
        self.lake = Lake(Storage(self.settings.lake, self.settings.storage))
        self.catalog = Catalog(self.settings.catalog)
        self.warehouse = DuckDBWarehouse(self.settings.warehouse)
        self.run_id = f"{clock():%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        self._observer = observer
        self._clock = clock

    def run(self) -> Run:
        """Do all chosen definitions and return the run's record.

        Raises the first error after recording it; what was committed before stays.
        """
        chosen = self.project.graph.select(self.options.select)
        started = self._clock().isoformat()
        run = Run(self.run_id, self.settings.name, self.settings.env, started, None, "running", None)
        self.catalog.begin(run)
        self._tell(Moment.BEGUN)
        steps: list[Step] = []
        try:
            for definition in self.project.graph.definitions:
                if definition.name in chosen:
                    steps.append(self._step(definition, len(steps)))
        except BaseException as error:
            status = "failed" if isinstance(error, Exception) else "stopped"
            self.catalog.end(self.run_id, self._clock().isoformat(), status, str(error) or type(error).__name__)
            raise
        refused = any(step.decision == "refused" for step in steps)
        ended = self._clock().isoformat()
        status = "refused" if refused else "done"
        self.catalog.end(self.run_id, ended, status)
        self._tell(Moment.ENDED)
        return replace(run, ended_at=ended, status=status, steps=tuple(steps))

    def plan(self) -> tuple[tuple[Definition, Decision, Route | None], ...]:
        """Return what a run would do now, in order; nothing is written.

        A table whose input would change is shown as if it had.
        """
        chosen = self.project.graph.select(self.options.select)
        moving: set[str] = set()
        planned = []
        for definition in self.project.graph.definitions:
            if definition.name not in chosen:
                continue
            decision, way = self._foresee(definition, moving)
            if decision.kind != "skip":
                moving.add(definition.name)
            planned.append((definition, decision, way))
        return tuple(planned)

    def _foresee(self, definition: Definition, moving: Collection[str]) -> tuple[Decision, Route | None]:
        above = [name for name in definition.inputs if name in moving]
        if not isinstance(definition, Stored):
            if above:
                return Decision("rebuild", f"{', '.join(map(repr, above))} would change"), None
            current = isinstance(definition, Artifact) and definition.is_current(self._bench(definition))
            return Decision("skip", "up to date") if current else Decision("rebuild", "not made yet"), None
        version = self._table(definition).version()
        if isinstance(definition, Source):
            decision = self._decide_source(definition, version)
            return decision, self._source_route(definition, decision.pieces)
        scans = {name: self._scan_or_none(name) for name in definition.inputs}
        way = self._route(definition, scans)
        if above:
            return Decision("rebuild", f"{', '.join(map(repr, above))} would change"), way
        return self._decide_table(definition, version, way), way

    def _step(self, definition: Definition, number: int) -> Step:
        begun = time.perf_counter()
        if isinstance(definition, Artifact):
            step = self._build(definition, number)
        elif isinstance(definition, Source):
            step = self._ingest(definition, number)
        elif isinstance(definition, Table):
            step = self._compute(definition, number)
        else:
            raise DefinitionError(f"{definition.name!r} is of no known kind", place=definition.place)
        step = replace(step, seconds=time.perf_counter() - begun)
        self.catalog.record(self.run_id, step)
        self._tell(Moment.RECORDED, definition.name, step=step)
        return step

    def _ingest(self, definition: Source, number: int) -> Step:
        version = self._settled(definition)
        decision = self._decide_source(definition, version)
        way = self._source_route(definition, decision.pieces)
        self._tell(Moment.DECIDED, definition.name, decision.kind)
        if decision.kind == "skip":
            return self._skipped(definition, number, decision, version)
        schema = self._contract(definition, version, decision)
        order = Order(
            definition, way, {}, self.run_id, self._at(), decision.pieces, schema, self._existing(decision, version)
        )
        consumed = decision.pieces
        if decision.kind == "append" and version is not None and version.manifest is not None:
            consumed = (*version.manifest.pieces, *decision.pieces)
        return self._commit(order, decision, version, number, pieces=consumed)

    def _compute(self, definition: Table, number: int) -> Step:
        version = self._settled(definition)
        inputs = {name: self._require(definition, name) for name in definition.inputs}
        scans = {name: found.scan() for name, found in inputs.items()}
        way = self._route(definition, scans)
        decision = self._decide_table(definition, version, way)
        self._tell(Moment.DECIDED, definition.name, decision.kind)
        if decision.kind == "skip":
            return self._skipped(definition, number, decision, version)
        if decision.kind == "append":
            scans[way.driving] = replace(scans[way.driving], files=decision.added)
            way = self._route(definition, scans)
        step = definition
        if isinstance(definition.transform, DimensionTransform) and definition.remembers:
            if version is None or self.options.full:
                step = replace(definition, transform=definition.transform.first())
            else:
                scans[definition.name] = version.scan()
        order = Order(step, way, scans, self.run_id, self._at(), existing=self._existing(decision, version))
        consumed = {name: found.number for name, found in inputs.items()}
        return self._commit(order, decision, version, number, inputs=consumed)

    def _commit(
        self,
        order: Order,
        decision: Decision,
        version: Version | None,
        number: int,
        *,
        inputs: Mapping[str, int] | None = None,
        pieces: tuple[Piece, ...] = (),
    ) -> Step:
        definition, begun = self.project.graph[order.definition.name], time.perf_counter()
        if not isinstance(definition, Stored):
            raise TypeError(definition.name)
        outcome = execute(order, self.lake, self.settings)
        self._same_schema(definition, decision, version, outcome.schema)
        self._tell(Moment.STAGED, definition.name)
        manifest = Manifest(
            table=definition.name,
            run_id=self.run_id,
            fingerprint=definition.fingerprint,
            mode="append" if decision.kind == "append" else "overwrite",
            inputs=dict(inputs or {}),
            pieces=pieces,
            flow=outcome.flow,
            checks=dict(outcome.checks),
            aside=outcome.aside,
            seconds=time.perf_counter() - begun,
            at=order.at,
        )
        table = self._table(definition)
        committed = table.commit(manifest, outcome.files, outcome.schema, version)
        self._tell(Moment.COMMITTED, definition.name)
        self._settle(definition, committed)
        return Step(
            name=definition.name,
            number=number,
            kind=definition.kind,
            layer=definition.layer,
            decision=decision.kind,
            reason=decision.reason,
            strategy=order.route.strategy,
            executor=order.route.executor,
            version=committed.number,
            total_rows=committed.rows,
            flow=outcome.flow,
            checks=_judged(definition, outcome.checks, outcome.flow),
        )

    def _settled(self, definition: Stored) -> Version | None:
        """Return a table's version after making good what follows from it, should an earlier run have been killed."""
        version = self._table(definition).version()
        if version is not None and version.manifest is not None:
            self._settle(definition, version)
        return version

    def _settle(self, definition: Stored, version: Version) -> None:
        """Bring quarantine, warehouse and catalog to what a version's manifest says; doing it again changes nothing."""
        manifest = version.manifest
        if manifest is None:
            return
        aside = self.lake.quarantine(definition.name)
        before = aside.version()
        if manifest.aside or (before is not None and manifest.mode == "overwrite"):
            note = {"headwater.run": manifest.run_id}
            aside.commit_files(Commit(manifest.aside, QUARANTINE, manifest.mode, manifest.mark, note), before)
        self._tell(Moment.SETTLED, definition.name)
        if definition.layer == "gold":
            self._load(definition, version)
            self._tell(Moment.LOADED, definition.name)
        known = self.catalog.versions(definition.name)
        if not any(made.version == version.number for made in known):
            self.catalog.keep(_made(definition, version, manifest))

    def _load(self, definition: Stored, version: Version) -> None:
        loaded = self.warehouse.loaded().get(definition.name)
        if loaded == version.number:
            return
        added = None if loaded is None else self._table(definition).added_since(loaded)
        load = Load(
            name=definition.name,
            version=version.number,
            scan=version.scan(),
            key=definition.key,
            description=definition.description,
            since=loaded if added is not None else None,
            added=added or (),
        )
        self.warehouse.load(load, filesystem=self.lake.storage.filesystem())

    def _build(self, definition: Artifact, number: int) -> Step:
        bench = self._bench(definition)
        current = not self.options.full and definition.is_current(bench)
        self._tell(Moment.DECIDED, definition.name, "skip" if current else "rebuild")
        if current:
            return Step(definition.name, number, definition.kind, "", "skip", "up to date")
        verdict: Verdict = definition.build(bench)
        self._tell(Moment.COMMITTED, definition.name)
        decision = "accepted" if verdict.accepted else "refused"
        flow = Flow(rows_in=verdict.rows)
        step = Step(definition.name, number, definition.kind, "", decision, verdict.reason, flow=flow)
        return replace(step, verdict=verdict)

    def _decide_source(self, definition: Source, version: Version | None) -> Decision:
        manifest = None if version is None else version.manifest
        pieces = definition.reader.pieces()
        return decide_source(definition.fingerprint, manifest, pieces, full=self.options.full)

    def _decide_table(self, definition: Table, version: Version | None, way: Route) -> Decision:
        manifest = None if version is None else version.manifest
        versions = {name: self._number(name) for name in definition.inputs}
        added = None
        if manifest is not None and way.splits_alone and way.driving in manifest.inputs:
            driving = self.project.graph[way.driving]
            added = self._table(driving).added_since(manifest.inputs[way.driving])
        inputs = Inputs(versions, way.driving, added, way.splits_alone)
        return decide_table(definition.fingerprint, manifest, inputs, full=self.options.full)

    def _contract(self, definition: Source, version: Version | None, decision: Decision) -> Schema:
        """Return what a source's rows are held to: what is declared, else what was inferred first."""
        if definition.schema is not None:
            return definition.schema
        if version is not None and decision.kind == "append":
            return version.schema.select(tuple(n for n in version.schema.names if n not in PROVENANCE))
        found = stored(definition.reader.schema(decision.pieces[0]))
        if version is None or self.options.full:
            return found
        before = version.schema.select(tuple(n for n in version.schema.names if n not in PROVENANCE))
        return (
            before
            if set(before.names) <= set(found.names) and len(before.names) == len(found.names)
            else _refused(definition, before, found)
        )

    def _same_schema(self, definition: Stored, decision: Decision, version: Version | None, schema: Schema) -> None:
        if decision.kind != "append" or version is None or version.schema == schema:
            return
        raise SchemaError(
            f"table {definition.name!r} gives other columns for the new rows than for the old ones",
            got=", ".join(f"{c.name} {c.type}" for c in schema.columns if c not in version.schema.columns),
            do="cast them in the definition, or recompute it with --full",
            place=definition.place,
        )

    def _route(self, definition: Stored, scans: Mapping[str, Scan]) -> Route:
        return route(definition, scans, execution=self.settings.execution, inline_bytes=self.settings.inline_bytes)

    def _source_route(self, definition: Source, pieces: tuple[Piece, ...]) -> Route:
        return source_route(
            definition, pieces, execution=self.settings.execution, inline_bytes=self.settings.inline_bytes
        )

    def _table(self, definition: Definition) -> LakeTable:
        if not isinstance(definition, Stored):
            raise DefinitionError(f"{definition.name!r} is not a table", place=definition.place)
        return self.lake.table(
            definition.layer,
            definition.name,
            partition_by=definition.partition_by,
            description=definition.description,
        )

    def _number(self, name: str) -> int:
        version = self._table(self.project.graph[name]).version()
        return -1 if version is None else version.number

    def _scan_or_none(self, name: str) -> Scan:
        version = self._table(self.project.graph[name]).version()
        return Scan(Schema(())) if version is None else version.scan()

    def _require(self, definition: Definition, name: str) -> Version:
        version = self._table(self.project.graph[name]).version()
        if version is None:
            raise StorageError(
                f"{definition.name!r} reads {name!r}, which is not made yet",
                do=f"run it too: --select +{definition.name}",
                place=definition.place,
            )
        return version

    def _existing(self, decision: Decision, version: Version | None) -> Version | None:
        return version if decision.kind == "append" else None

    def _skipped(self, definition: Stored, number: int, decision: Decision, version: Version | None) -> Step:
        return Step(
            name=definition.name,
            number=number,
            kind=definition.kind,
            layer=definition.layer,
            decision="skip",
            reason=decision.reason,
            version=None if version is None else version.number,
            total_rows=0 if version is None else version.rows,
        )

    def _bench(self, definition: Artifact) -> RunBench:
        return RunBench(self, definition)

    def _at(self) -> str:
        return self._clock().isoformat()

    def _tell(self, moment: Moment, name: str = "", note: str = "", step: Step | None = None) -> None:
        self._observer(Event(moment, self.run_id, name, note, step))


class RunBench:
    """What an artifact is built on, read from the run's lake."""

    def __init__(self, runner: Runner, artifact: Artifact) -> None:
        """Keep the run; inputs are read when they are asked for."""
        self._runner = runner
        self._artifact = artifact

    @property
    def store(self) -> str:
        """The URI of the model store."""
        return self._runner.settings.models

    @property
    def run_id(self) -> str:
        """The run that builds it."""
        return self._runner.run_id

    def definition(self, name: str) -> Definition:
        """Return the definition of an input."""
        return self._runner.project.graph[name]

    def table(self, name: str) -> pa.Table:
        """Return all rows of an input."""
        return self._runner.lake.rows(self._runner._table(self.definition(name)))  # noqa: SLF001 - its own runner

    def version(self, name: str) -> int:
        """Return the version of an input that `table` returns."""
        return self._runner._require(self._artifact, name).number  # noqa: SLF001 - its own runner


def _judged(definition: Stored, violations: Mapping[str, int], flow: Flow) -> tuple[Check, ...]:
    expectations = (*definition.expect, *key_expectations(definition.key))
    return tuple(Check(e.name, e.condition, e.action, flow.rows_made, violations.get(e.name, 0)) for e in expectations)


def _made(definition: Stored, version: Version, manifest: Manifest) -> Made:
    return Made(
        name=definition.name,
        version=version.number,
        layer=definition.layer,
        run_id=manifest.run_id,
        at=manifest.at,
        rows=version.rows,
        size_bytes=sum(file.size_bytes for file in version.files),
        schema=version.schema,
        inputs=manifest.inputs,
    )


def _refused(definition: Source, before: Schema, found: Schema) -> Schema:
    added = [name for name in found.names if name not in before.names]
    gone = [name for name in before.names if name not in found.names]
    raise SchemaError(
        f"source {definition.name!r} has other columns than before",
        got="; ".join([*(f"new column {n!r}" for n in added), *(f"{n!r} is gone" for n in gone)]),
        do="accept them with --full, or declare schema=",
        place=definition.place,
    )
