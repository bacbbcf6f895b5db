"""Sources: new rows are appended to their bronze tables."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.batch.step import StepSpec
from pipeline.commit.column_changes import column_changes
from pipeline.commit.widening import Widening, widen_table
from pipeline.core.definitions import Source
from pipeline.core.errors import WiderTypesError
from pipeline.core.schema import Schema
from pipeline.governance import ColumnChange, StepRecord
from pipeline.kernel.pool import Limits
from pipeline.kernel.type_widening import widened
from pipeline.project.contracts import fresh_contract, own_columns
from pipeline.project.readers import reader_of
from pipeline.project.workspace import Workspace
from pipeline.runner.commit_step import StepBasis, commit_step, run_step
from pipeline.runner.context import PlannedStep, RunContext
from pipeline.runner.contracts import source_contract
from pipeline.runner.decide import Changing, Decision, DecisionKind, RunOptions
from pipeline.runner.facts import decide, source_execution_plan_of
from pipeline.runner.handlers.handler import Description, table_described

EPOCH_START = "1970-01-01T00:00:00+00:00"
"""The ingestion time of rows in a dry run."""


class SourceHandler:
    """See `Handler`."""

    is_step = True

    def plan(self, workspace: Workspace, options: RunOptions, definition: Source, changing: Changing) -> PlannedStep:
        """Decide based on the objects beyond the source's cursor."""
        del changing  # a source has no inputs
        decision = decide(workspace, options, definition, workspace.version(definition.name), {})
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


def _with_notes(decision: Decision, notes: Sequence[str]) -> Decision:
    new = [note for note in notes if note not in decision.reason]
    return replace(decision, reason="; ".join([decision.reason, *new]))


@dataclass(frozen=True)
class _NewColumns:
    """The contract of a step that reads new data, and how it differs from the columns of the table."""

    contract: Schema
    wider: Mapping[str, str] = field(default_factory=dict)
    """The columns whose types are wider now, with these types."""
    changes: Sequence[ColumnChange] = ()
    """The changes to record; none if the table is computed from all data."""

    def apply(self, run: RunContext, basis: StepBasis, memory_bytes: int) -> StepBasis:
        """Record the changes and widen the table, when the new rows are staged and found valid; nothing can reject them then."""
        if self.changes:
            run.workspace.catalog.record_column_changes(run.run_id, run.at(), self.changes)
        if not self.wider or not basis.decision.takes_new or basis.version is None:
            return basis
        widening = Widening(basis.definition, basis.version, self.wider, run.run_id, run.at())
        return replace(basis, version=widen_table(run.workspace, widening, Limits(memory_bytes)))


def _ingest(run: RunContext, basis: StepBasis) -> StepRecord:
    """Read new data; if its values need wider types, read it again with these, until they are wide enough."""
    definition, version = basis.definition, basis.version
    if not isinstance(definition, Source):
        raise TypeError(type(definition).__name__)
    contract = source_contract(run.workspace, definition, version, basis.decision, full=run.options.full)
    wider: dict[str, str] = {}
    while True:
        changes: Sequence[ColumnChange] = ()
        if version is not None and basis.decision.takes_new:
            changes = column_changes(run.workspace.project.graph, definition, own_columns(version.schema), contract)
        try:
            return _ingest_as(run, basis, definition, _NewColumns(contract, wider, changes))
        except WiderTypesError as error:
            contract, wider = widened(contract, error.columns), {**wider, **error.columns}


def _ingest_as(run: RunContext, basis: StepBasis, definition: Source, new: _NewColumns) -> StepRecord:
    """Read new data by a contract, and commit it; raise `WiderTypesError` if values need wider types."""
    version, contract = basis.version, new.contract
    notes = tuple(dict.fromkeys(column.note for column in contract.columns if column.note))
    decision = _with_notes(basis.decision, (*notes, *map(str, new.changes)))
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
    return commit_step(run, spec, replace(basis, decision=decision), new.apply)
