"""The options that many commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for machines.")]
Env = Annotated[str | None, typer.Option("--env", help="The environment of headwater.toml; dev without it.")]
PROJECT = "HEADWATER_PROJECT"
"""The environment variable that says where the project is, for every command."""
Folder = Annotated[
    Path, typer.Option("--project", "-C", envvar=PROJECT, help="The project's folder.", show_default=False)
]
HERE = Path()
