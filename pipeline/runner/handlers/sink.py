"""Sinks, which receive the changes of their tables."""

from __future__ import annotations

from dataclasses import replace

from pipeline.commit.moments import Moment
from pipeline.commit.sink_delivery import send
from pipeline.core.sinks import Sink
from pipeline.core.staging import RowCounts
from pipeline.governance import StepRecord
from pipeline.project.workspace import Workspace
from pipeline.runner.context import PlannedStep, RunContext
from pipeline.runner.decide import Changing, Decision, DecisionKind, RunOptions
from pipeline.runner.handlers.handler import Description, described


class SinkHandler:
    """See `Handler`."""

    is_step = True

    def plan(self, workspace: Workspace, options: RunOptions, definition: Sink, changing: Changing) -> PlannedStep:
        """The changes are known only after the table is computed."""
        del workspace, options, changing
        return PlannedStep(definition, Decision(DecisionKind.SKIP, "delivers the changes of its table"))

    def run(self, run: RunContext, definition: Sink) -> StepRecord:
        """Deliver the changes up to the newest version of the table, unless a stream does."""
        step = StepRecord(definition.name, 0, definition.kind, "", DecisionKind.SKIP, "up to date")
        if definition.table in run.streamed:
            return replace(step, reason="delivered by `headwater stream`")
        run.notify(Moment.DECIDED, definition.name, "send")
        sent = send(run.workspace, definition)
        if sent is None:
            return step
        words = f"{definition.description}, version {sent.to.version} of {definition.table}"
        counts = RowCounts(rows_in=sent.rows + sent.removed, rows_made=sent.rows, rows_out=sent.rows)
        return replace(step, decision="sent", reason=words, version=sent.to.version, flow=counts)

    def spec(self, workspace: Workspace, definition: Sink) -> None:
        """Sinks have no table."""
        del workspace, definition

    def describe(self, workspace: Workspace, definition: Sink) -> Description:
        """Sinks have no versions."""
        del workspace
        return described(definition)

    def band(self, definition: Sink) -> str:
        """Sinks have their own band."""
        del definition
        return "sink"
