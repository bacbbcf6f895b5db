"""`headwater warehouse`: the star schema of a project, its warehouse, and the account that the warehouse is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.changes import DIFFERENT, Yes, require_consent
from cluster.cli.console import grid, open_workspace, out, print_json, text
from cluster.cli.options import HERE, Env, Folder, Json
from pipeline.core.errors import quantity
from pipeline.warehouse.modelling.bus_matrix import bus_matrix

if TYPE_CHECKING:
    from pipeline.warehouse.snowflake.account_plan import AccountChange

HELP = (
    "Show the star schema of the warehouse and how fresh its tables are; plan and apply what a Snowflake account has."
)
app = typer.Typer(help=HELP, no_args_is_help=True)


@app.command()
def matrix(env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """Print the bus matrix: each fact, its grain, and the dimensions that it looks up."""
    found = bus_matrix(open_workspace(folder, env).project.graph.definitions)
    if as_json:
        print_json({"facts": [asdict(row) for row in found.rows], "dimensions": list(found.dimensions)})
        return
    if not found.rows:
        out.print("the project has no facts")
        return
    rows = [
        (row.fact, row.kind, row.grain, *(_mark(row.keys.get(name, ())) for name in found.dimensions))
        for row in found.rows
    ]
    grid(None, ("fact", "kind", "grain", *(name.removeprefix("dim_") for name in found.dimensions)), rows)


@app.command()
def status(env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """Show for each gold table the version in the warehouse, and how far it is behind the lake."""
    from pipeline.project.freshness import freshness  # noqa: PLC0415 - `matrix` reads no table

    tables = freshness(open_workspace(folder, env))
    if as_json:
        print_json([asdict(table) for table in tables])
        return
    columns = ("table", "state", "lake", "loaded", "rows", "behind (s)", "loaded at")
    rows = [
        (t.table, t.state, t.lake_version, t.loaded_version, t.rows, t.behind_s, _time(t.loaded_at)) for t in tables
    ]
    grid(None, columns, rows, right="lake, loaded, rows, behind (s)")


@app.command()
def plan(env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """Show what has to change for the Snowflake account to be as declared. Exits with 3 if anything does."""
    from pipeline.project.snowflake_account import plan_account_changes  # noqa: PLC0415 - only with Snowflake

    changes = plan_account_changes(open_workspace(folder, env))
    _show(changes, as_json=as_json)
    if changes:
        raise typer.Exit(DIFFERENT)


@app.command()
def apply(
    yes: Yes = False,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Make the changes that `headwater warehouse plan` shows. Asks before something is taken away."""
    from pipeline.project.snowflake_account import apply_changes, plan_account_changes  # noqa: PLC0415 - only with Snowflake

    workspace = open_workspace(folder, env)
    changes = plan_account_changes(workspace)
    _show(changes, as_json=as_json)
    lost = [change.subject for change in changes if change.is_destructive]
    require_consent(lost, "changes would take something away", yes=yes, as_json=as_json)
    apply_changes(workspace, changes)
    if not as_json and changes:
        out.print(f"{quantity(len(changes), 'change')} made")


@app.command()
def cost(
    days: Annotated[int, typer.Option(help="Loads of this many days.", min=1)] = 7,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Show what the loads of each table and run cost in Snowflake, in credits, from the query history."""
    from pipeline.project.snowflake_account import run_costs  # noqa: PLC0415 - only with Snowflake

    costs = run_costs(open_workspace(folder, env), datetime.now(UTC) - timedelta(days=days))
    if as_json:
        print_json([asdict(each) for each in costs])
        return
    rows = [(c.table, c.run_id, c.statements, c.seconds, c.credits) for c in costs]
    grid(None, ("table", "run", "statements", "seconds", "credits"), rows, right="statements, seconds, credits")


def _show(changes: Sequence[AccountChange], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(change) for change in changes])
        return
    if not changes:
        out.print("the account is as declared")
    for change in changes:
        now = f" [dim](now: {text(change.now)})[/]" if change.now else ""
        sign = "[red]-[/]" if change.is_destructive else "[green]+[/]"
        out.print(f"{sign} {text(change.subject)}{now}\n    {text(change.statement)};", soft_wrap=True)


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _mark(columns: tuple[str, ...]) -> str:
    """Return a cross, with the number of roles if there are several."""
    return "" if not columns else "x" if len(columns) == 1 else f"x{len(columns)}"
