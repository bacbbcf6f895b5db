"""Sources that are not stored: the tables that use them read their data directly."""

from __future__ import annotations

from pipeline.core.definitions import Feed
from pipeline.core.errors import DefinitionError
from pipeline.governance import StepRecord
from pipeline.project.workspace import Workspace
from pipeline.runner.context import PlannedStep, RunContext
from pipeline.runner.decide import Changing, Decision, DecisionKind, RunOptions
from pipeline.runner.handlers.handler import Description, described


class FeedHandler:
    """See `Handler`."""

    is_step = False

    def plan(self, workspace: Workspace, options: RunOptions, definition: Feed, changing: Changing) -> PlannedStep:
        """Feeds need no step."""
        del workspace, options, changing
        return PlannedStep(
            definition, Decision(DecisionKind.SKIP, "not stored: tables that read it read its data directly")
        )

    def run(self, run: RunContext, definition: Feed) -> StepRecord:
        """Raise `DefinitionError`: a feed has no step."""
        del run
        raise DefinitionError(f"source {definition.name!r} is not stored, so it has no step", place=definition.place)

    def spec(self, workspace: Workspace, definition: Feed) -> None:
        """Feeds have no table."""
        del workspace, definition

    def describe(self, workspace: Workspace, definition: Feed) -> Description:
        """Feeds have no versions."""
        del workspace
        return described(definition)

    def band(self, definition: Feed) -> str:
        """Feeds are in the band of sources."""
        del definition
        return "bronze"
