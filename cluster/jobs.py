"""Jobs on a Ray cluster: submit a command of a project, follow its output, and stop it."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import re
import secrets
import shlex
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipeline.core.definitions import Artifact, StoredDefinition
from pipeline.core.errors import RequestError, UnavailableError
from pipeline.core.settings import NAME, Settings
from pipeline.project.project import Project

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

ADDRESS = "RAY_API_SERVER_ADDRESS"
"""The environment variable with the address of the Jobs API."""
REPORT = "HEADWATER_REPORT"
"""The environment variable with the file of the report, for a job whose stores are in the folder of the project."""
NOT_SENT = (".headwater/", ".git/", ".venv/", "__pycache__/", "*.egg-info/")
"""The files of a project that a job does not need, in the syntax of .gitignore."""
_COPY = "_ray_pkg_"
"""The start of the name of a job's copy of a project, which Ray removes after the job."""
_LOCAL_STORES = {"lake": "HEADWATER_LAKE", "warehouse": "HEADWATER_WAREHOUSE"}
_LOCAL_URLS = {"catalog": "HEADWATER_CATALOG", "models": "HEADWATER_MODELS"}
_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_PATHS = {"${PATH}", "$PATH", "/bin", "/usr/bin"}
"""What a PATH of a job must contain one of. Ray replaces the first two by the PATH of the cluster."""
_POLL_S = 1.0
_AGENT_S = 60.0
"""How long a cluster that has just started may have no agent for jobs."""


@dataclass(frozen=True)
class JobRequest:
    """A command of `headwater` to run as a job in the folder of a project."""

    settings: Settings
    words: Sequence[str]
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the job. They are shown in Ray's dashboard: do not pass passwords."""
    pip: Path | None = None
    """A requirements file to install for the job."""

    def runtime_env(self, address: str) -> dict[str, Any]:
        """Return the job's environment: the files of the project, variables, and packages.

        Raises `RequestError` if a store of the project is in its folder, which a cluster on other machines gets as a copy.
        """
        root, local = self.settings.root, self.local_stores(address)
        env: dict[str, Any] = {"working_dir": str(root), "excludes": [*NOT_SENT, *special_files(root)]}
        env["env_vars"] = {
            "HEADWATER_ENV": self.settings.env,
            NAME: self.settings.name,
            **local,
            **({REPORT: str(report_file(self.settings))} if local else {}),
            **self.variables,
        }
        return env if self.pip is None else {**env, "pip": str(self.pip)}

    def local_stores(self, address: str) -> dict[str, str]:
        """Return the variables with the stores that are in the folder of the project; see `runtime_env`."""
        settings = self.settings
        local = _stores_in(settings, settings.root)
        missing = {variable: place for variable, place in local.items() if variable not in self.variables}
        if missing and not is_loopback(address):
            raise RequestError(
                "stores in the folder of the project cannot be used by a cluster on other machines",
                got=_listed(missing),
                do=f'set them in headwater.toml for the environment {settings.env!r}, for example lake = "s3://bucket/lake"',
            )
        return local


def report_file(settings: Settings) -> Path:
    """Return the file of the report: in the folder of the project, also for a job with the stores there."""
    return Path(os.environ.get(REPORT) or settings.state / "report.html")


def special_files(root: Path) -> list[str]:
    """Return the pipes, sockets and devices in a project, in the syntax of .gitignore. Ray would wait for their content."""
    special = []
    for folder, folders, files in os.walk(root, followlinks=True):  # as Ray does
        folders[:] = [name for name in folders if f"{name}/" not in NOT_SENT]
        paths = [Path(folder, name) for name in files]
        special += [path.relative_to(root) for path in paths if path.exists() and not path.is_file()]
    return ["/" + re.sub(r"([\\*?\[\] ])", r"\\\1", path.as_posix()) for path in special]


def require_startable(variables: Mapping[str, str]) -> None:
    """Raise `RequestError` for variables with which Ray cannot start the process of a job, and waits for it."""
    if "PYTHONHOME" in variables:
        raise RequestError(
            "a job cannot set PYTHONHOME: Python does not start without its own folder",
            got=repr(variables["PYTHONHOME"]),
            do="remove it; PYTHONPATH adds modules",
        )
    path = variables.get("PATH")
    if path is not None and not _PATHS.intersection(path.split(os.pathsep)):
        raise RequestError(
            "a job cannot start with this PATH: Ray starts it with bash, which it does not contain",
            got=repr(path),
            do="append the PATH of the cluster: --var 'PATH=FOLDER:${PATH}'",
        )


def require_kept_stores(project: Project) -> None:
    """Raise `RequestError` if this is a job in Ray's copy of a project, and a store of the project is in that copy.

    The warehouse is a store of projects that load tables into it, and the model store one of projects with models.
    """
    settings, definitions = project.settings, project.graph.definitions
    copy = next((folder for folder in (settings.root, *settings.root.parents) if folder.name.startswith(_COPY)), None)
    if copy is None:
        return
    lost = _stores_in(settings, copy)
    if not any(isinstance(each, StoredDefinition) and each.is_in_warehouse for each in definitions):
        lost.pop("HEADWATER_WAREHOUSE", None)
    if not any(isinstance(each, Artifact) for each in definitions):
        lost.pop("HEADWATER_MODELS", None)
    if lost:
        raise RequestError(
            "this job runs in a temporary copy of the project, and its stores would be removed with the copy",
            got=_listed(lost),
            do=f'set shared storage in headwater.toml for the environment {settings.env!r}, for example lake = "s3://bucket/lake", '
            "or submit the command with `headwater submit`, which uses the stores of the project on a cluster of this machine",
        )


def _stores_in(settings: Settings, folder: Path) -> dict[str, str]:
    """Return the stores in a folder, by the variables that set them."""
    inside = f"{folder}{os.sep}"
    stores = {v: getattr(settings, key) for key, v in _LOCAL_STORES.items()}
    urls = {v: getattr(settings, key) for key, v in _LOCAL_URLS.items()}
    local = {v: place for v, place in stores.items() if str(place).startswith(inside)}
    return local | {v: url for v, url in urls.items() if url.startswith(f"sqlite:///{inside}")}


def _listed(stores: Mapping[str, str]) -> str:
    """Return stores as they are written in the settings."""
    return ", ".join(f"{v.removeprefix('HEADWATER_').lower()} = {place}" for v, place in stores.items())


def address_of(address: str | None) -> str:
    """Return the address of the Jobs API: the given one, or that of the environment."""
    address = address or os.environ.get(ADDRESS) or ""
    if not address.startswith(("http://", "https://")) or not _has_host(address):
        raise RequestError(
            "the address of the cluster is not known" if not address else "not an address of the Jobs API",
            got=address or None,
            do=f"pass --address http://HOST:8265, or set {ADDRESS}",
        )
    return address.rstrip("/")


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number, or an unclosed bracket
        return False


def is_loopback(address: str) -> bool:
    """Return whether an address is of this machine."""
    host = urlsplit(address).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def brief(message: str) -> str:
    """Return the first line of a message of Ray and, if a traceback follows, the error at its end."""
    lines = [line.strip() for line in message.splitlines() if line.strip()] or [""]
    first, has_output, _ = lines[0].partition(", last available logs")
    return first if has_output or len(lines) == 1 else f"{first} {lines[-1]}"


def refused_token(address: str) -> RequestError:
    """Return the error of a cluster that requires another token."""
    return RequestError(
        f"the cluster {address} did not accept the token",
        do="set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the token of the cluster if it is not in ~/.ray/auth_token",
    )


def _too_large(runtime_env: Mapping[str, Any]) -> RequestError:
    """Return the error of a project that exceeds what a cluster accepts, with its largest files."""
    from ray._private.runtime_env.packaging import create_package  # noqa: PLC0415 - importing Ray takes seconds

    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "package.zip"
        has_gitignore = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
        create_package(
            runtime_env["working_dir"], package, include_gitignore=has_gitignore, excludes=runtime_env["excludes"]
        )
        size = package.stat().st_size
        with zipfile.ZipFile(package) as files:
            largest = sorted(files.infolist(), key=lambda file: file.file_size, reverse=True)[:3]
    return RequestError(
        "the files of the project are too large for the cluster, whose limit is 100 MiB unless it is configured",
        got=f"{size / 1e6:,.1f} MB, with {', '.join(f'{f.filename} ({f.file_size / 1e6:,.1f} MB)' for f in largest)}",
        do="exclude files with a .rayignore, in the syntax of .gitignore, and read inputs from shared storage",
    )


class Jobs:
    """The jobs of a cluster."""

    def __init__(self, address: str) -> None:
        """Connect to the Jobs API.

        Raises `UnavailableError` if it does not answer, and `RequestError` if it requires a token.
        """
        from ray.exceptions import AuthenticationError  # noqa: PLC0415 - importing Ray takes seconds
        from ray.job_submission import JobSubmissionClient  # noqa: PLC0415 - likewise

        self.address = address
        try:
            self._client: JobSubmissionClient = JobSubmissionClient(address)
            for name in _LOGGERS:  # Ray sets the level of each of them when it is imported
                logging.getLogger(name).setLevel(logging.ERROR)
        except AuthenticationError as error:
            raise refused_token(address) from error
        except (ConnectionError, OSError, RuntimeError) as error:
            raise UnavailableError(
                f"the cluster {address} cannot be reached",
                got=str(error).partition("\n")[0],
                do="start it, or check --address",
            ) from error

    def submit(self, request: JobRequest) -> str:
        """Submit a job and return its id, which contains the name of the project and of the command.

        Raises `UnavailableError` if the cluster does not accept the job, and `RequestError` if the project is too large.
        """
        name = f"{request.settings.name}-{request.words[0]}"
        job_id = f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        until = time.monotonic() + _AGENT_S
        runtime_env = request.runtime_env(self.address)
        while True:
            try:
                return self._client.submit_job(
                    entrypoint=shlex.join(["headwater", *request.words]),
                    submission_id=job_id,
                    runtime_env=runtime_env,
                    metadata={"job_name": name, "project": request.settings.name, "env": request.settings.env},
                )
            except (ConnectionError, RuntimeError) as error:
                if "status code 413" in str(error):
                    raise _too_large(runtime_env) from error
                if "No available agent" not in str(error) or time.monotonic() > until:
                    reason = str(error).partition("\n")[0]
                    raise UnavailableError(f"the cluster {self.address} did not accept the job", got=reason) from error
                time.sleep(_POLL_S)

    def follow(self, job_id: str, write: Callable[[str], None]) -> str:
        """Write the output of a job until it ends, and return its status: SUCCEEDED, FAILED or STOPPED.

        Raises `UnavailableError` if the connection to the cluster is lost.
        """
        asyncio.run(self._tail(job_id, write))
        while True:
            try:
                status = self._client.get_job_status(job_id)
            except (ConnectionError, OSError, RuntimeError) as error:
                raise self._lost(job_id, error) from error
            if status.is_terminal():
                return status.value
            time.sleep(_POLL_S)

    async def _tail(self, job_id: str, write: Callable[[str], None]) -> None:
        try:
            async for lines in self._client.tail_job_logs(job_id):
                write(lines)
        except (ConnectionError, OSError, RuntimeError) as error:
            raise self._lost(job_id, error) from error

    def stop(self, job_id: str) -> None:
        """Stop a job; committed tables are kept."""
        try:
            self._client.stop_job(job_id)
        except (ConnectionError, OSError, RuntimeError) as error:
            raise self._lost(job_id, error) from error

    def message(self, job_id: str) -> str:
        """Return what Ray says about a job that ended, without its output, which `follow` writes, and without a traceback."""
        return brief(self._client.get_job_info(job_id).message or "")

    def _lost(self, job_id: str, error: Exception) -> UnavailableError:
        return UnavailableError(
            f"the connection to the cluster {self.address} was lost while job {job_id!r} was running",
            got=str(error).partition("\n")[0] or type(error).__name__,
            do="submit the command again: what the job has committed is kept, and the rest is computed",
        )
