"""`headwater env`: environments of a project, and clones of them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from typing import Annotated

import typer

from cluster.cli.console import err, grid, open_workspace, out, print_json
from cluster.cli.leasing import leased
from cluster.cli.options import HERE, Execute, Folder, Json
from pipeline.core.errors import HeadwaterError, quantity
from pipeline.core.settings import environments, find
from pipeline.project.environments import create, created_from
from pipeline.reprocessing.promotion import plan_promotion, promote

app = typer.Typer(
    help="List environments, create one as a clone of another, and promote what was built in it.", no_args_is_help=True
)


@app.command("ls")
def list_(as_json: Json = False, folder: Folder = HERE) -> None:
    """List the environments, with their lakes and where they come from."""
    rows = [_facts(name, folder) for name in environments(find(folder))]
    if as_json:
        print_json(rows)
        return
    grid(None, ("environment", "lake", "created from", "at (UTC)", "tables"), [tuple(row.values()) for row in rows])


@app.command("create")
def create_(
    name: Annotated[str, typer.Argument(help="An environment of headwater.toml.")],
    base: Annotated[str, typer.Option("--from", help="The environment whose tables it gets.")],
    replace: Annotated[bool, typer.Option("--replace", help="Remove the tables of the environment first.")] = False,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Clone the tables of an environment into another one, which is independent from then on."""
    with err.status(f"cloning {base}"):
        environment = create(open_workspace(folder, name), open_workspace(folder, base), replace=replace)
    if as_json:
        print_json(asdict(environment))
        return
    for table, version in environment.tables.items():
        out.print(f"{table}  version {version}", highlight=False)
    out.print(f"{name} has {quantity(len(environment.tables), 'table')} of {base}", highlight=False)


@app.command("promote")
def promote_(
    name: Annotated[str, typer.Argument(help="The environment in which tables were built.")],
    to: Annotated[str, typer.Option("--to", help="The environment that gets them.")],
    yes: Execute = False,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Take over tables that another environment has built by changed definitions, without computing them again."""
    built, target = open_workspace(folder, name), open_workspace(folder, to)
    with leased(target, "promote", target.table_names) if yes else nullcontext():
        plan = plan_promotion(built, target)
        if yes:
            promote(built, target, plan)
    if as_json:
        names = ("table", "action", "reason", "rows", "size_bytes")
        print_json([{name: getattr(each, name) for name in names} for each in plan])
        return
    rows = [(each.table, each.action, each.reason, each.rows or None, each.size_bytes or None) for each in plan]
    grid(None, ("table", "action", "because", "rows", "bytes"), rows, right="rows, bytes")
    number = sum(each.action == "promote" for each in plan)
    if yes:
        out.print(f"promoted {quantity(number, 'table')}; the others are computed by: headwater run --env {to}")
    elif number:
        out.print(f"nothing was changed; promote {quantity(number, 'table')} with --yes")


def _facts(name: str, folder: Folder) -> dict[str, object]:
    try:
        workspace = open_workspace(folder, name)
        environment = created_from(workspace)
    except HeadwaterError as error:
        return {"environment": name, "lake": f"cannot be opened: {error.problem}", "base": "", "at": "", "tables": None}
    lake = workspace.settings.lake
    if environment is None:
        return {"environment": name, "lake": lake, "base": "", "at": "", "tables": None}
    number = len(environment.tables)
    return {"environment": name, "lake": lake, "base": environment.base, "at": environment.at[:19], "tables": number}
