"""Sources: what is new in them comes to their bronze tables."""

from __future__ import annotations

import secrets
from dataclasses import replace

from pipeline.batch.step import StepSpec
from pipeline.commit.moments import Moment
from pipeline.commit.post_commit import post_commit
from pipeline.core.definitions import Source
from pipeline.core.errors import OrderError
from pipeline.governance import StepRecord
from pipeline.lake import Version
from pipeline.project.contracts import fresh_contract
from pipeline.project.readers import reader_of
from pipeline.project.workspace import Workspace
from pipeline.runner.commit_step import StepBasis, commit_step, skipped
from pipeline.runner.context import PlannedStep, RunContext
from pipeline.runner.contracts import source_contract
from pipeline.runner.decide import Decision, DecisionKind, RunOptions
from pipeline.runner.facts import decide, made_anew, route_of_source

EPOCH_START = "1970-01-01T00:00:00+00:00"
"""When the rows of a trial are ingested."""


class SourceHandler:
    """See `Handler`."""

    is_step = True

    def plan(self, workspace: Workspace, options: RunOptions, definition: Source, changing: str) -> PlannedStep:
        """Decide from what is new since the source's cursor."""
        if changing:
            decision = Decision(DecisionKind.REBUILD, changing)
        else:
            decision = decide(workspace, options, definition, workspace.version(definition.name), {})
        return PlannedStep(definition, decision, route_of_source(workspace, definition, decision.parts))

    def run(self, run: RunContext, definition: Source) -> StepRecord:
        """Read what is new and append it, or read all of it again."""
        version = run.workspace.version(definition.name, lenient=run.options.full)
        if version is not None and not run.options.full:  # what is made anew need not be made good
            post_commit(run.workspace, definition, version)
        decision = decide(run.workspace, run.options, definition, version, {})
        run.tell(Moment.DECIDED, definition.name, decision.kind)
        if decision.kind is DecisionKind.SKIP:
            if version is not None and version.manifest is not None:
                run.made(definition.name, version)
            return skipped(definition, decision, version)
        try:
            return _ingest(run, definition, decision, version)
        except OrderError as error:
            decision = made_anew(run.workspace, definition, version, decision, error.problem)
            return _ingest(run, definition, decision, version)

    def spec(self, workspace: Workspace, definition: Source) -> StepSpec:
        """Return the step that reads all of the source."""
        reader = reader_of(workspace, definition)
        parts = reader.plan(None).parts
        contract = fresh_contract(workspace, definition, parts)
        route = route_of_source(workspace, definition, parts)
        return StepSpec(definition, route, {}, trial_id(), EPOCH_START, parts=parts, reader=reader, schema=contract)

    def lane(self, definition: Source) -> str:
        """A source is drawn in its layer."""
        return definition.layer


def trial_id() -> str:
    """Return the name of a run that commits nothing."""
    return f"trial-{secrets.token_hex(3)}"


def _ingest(run: RunContext, definition: Source, decision: Decision, version: Version | None) -> StepRecord:
    contract = source_contract(run.workspace, definition, version, decision, full=run.options.full)
    notes = dict.fromkeys(column.note for column in contract.columns if column.note)
    decision = replace(decision, reason="; ".join([decision.reason, *notes]))
    spec = StepSpec(
        definition=definition,
        route=route_of_source(run.workspace, definition, decision.parts),
        scans={},
        run_id=run.run_id,
        at=run.at(),
        parts=decision.parts,
        reader=reader_of(run.workspace, definition),
        schema=contract,
        existing=version if decision.kind is DecisionKind.APPEND else None,
        existing_first=decision.is_later,
    )
    return commit_step(run, spec, StepBasis(definition, decision, version, {}))
