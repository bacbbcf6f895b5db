"""Plans a run without executing it."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.core.definitions import Definition
from pipeline.core.errors import HeadwaterError
from pipeline.project.workspace import Workspace
from pipeline.runner.context import PlannedStep
from pipeline.runner.decide import Decision, DecisionKind, RunOptions
from pipeline.runner.handlers import handler_of
from pipeline.runner.schedule import blocked
from pipeline.streaming.planning.streamed import STREAMED, StreamedDefinitions


def plan_run(workspace: Workspace, options: RunOptions) -> tuple[PlannedStep, ...]:
    """Return what a run would do now, in order; nothing is written.

    The decision for a table downstream of one that would change follows from what the run does with that one, because
    its rows are not known yet. A table whose decision fails is shown as failed with the error, and downstream tables as
    skipped.
    """
    chosen = workspace.project.graph.select(options.select)
    changing: dict[str, DecisionKind] = {}
    failed: dict[str, str] = {}
    planned = []
    streamed = StreamedDefinitions(workspace)
    for definition in workspace.project.graph.definitions:
        if definition.name not in chosen:
            continue
        above = blocked(definition.inputs, failed)
        if above is not None:
            step = PlannedStep(definition, Decision(DecisionKind.SKIP, above.reason))
        else:
            step = _planned(workspace, options, definition, streamed, changing)
        if step.decision.kind is DecisionKind.FAIL or above is not None:
            failed[definition.name] = definition.name if above is None else above.failed
        elif step.decision.kind.is_work:
            changing[definition.name] = step.decision.kind
        planned.append(step)
    return tuple(planned)


def _planned(
    workspace: Workspace,
    options: RunOptions,
    definition: Definition,
    streamed: StreamedDefinitions,
    changing: Mapping[str, DecisionKind],
) -> PlannedStep:
    above = {name: changing[name] for name in definition.inputs if name in changing}
    try:
        if definition.name in streamed:
            return PlannedStep(definition, Decision(DecisionKind.STREAMED, STREAMED))
        return handler_of(definition).plan(workspace, options, definition, above)
    except HeadwaterError as error:
        return PlannedStep(definition, Decision(DecisionKind.FAIL, str(error)), error=error)
