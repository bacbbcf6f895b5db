"""Tables, dimensions, facts, marts, feature views and training sets: computed from the lake, or from sources that are not stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pipeline.batch.kept_states import KeptStates
from pipeline.batch.planning import strategy
from pipeline.batch.step import Refresh, StepSpec
from pipeline.commit.commit_plan import definition_to_validate
from pipeline.core.definitions import Table
from pipeline.core.errors import OrderError
from pipeline.governance import StepRecord
from pipeline.kernel.scan import Scan
from pipeline.lake import Version
from pipeline.project.contracts import feed_contract
from pipeline.project.readers import reader_of
from pipeline.project.workspace import Workspace
from pipeline.runner.commit_step import StepBasis, commit_step, run_step
from pipeline.runner.context import PlannedStep, RunContext
from pipeline.runner.decide import Changing, DecisionKind, RunOptions
from pipeline.runner.facts import (
    execution_plan_of,
    feed_of,
    is_computed_by,
    keeps_rows,
    refresh_plan,
    scans_of,
    stored_inputs,
)
from pipeline.runner.handlers.handler import Description, table_described
from pipeline.runner.handlers.source import EPOCH_START, trial_id
from pipeline.runner.predict import predict
from pipeline.warehouse.modelling.dimension import DimensionTransform


class TableHandler:
    """See `Handler`."""

    is_step = True

    def plan(self, workspace: Workspace, options: RunOptions, definition: Table, changing: Changing) -> PlannedStep:
        """Decide based on the versions of the inputs, and on what a run does with inputs that change before."""
        known = {name: workspace.version(name) for name in stored_inputs(workspace, definition)}
        inputs = {name: version for name, version in known.items() if version is not None}
        scans = scans_of(workspace, definition, inputs)
        decision = predict(workspace, options, definition, inputs, changing)
        return PlannedStep(
            definition, decision, execution_plan_of(workspace, definition, scans, decision.source_splits)
        )

    def run(self, run: RunContext, definition: Table) -> StepRecord:
        """Append or merge new rows, or recompute the table."""
        names = stored_inputs(run.workspace, definition)
        return run_step(run, definition, {name: run.version(name, definition.name) for name in names}, _compute)

    def spec(self, workspace: Workspace, definition: Table) -> StepSpec:
        """Return the step that recomputes the table from all inputs."""
        feed = feed_of(workspace, definition)
        reader = None if feed is None else reader_of(workspace, feed)
        source_splits = () if reader is None else reader.plan(None).splits
        names = stored_inputs(workspace, definition)
        scans = scans_of(workspace, definition, {name: workspace.require(name, definition.name) for name in names})
        execution_plan = execution_plan_of(workspace, definition, scans, source_splits)
        schema = None if feed is None else feed_contract(workspace, feed, source_splits)
        return StepSpec(
            workspace.with_artifacts(definition),
            execution_plan,
            scans,
            trial_id(),
            EPOCH_START,
            source_splits=source_splits,
            reader=reader,
            schema=schema,
            feed=feed,
        )

    def describe(self, workspace: Workspace, definition: Table) -> Description:
        """Describe the newest version."""
        return table_described(workspace, definition)

    def band(self, definition: Table) -> str:
        """Tables are in the band of their layer."""
        return definition.layer


def _compute(run: RunContext, basis: StepBasis) -> StepRecord:
    definition, decision, version = basis.definition, basis.decision, basis.version
    if not isinstance(definition, Table):
        raise TypeError(type(definition).__name__)
    workspace = run.workspace
    scans = scans_of(workspace, definition, basis.inputs)
    feed = feed_of(workspace, definition)
    if decision.kind is DecisionKind.REFRESH:
        return _refresh(run, basis, scans)
    if decision.takes_new and feed is None:
        driving = execution_plan_of(workspace, definition, scans).driving
        scans[driving] = replace(scans[driving], files=decision.added)
    computed, scans = _with_last_version(run, workspace.with_artifacts(definition), version, scans)
    spec = StepSpec(
        definition=definition_to_validate(computed),
        execution_plan=execution_plan_of(workspace, definition, scans, decision.source_splits),
        scans=scans,
        run_id=run.run_id,
        at=run.at(),
        source_splits=decision.source_splits,
        reader=None if feed is None else reader_of(workspace, feed),
        schema=None if feed is None else feed_contract(workspace, feed, decision.source_splits),
        feed=feed,
        existing=version if decision.kind is DecisionKind.APPEND else None,
        existing_first=decision.is_later,
        states_fit=not _exceeded_limit(run, definition, version),
    )
    return commit_step(run, replace(spec, shared=run.shared_reads.read(run, spec)), basis)


def _exceeded_limit(run: RunContext, definition: Table, version: Version | None) -> bool:
    """Return whether the aggregate states of the last version exceeded the limit; with `--full`, they are tried again."""
    if version is None or version.manifest is None or run.options.full or strategy(definition).strategy != "partial":
        return False
    if not is_computed_by(run.workspace, definition, version, version.manifest.fingerprint):
        return False
    return KeptStates.of(run.workspace.table(definition.name).storage).exceed_limit(version.manifest.run_id)


def _refresh(run: RunContext, basis: StepBasis, scans: Mapping[str, Scan]) -> StepRecord:
    """Add the new rows of the driving input to the aggregate states of the existing ones.

    Raises `OrderError` if that is not possible any more, so that the table is computed from all rows.
    """
    definition, version, added = basis.definition, basis.version, basis.decision.added
    if not isinstance(definition, Table) or version is None or version.manifest is None:
        raise TypeError(definition.name)
    plan = refresh_plan(run.workspace, definition, scans, added)
    states = KeptStates.of(run.workspace.table(definition.name).storage).read(version.manifest.run_id)
    if plan is None or states is None:
        raise OrderError("the aggregates of the last version cannot be used")
    spec = StepSpec(
        definition_to_validate(definition), plan, scans, run.run_id, run.at(), refresh=Refresh(states, added)
    )
    return commit_step(run, spec, basis)


def _with_last_version(
    run: RunContext, definition: Table, version: Version | None, scans: Mapping[str, Scan]
) -> tuple[Table, dict[str, Scan]]:
    """Let a dimension read its own last version, unless its inputs still contain all history."""
    transform = definition.transform
    if not isinstance(transform, DimensionTransform) or not definition.remembers:
        return definition, dict(scans)
    inputs_keep_rows = all(keeps_rows(run.workspace, name) for name in definition.inputs)
    if version is None or run.options.full or inputs_keep_rows:
        return replace(definition, transform=transform.first()), dict(scans)
    return definition, {**scans, definition.name: version.scan()}
