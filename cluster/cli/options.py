"""Options shared by several commands."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.logs import LogFormat


def print_version(wanted: bool) -> None:
    """Print the version of Headwater and of Python, and exit."""
    if wanted:
        typer.echo(f"headwater {version('headwater')} (Python {platform.python_version()})")
        raise typer.Exit


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Execute = Annotated[bool, typer.Option("--yes", "-y", help="Do it; without this option, only show what would be done.")]
Env = Annotated[str | None, typer.Option("--env", help="Environment of headwater.toml (default: dev).")]
At = Annotated[
    list[str] | None,
    typer.Option(
        "--at",
        help="Read older versions: of a time (ISO 8601, UTC), of a duration ago (-2h), or TABLE=VERSION; repeatable.",
        show_default=False,
    ),
]
PROJECT = "HEADWATER_PROJECT"
"""The environment variable with the project's folder, for every command."""
Folder = Annotated[
    Path, typer.Option("--project", "-C", envvar=PROJECT, help="Folder of the project.", show_default=False)
]
HERE = Path()
Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, help="Log info messages; twice: debug messages.", show_default=False),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Log only errors.")]
Version = Annotated[
    bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
]
LogForm = Annotated[LogFormat, typer.Option("--log-format", help="Format of log lines on standard error.")]
