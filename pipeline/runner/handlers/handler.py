"""What a run needs to know of a kind of definition."""

from __future__ import annotations

from typing import Protocol, TypeVar

from pipeline.batch.step import StepSpec
from pipeline.core.definitions import Definition
from pipeline.governance import StepRecord
from pipeline.project.workspace import Workspace
from pipeline.runner.context import PlannedStep, RunContext
from pipeline.runner.decide import RunOptions

D_contra = TypeVar("D_contra", bound=Definition, contravariant=True)


class Handler(Protocol[D_contra]):
    """One kind of definition: how it is decided, run, described and drawn."""

    is_step: bool
    """Whether a run has a step for it."""

    def plan(self, workspace: Workspace, options: RunOptions, definition: D_contra, changing: str) -> PlannedStep:
        """Decide what a run would do, and change nothing; `changing` names inputs that would change first, if any do."""

    def run(self, run: RunContext, definition: D_contra) -> StepRecord:
        """Do the step of a run and return its record."""

    def spec(self, workspace: Workspace, definition: D_contra) -> StepSpec | None:
        """Return the step that computes it from all of its inputs, as `--full` would; `None` for what is no table."""

    def lane(self, definition: D_contra) -> str:
        """Return the lane of the report in which it is drawn."""
