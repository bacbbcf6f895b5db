"""The interface between a run and each kind of definition."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from pipeline.batch.step import StepSpec
from pipeline.core.definitions import Definition, StoredDefinition
from pipeline.governance import StepRecord
from pipeline.project.workspace import Workspace
from pipeline.runner.context import PlannedStep, RunContext
from pipeline.runner.decide import Changing, RunOptions

D_contra = TypeVar("D_contra", bound=Definition, contravariant=True)


@dataclass(frozen=True)
class Description:
    """The description of a definition in lists, with the version and row count of its table."""

    name: str
    kind: str
    layer: str = ""
    """Empty for a definition that is not a table."""
    rows: int | None = None
    version: int | None = None
    """`None` if it does not exist yet or has no versions."""
    description: str = ""
    """The first line of the documentation."""
    owner: str = ""
    """Who is responsible for it, with the business unit of a mart."""


def described(definition: Definition) -> Description:
    """Return the description of a definition that is not a table."""
    first_line = definition.description.partition("\n")[0]
    return Description(definition.name, definition.kind, description=first_line, owner=definition.responsible)


def table_described(workspace: Workspace, definition: StoredDefinition) -> Description:
    """Return the description of a table, with its newest version."""
    version = workspace.version(definition.name)
    description = replace(described(definition), layer=definition.layer)
    return description if version is None else replace(description, rows=version.rows, version=version.number)


class Handler(Protocol[D_contra]):
    """One kind of definition: how it is decided, run, described and placed in the report."""

    is_step: bool
    """Whether a run has a step for it."""

    def plan(self, workspace: Workspace, options: RunOptions, definition: D_contra, changing: Changing) -> PlannedStep:
        """Decide what a run would do, without changes; `changing` says what it does before with inputs that change."""

    def run(self, run: RunContext, definition: D_contra) -> StepRecord:
        """Execute the step and return its record."""

    def spec(self, workspace: Workspace, definition: D_contra) -> StepSpec | None:
        """Return the step that recomputes a table from all inputs, as `--full` does; `None` for other definitions."""

    def describe(self, workspace: Workspace, definition: D_contra) -> Description:
        """Return the description of the definition."""

    def band(self, definition: D_contra) -> str:
        """Return the band of the report that shows the definition."""
