"""Sources that are not stored: the tables that read them read their data directly."""

from __future__ import annotations

from pipeline.core.definitions import Feed
from pipeline.core.errors import DefinitionError
from pipeline.governance import StepRecord
from pipeline.project.workspace import Workspace
from pipeline.runner.context import PlannedStep, RunContext
from pipeline.runner.decide import Decision, DecisionKind, RunOptions
from pipeline.runner.handlers.handler import Description, described


class FeedHandler:
    """See `Handler`."""

    is_step = False

    def plan(self, workspace: Workspace, options: RunOptions, definition: Feed, changing: str) -> PlannedStep:
        """There is nothing to do."""
        del workspace, options, changing
        return PlannedStep(
            definition, Decision(DecisionKind.SKIP, "not stored: tables that read it read its data directly")
        )

    def run(self, run: RunContext, definition: Feed) -> StepRecord:
        """Raise `DefinitionError`: a feed has no step."""
        del run
        raise DefinitionError(f"source {definition.name!r} is not stored, so it has no step", place=definition.place)

    def spec(self, workspace: Workspace, definition: Feed) -> None:
        """A feed is not a table."""
        del workspace, definition

    def describe(self, workspace: Workspace, definition: Feed) -> Description:
        """It has no versions."""
        del workspace
        return described(definition)

    def band(self, definition: Feed) -> str:
        """It is drawn where sources are."""
        del definition
        return "bronze"
