"""`headwater doctor`: whether this machine and this project are fit to run."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy as sa
import typer
from packaging.requirements import Requirement

from cluster.cli.console import grid, print_json
from cluster.cli.options import HERE, Env, Folder, Json
from cluster.cli.packages import PACKAGE, install_command, problems_of, requirements
from pipeline.batch.ray_address import require_reachable
from pipeline.core import scratch
from pipeline.core.definitions import SourceDefinition
from pipeline.core.errors import HeadwaterError, SettingsError, StorageError, few, quantity
from pipeline.core.findings import Finding, FindingState
from pipeline.core.s3_access import s3_access
from pipeline.core.settings import FILE, Settings, environments
from pipeline.core.settings import load as load_settings
from pipeline.core.sources import Checkable
from pipeline.project.environments import shared_stores
from pipeline.project.forgotten import forgotten_tables
from pipeline.project.project import load
from pipeline.project.workspace import Workspace

_SHOWN_PACKAGES = ("ray", "duckdb", "deltalake", "pyarrow")
_LEAST_FREE_BYTES = 1 << 30
_CONNECT_S = 5.0
_SECRET_FILE = re.compile(r"\$\{file:([^}]+)\}")
_OTHERS = 0o077
"""The permissions of a file for anybody but its owner."""
_SHOWN = 3
OK, NOTE, BAD = FindingState.OK, FindingState.NOTE, FindingState.BAD


def doctor(env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """Check packages, settings, credentials, data files, lake, warehouse, catalog and disk; say what to do about problems."""
    findings = [*_machine(), *_project(folder, env)]
    if as_json:
        print_json(findings)
    else:
        marks = {OK: "✓", NOTE: "·", BAD: "✗"}
        grid(None, ("", "what", "found"), [(marks[f.state], f.what, f.detail) for f in findings])
    if any(f.state == BAD for f in findings):
        raise typer.Exit(1)


def _machine() -> Iterator[Finding]:
    yield Finding("python", OK, f"{platform.python_version()} on {platform.system()}, {os.cpu_count()} cores")
    yield from _packages()
    yield from _until_error("ray cluster", _ray())


def _ray() -> Iterator[Finding]:
    address = os.environ.get("RAY_ADDRESS", "")
    require_reachable(address)
    yield Finding("ray cluster", OK, address or "none given: a local one is started when work is large")


def _packages() -> Iterator[Finding]:
    """Compare the installed packages with those that Headwater and its extras require."""
    required = requirements()
    if required is None:
        yield Finding("packages", NOTE, f"{PACKAGE} is imported from a folder: its requirements are unknown")
        return
    problems = problems_of(required[""])
    shown = ", ".join(f"{name} {version(name)}" for name in _SHOWN_PACKAGES if not problems_of([Requirement(name)]))
    if problems:
        detail = f"{'; '.join(problems)}: {sys.executable} -m pip install --upgrade {PACKAGE}"
        yield Finding("packages", BAD, detail)
    else:
        yield Finding("packages", OK, f"all {len(required[''])} are installed: {shown} and others")
    for extra in sorted(required.keys() - {""}):
        problems = problems_of(required[extra])
        detail = f"{'; '.join(problems)}: {install_command(extra)}" if problems else "installed"
        yield Finding(f"extra {extra}", NOTE if problems else OK, detail)


def _project(folder: Path, env: str | None) -> Iterator[Finding]:
    try:
        project = load(folder, env=env)
    except HeadwaterError as error:
        yield Finding("project", BAD, str(error))
        return
    settings = project.settings
    yield Finding("project", OK, f"{settings.name} ({settings.env}): {len(project.graph.definitions)} definitions")
    try:
        workspace = Workspace(project)
    except HeadwaterError as error:
        yield Finding("stores", BAD, str(error))
        return
    yield from _environments(settings)
    yield from _until_error("credentials", _credentials(settings))
    checks = {"lake": _lake, "catalog": _catalog, "warehouse": _warehouse, "tables": _tables, "old tables": _forgotten}
    for name, check in checks.items():
        yield from _until_error(name, check(workspace))
    yield from _until_error("models", _models(settings))
    yield from _until_error("online store", _online(workspace))
    yield from _until_error("redis", _redis(settings))
    for source in project.graph.definitions:
        if isinstance(source, SourceDefinition) and isinstance(source.reader, Checkable):
            yield from _until_error(f"source {source.name}", _source(source.name, source.reader))
    yield from _temporary()
    free = shutil.disk_usage(settings.root).free
    yield Finding("disk", OK if free > _LEAST_FREE_BYTES else BAD, f"{free / 1e9:,.1f} GB free at {settings.root}")


def _until_error(what: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """Yield findings; an error of Headwater is the last one."""
    try:
        yield from findings
    except HeadwaterError as error:
        yield Finding(what, BAD, str(error))


def _source(name: str, reader: Checkable) -> Iterator[Finding]:
    for finding in reader.check():
        yield Finding(f"source {name}", finding.state, f"{finding.what}: {finding.detail}")


def _environments(own: Settings) -> Iterator[Finding]:
    """Compare where this environment stores data with where each other one does."""
    for env in environments(own.root / FILE):
        if env == own.env:
            continue
        try:
            shared = shared_stores(own, load_settings(own.root / FILE, env=env))
        except HeadwaterError as error:  # a variable that it needs may not be set here
            yield Finding(f"environment {env}", NOTE, f"cannot be compared with {own.env}: {error}")
            continue
        if shared:
            detail = f"has the same {few(shared)} as {own.env}, and each overwrites what the other has written there"
            do = f"give {env} its own in headwater.toml"
            is_lost = "warehouse" in shared and "lake" not in shared  # of one lake, both write the same tables
            yield Finding(f"environment {env}", BAD if is_lost else NOTE, f"{detail}: {do}")


def _credentials(settings: Settings) -> Iterator[Finding]:
    """Say where the credentials of stores come from; no secret is shown."""
    if settings.lake.startswith("s3://"):
        yield Finding("credentials of the lake", *_store_credentials(settings))
    for name in ("catalog", "models"):
        url = str(getattr(settings, name))
        if "@" in url:
            try:
                shown = sa.make_url(url).render_as_string(hide_password=True)
            except (sa.exc.ArgumentError, ValueError) as error:
                raise SettingsError(f"{name!r} is not a URL", do="check it in headwater.toml") from error
            yield Finding(f"credentials of the {name}", OK, shown)
    for path in _SECRET_FILE.findall((settings.root / FILE).read_text(encoding="utf-8")):
        file = settings.root / path
        if file.is_file() and file.stat().st_mode & _OTHERS:
            yield Finding("secret file", NOTE, f"{file} can be read by other users: chmod 600 {file}")


def _store_credentials(settings: Settings) -> tuple[FindingState, str]:
    access = s3_access(settings.storage, os.environ)
    if not access.has_credentials:
        do = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, choose a profile by aws_profile, or give the machine a role"
        return BAD, f"none: {do}"
    where = f"in {access.options['region']}" if "region" in access.options else "without a region"
    return OK, f"access key {_masked(access.options['access_key_id'])} of {access.origin}, {where}"


def _masked(key: str) -> str:
    return f"{key[:4]}…"


def _lake(workspace: Workspace) -> Iterator[Finding]:
    storage, probe = workspace.lake.storage, ".headwater-doctor"
    storage.write_text(probe, "ok")
    storage.read_text(probe)
    storage.names(probe)
    is_exclusive = storage.is_local or not storage.create(probe, b"other")
    storage.remove([probe])
    if is_exclusive:
        yield Finding("lake", OK, f"{workspace.settings.lake} can be read and written")
    else:
        do = "use a store with conditional requests (If-None-Match), such as S3, MinIO, R2, Ceph or SeaweedFS"
        yield Finding("lake", BAD, f"{workspace.settings.lake} overwrites files that must not exist: {do}")


def _forgotten(workspace: Workspace) -> Iterator[Finding]:
    tables = forgotten_tables(workspace)
    for name in dict.fromkeys(table.name for table in tables):
        places = few((table.place for table in tables if table.name == name), _SHOWN)
        detail = f"no definition has this table any more: {places}; remove it with `headwater lake forget {name}`"
        yield Finding(f"table {name}", NOTE, detail)


def _catalog(workspace: Workspace) -> Iterator[Finding]:
    workspace.catalog.runs(limit=1)
    yield Finding("catalog", OK, "can be read")


def _warehouse(workspace: Workspace) -> Iterator[Finding]:
    """Compare the versions of the warehouse with those of the lake."""
    workspace.warehouse.require_writable()
    loaded = workspace.warehouse.loaded()
    behind = []
    for name, (number, _) in loaded.items():
        version = workspace.version(name) if name in workspace.table_names else None
        if version is not None and version.number != number:
            behind.append(f"{name} ({number}, the lake has {version.number})")
    count = quantity(len(loaded), "table")
    yield Finding("warehouse", OK, f"{workspace.settings.warehouse}: {count}")
    if behind:
        yield Finding("warehouse", NOTE, f"older versions of {few(behind, _SHOWN)}: `headwater run` loads the newest")


def _models(settings: Settings) -> Iterator[Finding]:
    """Connect to the model store, if the project has one: a SQLite file is created by the first model."""
    url, http_port = urlsplit(settings.models), {"http": 80, "https": 443}
    path = settings.models.removeprefix("sqlite:///")
    if url.scheme == "sqlite" and not Path(path).is_file():
        yield Finding("models", OK, f"{path} does not exist yet: the first model creates it")
    elif url.scheme in http_port:
        try:
            port = url.port or http_port[url.scheme]
            socket.create_connection((url.hostname or "", port), timeout=_CONNECT_S).close()
        except (OSError, ValueError) as error:
            raise StorageError("the model store cannot be reached", got=str(error), do="check `models`") from error
        yield Finding("models", OK, f"{url.hostname}:{port} accepts connections")
    else:
        try:
            with sa.create_engine(settings.models).connect():
                pass
        except (sa.exc.SQLAlchemyError, ImportError, ValueError) as error:
            text = str(error).partition("\n")[0]
            raise StorageError("the model store cannot be opened", got=text, do="check `models`") from error
        yield Finding("models", OK, "can be opened")


def _online(workspace: Workspace) -> Iterator[Finding]:
    from ml.features.materialization import UP_TO_DATE, statuses  # noqa: PLC0415 - only for features
    from ml.features.view import FeatureView  # noqa: PLC0415 - likewise

    if not any(view.online for view in workspace.project.graph.all_of(FeatureView)):
        return
    views = [each for each in statuses(workspace) if each.state]
    late = [f"{each.view}: {each.state}" for each in views if each.state != UP_TO_DATE]
    if late:
        yield Finding("online store", NOTE, f"{few(late)}; run `headwater features materialize`")
    else:
        yield Finding("online store", OK, f"{quantity(len(views), 'feature view')} up to date")


def _redis(settings: Settings) -> Iterator[Finding]:
    """Check the server by which replicas share."""
    url = settings.serve.redis_url
    if not url:
        return
    from serve.access.shared_server import SharedServer  # noqa: PLC0415 - only for several replicas

    with closing(SharedServer(url, settings.name, b"", timeout_s=_CONNECT_S)) as server:
        policy = server.eviction()
    if settings.online.partition("?")[0].rpartition("/")[0] == url.partition("?")[0].rpartition("/")[0]:
        detail = "is that of the online store too, whose values it must not remove: use another one"
        yield Finding("redis", NOTE, detail)
    elif not policy or policy == "noeviction":
        detail = (
            "answers; set its maxmemory, and maxmemory-policy allkeys-lru, so that responses take no more than that"
        )
        yield Finding("redis", NOTE, detail)
    else:
        yield Finding("redis", OK, f"answers; removes what is not needed by {policy}")


def _tables(workspace: Workspace) -> Iterator[Finding]:
    made = sum(workspace.version(name) is not None for name in workspace.table_names)
    yield Finding("tables", OK, f"{made} of {len(workspace.table_names)} exist and can be read")


def _temporary() -> Iterator[Finding]:
    """Remove the temporary files of processes that have ended, and check that new ones can be written."""
    removed = scratch.reclaim()
    if removed:
        detail = f"{sum(removed.values()) / 1e9:,.1f} GB of {len(removed)} processes that were killed, now removed"
        yield Finding("temporary files", NOTE, detail)
    base = scratch.base()
    try:
        base.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=base) as file:
            file.write(b"ok")
    except OSError as error:
        do = f"set {scratch.VARIABLE} to a folder that can be written to"
        yield Finding("temporary files", BAD, f"{base} cannot be written to: {error.strerror}; {do}")
        return
    yield Finding("temporary files", OK, f"{scratch.in_use() / 1e9:,.1f} GB in use at {base}")
