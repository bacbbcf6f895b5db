"""Runs the step of a table, from its specification to its record: compute, commit once, and post-commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pipeline.batch.execute import execute
from pipeline.batch.executor import StepLimits
from pipeline.batch.kept_states import KeptStates
from pipeline.batch.step import StepSpec
from pipeline.batch.work import Outcome
from pipeline.commit.commit_plan import CommitPlan, StagedRows, plan_commit, replace_by_key, schema_of_rows
from pipeline.commit.moments import Moment
from pipeline.commit.post_commit import check_records, post_commit
from pipeline.core.cursors import Cursor, Gap
from pipeline.core.definitions import Source, StoredDefinition, Table
from pipeline.core.errors import OrderError
from pipeline.core.staging import Manifest, Mode
from pipeline.governance import StepRecord
from pipeline.lake import Version
from pipeline.runner.context import RunContext
from pipeline.runner.contracts import require_same
from pipeline.runner.decide import Decision, DecisionKind
from pipeline.runner.facts import decide, fingerprint_of, rebuild_decision


@dataclass(frozen=True)
class StepBasis:
    """The start of a step: the definition, its current version, and what the step will have consumed."""

    definition: StoredDefinition
    decision: Decision
    version: Version | None
    inputs: Mapping[str, Version]

    @property
    def cursor(self) -> Cursor | None:
        """The cursor of the source that the step reads, if it reads one."""
        return None if self.decision.plan is None else self.decision.plan.cursor

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The gaps of the source: data that was lost before it was read, earlier and now."""
        if self.decision.plan is None:
            return ()
        version = self.version if self.decision.takes_new else None
        before = None if version is None else version.manifest
        return (*(() if before is None else before.gaps), *self.decision.plan.gaps)


Compute = Callable[[RunContext, StepBasis], StepRecord]


def run_step(
    run: RunContext, definition: Source | Table, inputs: Mapping[str, Version], compute: Compute
) -> StepRecord:
    """Decide what to do with a table, and compute it with `compute` unless there is nothing to do.

    Post-commit of its last version is completed first. If new rows turn out to sort before existing rows, the table is
    recomputed.
    """
    workspace, options = run.workspace, run.options
    version = workspace.version(definition.name, lenient=options.full)
    if version is not None and not options.full:  # post-commit is not needed for a version that is replaced
        post_commit(workspace, definition, version)
    decision = decide(workspace, options, definition, version, inputs)
    run.notify(Moment.DECIDED, definition.name, decision.kind)
    if decision.kind is DecisionKind.SKIP:
        if version is not None and version.manifest is not None:
            run.keep_version(definition.name, version)
        return _skipped(definition, decision, version)
    try:
        return compute(run, StepBasis(definition, decision, version, inputs))
    except OrderError as error:
        decision = rebuild_decision(workspace, definition, version, decision, error.problem)
        return compute(run, StepBasis(definition, decision, version, inputs))


BeforeCommit = Callable[[RunContext, StepBasis, int], StepBasis]
"""Called with the memory in bytes when the rows of a step are staged and valid; it may commit the table before them."""


def _as_it_is(_: RunContext, basis: StepBasis, __: int) -> StepBasis:
    return basis


def commit_step(
    run: RunContext, spec: StepSpec, basis: StepBasis, before_commit: BeforeCommit = _as_it_is
) -> StepRecord:
    """Compute a step, commit it once, and update quarantine, warehouse and catalog.

    `before_commit` returns the basis of the commit.
    """
    definition, begun, kind = basis.definition, time.perf_counter(), basis.decision.kind
    table = run.workspace.table(definition.name)
    with run.workspace.lake.staging(table, run.run_id, basis.version, meanwhile=True) as noted:
        before_bytes = 0 if basis.version is None else sum(file.size_bytes for file in basis.version.files)
        with run.reserve(spec, before_bytes) as memory_bytes:
            outcome = _executed(run, spec, basis, memory_bytes)
            noted()
            basis = before_commit(run, basis, memory_bytes)
            commit = _planned(run, spec, basis, outcome)
        kept_states = KeptStates.of(table.storage)
        if outcome.states is not None:
            kept_states.write(run.run_id, outcome.states)
        if not outcome.states_fit:
            kept_states.note_too_large(run.run_id)
        run.notify(Moment.STAGED, definition.name)
        mode: Mode = "append" if kind is DecisionKind.APPEND else "merge" if kind is DecisionKind.MERGE else "overwrite"
        manifest = Manifest(
            table=definition.name,
            run_id=run.run_id,
            fingerprint=fingerprint_of(run.workspace, definition),
            mode=mode,
            inputs={name: version.number for name, version in basis.inputs.items()},
            manifest_ids={name: version.manifest_id for name, version in basis.inputs.items()},
            cursor=basis.cursor,
            gaps=basis.gaps,
            flow=commit.flow,
            checks=dict(outcome.checks),
            quarantined=commit.quarantined,
            quarantine_mode=commit.quarantine_mode,
            tombstones=commit.tombstones,
            seconds=time.perf_counter() - begun,
            at=spec.at,
        )
        committed = table.commit(manifest, commit.files, commit.schema or outcome.schema, basis.version, commit.removed)
    run.keep_version(definition.name, committed)
    run.notify(Moment.COMMITTED, definition.name)
    if outcome.states is not None or not outcome.states_fit:
        kept_states.remove_others(run.run_id)
    post_commit(run.workspace, definition, committed, lambda moment: run.notify(moment, definition.name))
    return StepRecord(
        name=definition.name,
        number=0,
        kind=definition.kind,
        layer=definition.layer,
        decision=kind,
        reason=basis.decision.reason,
        strategy=spec.execution_plan.strategy,
        executor=spec.execution_plan.executor,
        version=committed.number,
        total_rows=committed.rows,
        flow=commit.flow,
        checks=check_records(definition, outcome.checks, commit.flow),
    )


def _skipped(definition: StoredDefinition, decision: Decision, version: Version | None) -> StepRecord:
    """Return the record of a step without work."""
    return StepRecord(
        name=definition.name,
        number=0,
        kind=definition.kind,
        layer=definition.layer,
        decision=decision.kind,
        reason=decision.reason,
        version=None if version is None else version.number,
        total_rows=0 if version is None else version.rows,
    )


def _executed(run: RunContext, spec: StepSpec, basis: StepBasis, memory_bytes: int) -> Outcome:
    return execute(
        spec,
        run.workspace.lake,
        run.workspace.settings,
        lambda share, stage: run.notify_progress(spec, share, stage),
        StepLimits(memory_bytes, run.deadline_of(basis.definition)),
    )


def _planned(run: RunContext, spec: StepSpec, basis: StepBasis, outcome: Outcome) -> CommitPlan:
    workspace, decision = run.workspace, basis.decision
    require_same(
        basis.definition, decision, basis.version, schema_of_rows(basis.definition, outcome.schema), may_rebuild=True
    )
    before = basis.version if decision.takes_new else None
    staged = StagedRows(basis.definition, outcome, run.run_id, before)
    if not decision.removed:
        return plan_commit(workspace, staged)
    driving = spec.execution_plan.driving
    files = (*decision.removed, *decision.added)
    return replace_by_key(workspace, staged, driving, replace(spec.scans[driving], files=files))
