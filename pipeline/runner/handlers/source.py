"""Sources: new rows are appended to their bronze tables."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from pipeline.batch.step import StepSpec
from pipeline.commit.column_changes import column_changes
from pipeline.commit.widening import FILE_BYTES, Widening, widen_table
from pipeline.core.definitions import Source
from pipeline.core.errors import WiderTypesError
from pipeline.core.schema import Schema
from pipeline.governance import StepRecord
from pipeline.kernel.pool import Limits
from pipeline.kernel.type_widening import widened
from pipeline.project.contracts import fresh_contract, own_columns
from pipeline.project.readers import reader_of
from pipeline.project.workspace import Workspace
from pipeline.runner.commit_step import StepBasis, commit_step, run_step
from pipeline.runner.context import PlannedStep, RunContext
from pipeline.runner.contracts import source_contract
from pipeline.runner.decide import Decision, DecisionKind, RunOptions, compute_all
from pipeline.runner.facts import decide, source_execution_plan_of
from pipeline.runner.handlers.handler import Description, table_described

EPOCH_START = "1970-01-01T00:00:00+00:00"
"""The ingestion time of rows in a dry run."""


class SourceHandler:
    """See `Handler`."""

    is_step = True

    def plan(self, workspace: Workspace, options: RunOptions, definition: Source, changing: str) -> PlannedStep:
        """Decide based on the objects beyond the source's cursor."""
        version = workspace.version(definition.name)
        if changing:
            decision = compute_all(changing, exists=version is not None)
        else:
            decision = decide(workspace, options, definition, version, {})
        return PlannedStep(
            definition, decision, source_execution_plan_of(workspace, definition, decision.source_splits)
        )

    def run(self, run: RunContext, definition: Source) -> StepRecord:
        """Read and append new data, or read everything again."""
        return run_step(run, definition, {}, _ingest)

    def spec(self, workspace: Workspace, definition: Source) -> StepSpec:
        """Return the step that reads the entire source."""
        reader = reader_of(workspace, definition)
        source_splits = reader.plan(None).splits
        contract = fresh_contract(workspace, definition, source_splits)
        execution_plan = source_execution_plan_of(workspace, definition, source_splits)
        return StepSpec(
            definition,
            execution_plan,
            {},
            trial_id(),
            EPOCH_START,
            source_splits=source_splits,
            reader=reader,
            schema=contract,
        )

    def describe(self, workspace: Workspace, definition: Source) -> Description:
        """Describe the newest version."""
        return table_described(workspace, definition)

    def band(self, definition: Source) -> str:
        """Sources are in the band of their layer."""
        return definition.layer


def trial_id() -> str:
    """Return the name of a run that commits nothing."""
    return f"trial-{secrets.token_hex(3)}"


def _recorded_changes(run: RunContext, basis: StepBasis, before: Schema, after: Schema) -> tuple[str, ...]:
    """Record how the columns of a source change in this step, and return descriptions; a rebuild records nothing."""
    changes = column_changes(run.workspace.project.graph, basis.definition, before, after)
    if changes and basis.decision.takes_new:
        run.workspace.catalog.record_column_changes(run.run_id, run.at(), changes)
    return tuple(map(str, changes)) if basis.decision.takes_new else ()


def _with_notes(decision: Decision, notes: Sequence[str]) -> Decision:
    new = [note for note in notes if note not in decision.reason]
    return replace(decision, reason="; ".join([decision.reason, *new]))


def _ingest(run: RunContext, basis: StepBasis, wider: Mapping[str, str] = MappingProxyType({})) -> StepRecord:
    """Read new data with these wider types of some columns; if they are not wide enough, read it again."""
    definition, version = basis.definition, basis.version
    if not isinstance(definition, Source):
        raise TypeError(type(definition).__name__)
    contract = source_contract(run.workspace, definition, version, basis.decision, full=run.options.full)
    contract = widened(contract, wider)
    notes = tuple(dict.fromkeys(column.note for column in contract.columns if column.note))
    if version is not None:
        notes += _recorded_changes(run, basis, own_columns(version.schema), contract)
    decision = _with_notes(basis.decision, notes)
    spec = StepSpec(
        definition=definition,
        execution_plan=source_execution_plan_of(run.workspace, definition, decision.source_splits),
        scans={},
        run_id=run.run_id,
        at=run.at(),
        source_splits=decision.source_splits,
        reader=reader_of(run.workspace, definition),
        schema=contract,
        existing=version if decision.kind is DecisionKind.APPEND else None,
        existing_first=decision.is_later,
    )
    try:
        return commit_step(run, spec, replace(basis, decision=decision))
    except WiderTypesError as error:
        notes = _recorded_changes(run, basis, contract, widened(contract, error.columns))
        basis = replace(basis, decision=_with_notes(decision, notes))
        if basis.decision.takes_new and version is not None:
            widening = Widening(definition, version, error.columns, run.run_id, run.at())
            with run.memory.reserve(2 * FILE_BYTES) as memory_bytes:
                basis = replace(basis, version=widen_table(run.workspace, widening, Limits(memory_bytes)))
        return _ingest(run, basis, {**wider, **error.columns})
