"""Artifacts, for example models: built from tables, evaluated, and registered if they are good enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pipeline.commit.moments import Moment
from pipeline.core.definitions import Artifact, Verdict
from pipeline.core.staging import RowCounts
from pipeline.governance import StepRecord
from pipeline.lake.holds import Hold, has_hold, place_hold
from pipeline.project.holds import artifact_hold
from pipeline.project.workspace import Workspace
from pipeline.runner.build_context import RunBuildContext
from pipeline.runner.context import PlannedStep, RunContext
from pipeline.runner.decide import Changing, Decision, DecisionKind, RunOptions, compute_all
from pipeline.runner.handlers.handler import Description, described


class ArtifactHandler:
    """See `Handler`."""

    is_step = True

    def plan(self, workspace: Workspace, options: RunOptions, definition: Artifact, changing: Changing) -> PlannedStep:
        """Build if the inputs or the definition changed since the last verdict."""
        if changing:
            words = f"{', '.join(map(repr, changing))} would change"
            reason = f"{definition.decides}: {words}" if definition.decides else words
            return PlannedStep(definition, _build_decision(workspace, definition, reason))
        verdict = None if options.full else definition.verdict(RunBuildContext(workspace, definition, ""))
        if verdict is None:
            return PlannedStep(
                definition, _build_decision(workspace, definition, definition.decides or "not evaluated yet")
            )
        reason = verdict.reason if verdict.accepted else still_refused(verdict)
        return PlannedStep(definition, Decision(DecisionKind.SKIP, reason))

    def run(self, run: RunContext, definition: Artifact) -> StepRecord:
        """Build, with the entire memory budget: training libraries have no memory limit."""
        with run.memory.reserve(None):
            return _build(run, definition)

    def spec(self, workspace: Workspace, definition: Artifact) -> None:
        """Artifacts have no table."""
        del workspace, definition

    def describe(self, workspace: Workspace, definition: Artifact) -> Description:
        """Artifacts have no versions."""
        del workspace
        return described(definition)

    def band(self, definition: Artifact) -> str:
        """Artifacts are in the band of models."""
        del definition
        return "model"


def still_refused(verdict: Verdict) -> str:
    """Return why a refused artifact is not built again."""
    return (
        f"{verdict.reason}; refused before, and nothing has changed: change its inputs or its definition, or use --full"
    )


def _build_decision(workspace: Workspace, definition: Artifact, reason: str) -> Decision:
    return compute_all(reason, exists=workspace.catalog.last_step(definition.name) is not None)


def _hold_inputs(workspace: Workspace, definition: Artifact, verdict: Verdict, versions: Mapping[str, int]) -> None:
    """Hold the versions that a registered artifact was built from, so that it can be built and examined again.

    Versions that are held already stay as they are: those of now have the same rows, but may be others.
    """
    if not verdict.version:
        return
    reason = f"{definition.kind} {definition.name} {verdict.version}"
    for name, number in versions.items():
        storage = workspace.table(name).storage
        hold = Hold(artifact_hold(definition.name, verdict.version), number, reason)
        if not has_hold(storage, hold.id):
            place_hold(storage, hold)


def _build(run: RunContext, definition: Artifact) -> StepRecord:
    context = RunBuildContext(run.workspace, definition, run.run_id)
    verdict = None if run.options.full else definition.verdict(context)
    run.notify(Moment.DECIDED, definition.name, "build" if verdict is None else DecisionKind.SKIP)
    step = StepRecord(definition.name, 0, definition.kind, "", DecisionKind.SKIP, "up to date")
    if verdict is not None:
        _hold_inputs(run.workspace, definition, verdict, context.versions)  # the run that built it may have been killed
        refused = replace(step, decision="refused", reason=still_refused(verdict), verdict=verdict)
        return replace(step, reason=verdict.reason) if verdict.accepted else refused
    verdict = definition.build(context)
    _hold_inputs(run.workspace, definition, verdict, context.versions)
    run.notify(Moment.COMMITTED, definition.name)
    decision = "accepted" if verdict.accepted else "refused"
    counts = RowCounts(rows_in=verdict.rows)
    return replace(step, decision=decision, reason=verdict.reason, flow=counts, verdict=verdict)
