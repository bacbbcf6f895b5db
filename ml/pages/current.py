"""The version of a table that a page shows: none that another definition has computed, whose columns may be others."""

from __future__ import annotations

from pipeline.core.definitions import Table
from pipeline.lake import Version
from pipeline.project.workspace import Workspace
from pipeline.runner.facts import is_computed_by


def current_version(workspace: Workspace, definition: Table) -> tuple[Version | None, str]:
    """Return the newest version of a table; `None` and why, if there is none that its definition has computed."""
    version = workspace.version(definition.name)
    do = f"headwater run --select {definition.name}"
    if version is None:
        return None, f"It is not computed yet: {do}."
    if version.manifest is not None and not is_computed_by(
        workspace, definition, version, version.manifest.fingerprint
    ):
        return None, f"It was computed by another definition: {do}."
    return version, ""
