"""What an artifact is built on, read from the lake."""

from __future__ import annotations

import pyarrow as pa

from pipeline.core.definitions import Artifact, Definition
from pipeline.project.workspace import Workspace


class RunBuildContext:
    """The `Bench` of a run: inputs are read when they are asked for."""

    def __init__(self, workspace: Workspace, artifact: Artifact, run_id: str) -> None:
        """Keep what it reads from."""
        self._workspace = workspace
        self._artifact = artifact
        self._run_id = run_id

    @property
    def store(self) -> str:
        """The URI of the model store."""
        return self._workspace.settings.models

    @property
    def run_id(self) -> str:
        """The run that builds it."""
        return self._run_id

    def definition(self, name: str) -> Definition:
        """Return the definition of an input."""
        return self._workspace.definition(name)

    def table(self, name: str) -> pa.Table:
        """Return all rows of an input."""
        return self._workspace.lake.rows(self._workspace.table(name))

    def version(self, name: str) -> int:
        """Return the mark of the version of an input that `table` returns: its number may come again, it may not."""
        version = self._workspace.require(name, self._artifact.name)
        return version.number if version.manifest_id is None else version.manifest_id
