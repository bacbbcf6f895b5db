"""`headwater submit`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cluster.cli.cluster import local_cluster, use
from cluster.cli.commands import COMMANDS, load
from cluster.cli.console import err, open_settings, out, print_json
from cluster.cli.options import HERE, Env, Folder
from cluster.jobs import JobRequest, Jobs, address_of, require_startable
from pipeline.core.errors import RequestError, did_you_mean
from pipeline.core.settings import Settings

INTERRUPTED = 130


def submit(
    words: Annotated[
        list[str], typer.Argument(help="The command and its options, for example `run --full`.", metavar="COMMAND...")
    ],
    address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_API_SERVER_ADDRESS",
            help="Address of the cluster's Jobs API: http://HOST:8265 (default: the local cluster).",
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option(help="Show the output of the job until it ends, and exit with its result.")
    ] = False,
    variables: Annotated[
        list[str] | None, typer.Option("--var", help="Environment variable of the job: NAME=VALUE (repeatable).")
    ] = None,
    pip: Annotated[
        Path | None, typer.Option(help="Requirements file to install for the job.", exists=True, dir_okay=False)
    ] = None,
    env: Env = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document; with --wait, the output of the job is in stderr.")
    ] = False,
    folder: Folder = HERE,
) -> None:
    """Submit a command of this project to a Ray cluster, as a job with the project's files."""
    if words[0] not in COMMANDS:
        raise RequestError(f"there is no command {words[0]!r}", do=did_you_mean(words[0], COMMANDS))
    require_usage(words)
    settings = open_settings(folder, env)
    local = None if address else local_cluster(settings)
    if local is not None:
        use(local)
        address = local.jobs
    request = JobRequest(settings, words, _pairs(variables or []), pip)
    request.local_stores(address_of(address))  # an error before the cluster is asked
    jobs = Jobs(address_of(address))
    job_id = jobs.submit(request)
    if not wait:
        if as_json:
            print_json({"job": job_id, "address": jobs.address})
        else:
            out.print(f"submitted {job_id}", soft_wrap=True)
            _print_commands(jobs, job_id, None if local is None else settings)
        return
    _follow(jobs, job_id, None if local is None else settings, as_json=as_json)


def _follow(jobs: Jobs, job_id: str, local: Settings | None, *, as_json: bool) -> None:
    """Show the output of a job until it ends; exit with 1 if it fails, and with 130 after an interrupt."""
    err.print(f"[dim]job {job_id}, dashboard {jobs.address}[/]", soft_wrap=True)
    try:
        status = jobs.follow(job_id, _write_aside if as_json else _write)
    except KeyboardInterrupt:
        _ask(jobs, job_id, local)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        message = jobs.message(job_id)
        print_json({"job": job_id, "address": jobs.address, "status": status, "message": message})
        raise typer.Exit(int(status != "SUCCEEDED"))
    if status != "SUCCEEDED":
        err.print(
            f"[bold red]error:[/] job {job_id} {status.lower()}: {jobs.message(job_id)}", markup=True, soft_wrap=True
        )
        raise typer.Exit(1)


def require_usage(words: Sequence[str]) -> None:
    """Raise a usage error if a command does not have these options and arguments, as the job would."""
    command: Any = load(words[0])
    context = command.make_context(words[0], list(words[1:]))
    if isinstance(command, TyperGroup) and words[1:] and not words[1].startswith("-"):
        name, of_group, rest = command.resolve_command(context, list(words[1:]))
        if of_group is not None:
            of_group.make_context(name, rest, parent=context)


def _ask(jobs: Jobs, job_id: str, local: Settings | None) -> None:
    """Ask whether to stop the job; without a terminal, it continues."""
    if sys.stdin.isatty() and typer.confirm("Stop the job?", default=False, err=True):
        jobs.stop(job_id)
        err.print("stopped; committed tables are kept")
        return
    err.print("the job continues")
    _print_commands(jobs, job_id, local)


def _print_commands(jobs: Jobs, job_id: str, local: Settings | None) -> None:
    """Print Ray's commands for a job; those for the local cluster of a project need its variables."""
    if local is not None:
        where = [] if Path.cwd() == local.root else ["--project", str(local.root)]
        environment = [] if local.env == "dev" else ["--env", local.env]
        command = shlex.join(["headwater", "cluster", "environment", *where, *environment])
        _print_command("before Ray's commands", f'eval "$({command})"')
    _print_command("output", f"ray job logs --address {jobs.address} --follow {job_id}")
    _print_command("status", f"ray job status --address {jobs.address} {job_id}")
    _print_command("stop", f"ray job stop --address {jobs.address} {job_id}")


def _print_command(purpose: str, command: str) -> None:
    err.print(f"{purpose + ':':<22} {command}", style="dim", markup=False, soft_wrap=True)


def _write(lines: str) -> None:
    sys.stdout.write(lines)
    sys.stdout.flush()


def _write_aside(lines: str) -> None:
    sys.stderr.write(lines)


def _pairs(variables: list[str]) -> dict[str, str]:
    pairs = {}
    for text in variables:
        name, is_pair, value = text.partition("=")
        if not is_pair or not name:
            raise RequestError("--var needs NAME=VALUE", got=repr(text))
        pairs[name] = value
    require_startable(pairs)
    return pairs
