"""The inputs for building an artifact, read from the lake."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from pipeline.core.definitions import Artifact, Definition
from pipeline.kernel.scan import Scan
from pipeline.lake import Storage
from pipeline.project.workspace import Workspace

_LONGEST_S = 3600.0


class RunBuildContext:
    """The `BuildContext` of a run: inputs are read on demand."""

    def __init__(self, workspace: Workspace, artifact: Artifact, run_id: str) -> None:
        """Create the context without reading anything."""
        self._workspace = workspace
        self._artifact = artifact
        self._run_id = run_id
        self.versions: dict[str, int] = {}
        """The numbers of the versions whose ids were read, by input."""

    @property
    def store(self) -> str:
        """The URI of the model store."""
        return self._workspace.settings.models

    @property
    def lake(self) -> Storage:
        """The storage of the lake."""
        return self._workspace.lake.storage

    @property
    def run_id(self) -> str:
        """The run that builds it."""
        return self._run_id

    @property
    def state(self) -> Path:
        """The folder for local files that can be recreated."""
        return self._workspace.settings.state

    def definition(self, name: str) -> Definition:
        """Return the definition of an input."""
        return self._workspace.definition(name)

    def table(self, name: str) -> pa.Table:
        """Return all rows of an input."""
        return self._workspace.lake.rows(self._workspace.table(name))

    def scan(self, name: str) -> Scan:
        """Return the files with all rows of an input, of its newest version."""
        return self._workspace.require(name, self._artifact.name).scan()

    def query(self, text: str) -> pa.Table:
        """Return the rows of a SELECT over inputs."""
        return self._workspace.query(text, _LONGEST_S)

    def row_count(self, name: str) -> int:
        """Return the number of rows of an input, without reading them."""
        return self._workspace.require(name, self._artifact.name).rows

    def version(self, name: str) -> int:
        """Return the manifest id of the version that `table` returns; version numbers can recur, ids cannot."""
        version = self._workspace.require(name, self._artifact.name)
        self.versions[name] = version.number
        return version.number if version.manifest_id is None else version.manifest_id
