"""`headwater export`: a table as a file for another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.console import err, open_workspace, out, text
from cluster.cli.options import HERE, At, Env, Folder


def export(
    name: Annotated[str, typer.Argument(help="Name of a table.")],
    hyper: Annotated[Path, typer.Option(help="The folder for an extract of Tableau, a .hyper file.")],
    at: At = None,
    env: Env = None,
    folder: Folder = HERE,
) -> None:
    """Write a table to a file for another program, and print its path: an extract of Tableau. A version is written once."""
    from serve.hyper_files import export_hyper  # noqa: PLC0415 - not needed by other commands

    workspace = open_workspace(folder, env)
    workspace.stored(name)
    as_of = workspace.as_of(at)
    version = workspace.require(name, as_of=as_of)
    path, is_new = export_hyper(workspace.lake.storage, name, version, hyper)
    out.print(text(str(path)), soft_wrap=True)
    if not is_new:
        err.print(f"[dim]version {version.number} of {text(name)} was exported before[/]")
