"""The options that many commands have."""

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


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for machines.")]
Env = Annotated[str | None, typer.Option("--env", help="The environment of headwater.toml; dev without it.")]
PROJECT = "HEADWATER_PROJECT"
"""The environment variable that says where the project is, for every command."""
Folder = Annotated[
    Path, typer.Option("--project", "-C", envvar=PROJECT, help="The project's folder.", show_default=False)
]
HERE = Path()
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Log what happens; twice: every step.", show_default=False)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Log errors only.")]
Version = Annotated[
    bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
]
LogForm = Annotated[LogFormat, typer.Option("--log-format", help="How log lines are written to standard error.")]
