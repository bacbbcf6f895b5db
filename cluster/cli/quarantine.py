"""`headwater quarantine`: inspects and replays quarantined rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.console import grid, open_workspace, out, print_json, print_rows
from cluster.cli.leasing import leased
from cluster.cli.options import HERE, Env, Folder, Json
from pipeline.reprocessing.dead_letters import replay_letters
from pipeline.reprocessing.quarantine import quarantined_rows, replay
from pipeline.streaming.planning.plan import Planner

app = typer.Typer(help="List, show and replay quarantined rows.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of a table.")]


@app.command()
def ls(env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """List the tables that have quarantined rows."""
    workspace = open_workspace(folder, env)
    counts = [(name, quarantined_rows(workspace, name).num_rows) for name in workspace.table_names]
    tables = [(name, count) for name, count in counts if count]
    if as_json:
        print_json([{"name": name, "rows": count} for name, count in tables])
    elif tables:
        grid(None, ("table", "rows"), tables, right="rows")
    else:
        out.print("no rows are quarantined")


@app.command()
def show(
    name: Name,
    limit: Annotated[int, typer.Option(help="Number of rows to show.", min=1)] = 20,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Show a table's quarantined rows with reasons and origin."""
    rows = quarantined_rows(open_workspace(folder, env), name)
    if as_json:
        print_rows(rows, as_json=True)
        return
    shown = rows.slice(0, limit).to_pylist()
    cells = [(r["reasons"], near(r["_source"], folder), r["_position"], r["row"]) for r in shown]
    grid(None, ("reasons", "source", "position", "row"), cells, right="position")
    if rows.num_rows > limit:
        out.print(f"[dim]… {rows.num_rows - limit:,} more rows; --limit {rows.num_rows} shows all[/]")


@app.command("replay")
def replay_(name: Name, env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """Validate a table's quarantined rows again by its current definition; rows that pass are added to the table.

    Existing rows of the table do not change, and the next `headwater run` keeps the added rows.
    """
    workspace = open_workspace(folder, env)
    if Planner(workspace).is_streamed(name):
        flow = replay_letters(workspace, name)
    else:
        with leased(workspace, "replay", [name]):
            flow = replay(workspace, name)
    if as_json:
        print_json(flow)
    else:
        out.print(f"{flow.rows_in} replayed: {flow.rows_out} added to {name!r}, {flow.quarantined} still quarantined")


def near(source: str | None, folder: Path) -> str:
    """Return a file's path, relative to a folder if it is below it."""
    if "://" in (source or ""):
        return source or ""
    path = Path(source or "")
    here = folder.resolve()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
