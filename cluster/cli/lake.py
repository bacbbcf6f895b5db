"""`headwater lake`: the tables of the lake, apart from their definitions."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from cluster.cli.console import err, grid, open_workspace, out, print_json
from cluster.cli.options import HERE, Env, Folder, Json
from pipeline.core.errors import RequestError, quantity
from pipeline.project.forgotten import WAREHOUSE, ForgottenTable, forget, forgotten_tables, remains_of

app = typer.Typer(help="List tables that no definition has any more, and forget them.", no_args_is_help=True)

_COLUMNS = ("table", "layer", "rows", "bytes", "place")


@app.command()
def forgotten(env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """List the tables of lake and warehouse that no definition has any more."""
    tables = forgotten_tables(open_workspace(folder, env))
    if as_json:
        print_json([asdict(table) for table in tables])
    elif tables:
        grid(None, _COLUMNS, [_row(table) for table in tables], right="rows, bytes")
    else:
        out.print("every table of the lake has a definition")


@app.command("forget")
def forget_(
    name: Annotated[str, typer.Argument(help="The name of a table that has no definition.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before the table is removed.")] = False,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Remove what is left of a table that was renamed or removed: its folders, quarantine and warehouse table."""
    workspace = open_workspace(folder, env)
    tables = remains_of(workspace, name)
    if not yes:
        if as_json or not err.is_terminal:
            rows = sum(table.rows or 0 for table in tables)
            raise RequestError(
                f"forgetting {name!r} removes {quantity(rows, 'row')} for good", do="confirm it with --yes"
            )
        grid(None, _COLUMNS, [_row(table) for table in tables], right="rows, bytes")
        typer.confirm("Remove this for good?", abort=True, err=True)
    forget(workspace, name, tables)
    if as_json:
        print_json([asdict(table) for table in tables])
        return
    for table in tables:
        out.print(f"removed {name} from {table.place}" if table.layer == WAREHOUSE else f"removed {table.place}")


def _row(table: ForgottenTable) -> tuple[object, ...]:
    return (table.name, table.layer, table.rows, table.size_bytes or None, table.place)
