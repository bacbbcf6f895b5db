"""Whose log a folder of served predictions is: that of one model in one environment.

Its predictions would otherwise be mixed with those of others: an experiment, a rollout or a monitor would compare them as if they were
of one server.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import fsspec

from pipeline.core.errors import SettingsError
from pipeline.core.format_versions import require_known

FORMAT_VERSION = 1
FILE = "_owner.json"
"""The file beside those of the rows."""


@dataclass(frozen=True)
class LogOwner:
    """The model whose predictions are logged, in an environment of a project."""

    project: str
    environment: str
    model: str
    format_version: int = FORMAT_VERSION

    def require(self, folder: str) -> bool:
        """Return whether the folder is known to be its; raise `SettingsError` if it is that of another. Writes nothing."""
        filesystem, path = fsspec.core.url_to_fs(folder)
        file = f"{path.rstrip('/')}/{FILE}"
        try:
            parts = json.loads(filesystem.cat_file(file))
        except FileNotFoundError:
            return False
        require_known(parts.get("format_version"), FORMAT_VERSION, f"the owner of {folder}", "upgrade Headwater")
        found = LogOwner(**parts)
        if found != self:
            raise SettingsError(
                f"the predictions of model {self.model!r} cannot be logged in {folder}",
                got=f"the log of model {found.model!r} of project {found.project!r}, environment {found.environment!r}, instead of {self.environment!r}",
                do="give each model and environment a folder of its own, for example one with os.environ['HEADWATER_ENV'] in its name; "
                f"if one was renamed, remove {FILE} there",
            )
        return True

    def text(self) -> str:
        """Return the content of the file."""
        return json.dumps(asdict(self), sort_keys=True)
