"""Environments that begin as a clone of another: the same tables at the same versions, and everything apart from then on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from pipeline.core.clock import Clock, now
from pipeline.core.errors import RequestError, StorageError
from pipeline.core.format_versions import require_known
from pipeline.lake import LakeTable
from pipeline.lake.cloning import clone
from pipeline.project.workspace import Workspace

FILE = "_headwater/environment.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Environment:
    """Where an environment comes from: the other environment, the time, and the versions of its tables."""

    base: str
    at: str
    """ISO 8601 in UTC."""
    tables: Mapping[str, int] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def created_from(workspace: Workspace) -> Environment | None:
    """Return where an environment comes from, or `None` if it was not created from another."""
    try:
        parts = json.loads(workspace.lake.storage.read_text(FILE))
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    require_known(parts.get("format_version"), FORMAT_VERSION, f"environment {workspace.settings.env!r}", "upgrade it")
    return Environment(**parts)


def create(
    workspace: Workspace,
    base: Workspace,
    *,
    replace: bool = False,
    cloned: Callable[[str, int], None] = lambda _, __: None,
    clock: Clock = now,
) -> Environment:
    """Clone the tables of another environment, downstream tables first, so that each finds what it has consumed.

    `cloned` is called with the name and the version of each table. With `replace`, tables of the environment are removed
    first; if it is interrupted, the same call completes it.

    Raises `RequestError` if both are one lake, and if the environment has tables already.
    """
    own, theirs = workspace.lake.storage.uri.rstrip("/"), base.lake.storage.uri.rstrip("/")
    if f"{own}/".startswith(f"{theirs}/") or f"{theirs}/".startswith(f"{own}/"):
        raise RequestError(
            "an environment needs a lake of its own", got=own, do="set another `lake` for it in headwater.toml"
        )
    names = workspace.table_names
    present = [name for name in names if any(part.storage.names() for part in _parts(workspace, name))]
    if present and not replace:
        raise RequestError(
            f"environment {workspace.settings.env!r} has tables already",
            got=", ".join(present[:3]),
            do="replace them with --replace, or choose an environment without tables",
        )
    for name in names:
        for part in _parts(workspace, name):
            part.storage.clear()
    tables = {}
    for name in reversed(names):
        for part, other in zip(_parts(workspace, name), _parts(base, name), strict=True):
            version = other.version(lenient=True)
            if version is not None:
                clone(other.storage, version, part.storage)
                if not part.is_quarantine:
                    tables[name] = version.number
                    cloned(name, version.number)
    environment = Environment(base.settings.env, clock().isoformat(), dict(reversed(tables.items())))
    workspace.lake.storage.write_text(FILE, json.dumps(asdict(environment), sort_keys=True))
    return environment


def _parts(workspace: Workspace, name: str) -> tuple[LakeTable, LakeTable]:
    """Return a table and its quarantine."""
    return workspace.table(name), workspace.lake.quarantine(name)
