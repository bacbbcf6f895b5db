"""Artifacts, for example models: built from tables, evaluated, and registered if they are good enough."""

from __future__ import annotations

from dataclasses import replace

from pipeline.commit.moments import Moment
from pipeline.core.definitions import Artifact, Verdict
from pipeline.core.staging import RowCounts
from pipeline.governance import StepRecord
from pipeline.project.workspace import Workspace
from pipeline.runner.build_context import RunBuildContext
from pipeline.runner.context import PlannedStep, RunContext
from pipeline.runner.decide import Decision, DecisionKind, RunOptions, compute_all
from pipeline.runner.handlers.handler import Description, described


class ArtifactHandler:
    """See `Handler`."""

    is_step = True

    def plan(self, workspace: Workspace, options: RunOptions, definition: Artifact, changing: str) -> PlannedStep:
        """It is built again if its inputs or its definition changed since its last verdict."""
        if changing:
            return PlannedStep(definition, _build_decision(workspace, definition, changing))
        verdict = None if options.full else definition.verdict(RunBuildContext(workspace, definition, ""))
        if verdict is None:
            return PlannedStep(definition, _build_decision(workspace, definition, "not judged yet"))
        reason = "up to date" if verdict.accepted else still_refused(verdict)
        return PlannedStep(definition, Decision(DecisionKind.SKIP, reason))

    def run(self, run: RunContext, definition: Artifact) -> StepRecord:
        """Build it with all memory: libraries that train models have no memory limit."""
        with run.memory.reserve(None):
            return _build(run, definition)

    def spec(self, workspace: Workspace, definition: Artifact) -> None:
        """An artifact is not a table."""
        del workspace, definition

    def describe(self, workspace: Workspace, definition: Artifact) -> Description:
        """It has no versions."""
        del workspace
        return described(definition)

    def band(self, definition: Artifact) -> str:
        """It is drawn as a model."""
        del definition
        return "model"


def still_refused(verdict: Verdict) -> str:
    """Return the reason why a refused artifact is not built again."""
    return (
        f"{verdict.reason}; refused before, and nothing has changed: change its inputs or its definition, or use --full"
    )


def _build_decision(workspace: Workspace, definition: Artifact, reason: str) -> Decision:
    return compute_all(reason, exists=workspace.catalog.last_step(definition.name) is not None)


def _build(run: RunContext, definition: Artifact) -> StepRecord:
    context = RunBuildContext(run.workspace, definition, run.run_id)
    verdict = None if run.options.full else definition.verdict(context)
    run.notify(Moment.DECIDED, definition.name, "build" if verdict is None else DecisionKind.SKIP)
    step = StepRecord(definition.name, 0, definition.kind, "", DecisionKind.SKIP, "up to date")
    if verdict is not None:
        refused = replace(step, decision="refused", reason=still_refused(verdict), verdict=verdict)
        return step if verdict.accepted else refused
    verdict = definition.build(context)
    run.notify(Moment.COMMITTED, definition.name)
    decision = "accepted" if verdict.accepted else "refused"
    counts = RowCounts(rows_in=verdict.rows)
    return replace(step, decision=decision, reason=verdict.reason, flow=counts, verdict=verdict)
