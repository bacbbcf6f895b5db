"""Environments that begin as a clone of another: the same tables at the same versions, and everything apart from then on."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.core.clock import Clock, now
from pipeline.core.errors import RequestError, StorageError
from pipeline.core.format_versions import require_known
from pipeline.core.settings import Settings
from pipeline.governance import Leases, this_process
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

    Raises `RequestError` if they share a lake, warehouse, catalog or models, and if the environment has tables already;
    `ConflictError` if a stream writes one of the tables to remove. Nothing is changed then.
    """
    require_apart(workspace.settings, base.settings)
    names = workspace.table_names
    present = [name for name in names if any(part.storage.names() for part in _parts(workspace, name))]
    if present and not replace:
        raise RequestError(
            f"environment {workspace.settings.env!r} has tables already",
            got=", ".join(present[:3]),
            do="replace them with --replace, or choose an environment without tables",
        )
    with _no_streams(workspace, present):
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


def require_apart(own: Settings, base: Settings) -> None:
    """Raise `RequestError` if one environment would write what the other has written."""
    shared = shared_stores(own, base)
    if shared:
        *first, last = (f"`{name}`" for name in shared)
        raise RequestError(
            f"environments {own.env!r} and {base.env!r} would overwrite what the other writes",
            got="the same " + ", ".join(f"{name} {_place(name, getattr(own, name))}" for name in shared),
            do=f"set another {' and '.join(filter(None, (', '.join(first), last)))} for {own.env!r} in headwater.toml",
        )


def shared_stores(own: Settings, base: Settings) -> tuple[str, ...]:
    """Return the settings by which two environments store data at the same place."""
    return tuple(name for name in ("lake", "warehouse", "catalog", "models") if _is_shared(name, own, base))


def _is_shared(name: str, own: Settings, base: Settings) -> bool:
    one, other = _place(name, getattr(own, name)), _place(name, getattr(base, name))
    if name != "lake":
        return one == other
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def _place(name: str, value: str) -> str:
    """Return where a setting stores its data: the path without links, or the URL without user, options of access and driver."""
    scheme, separator, rest = value.partition("://")
    scheme = scheme.partition("+")[0]
    if separator and scheme not in {"sqlite", "duckdb", "file"}:
        parts = urlsplit(f"//{rest}")
        options = f"?{parts.query}" if name == "catalog" and parts.query else ""  # they may choose a schema
        return f"{scheme}://{parts.netloc.rpartition('@')[2].lower()}{parts.path.rstrip('/')}{options}"
    path = (rest.removeprefix("/") if scheme == "sqlite" else rest) if separator else value
    return str(Path(path).resolve())


@contextmanager
def _no_streams(workspace: Workspace, names: Collection[str]) -> Iterator[None]:
    """Keep streams of these tables from running; raise `ConflictError` if one runs."""
    leases, me = Leases(workspace.catalog), this_process()
    with ExitStack() as stack:
        for lease in leases.all():
            if lease.name in names:
                leases.acquire(lease.name, me)
                stack.callback(leases.release, lease.name, me, {})
        yield


def _parts(workspace: Workspace, name: str) -> tuple[LakeTable, LakeTable]:
    """Return a table and its quarantine."""
    return workspace.table(name), workspace.lake.quarantine(name)
