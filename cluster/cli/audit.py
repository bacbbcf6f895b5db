"""`headwater audit`: who read what through endpoints."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import Annotated

import typer

from cluster.cli.console import err, grid, open_project, out, print_json, text
from cluster.cli.options import HERE, Env, Folder, Json
from pipeline.core.errors import StopError, quantity
from pipeline.governance.audit_records import records
from pipeline.governance.audit_records import verify as verify_records

app = typer.Typer(
    help="Show who read what through endpoints, and check that the records were not changed.", no_args_is_help=True
)

Day = Annotated[str | None, typer.Option(help="Only this day, for example 2026-05-01 (UTC).", show_default=False)]


@app.command()
def show(
    caller: Annotated[
        str | None, typer.Option(help="Only the requests of this key or subject.", show_default=False)
    ] = None,
    table: Annotated[
        str | None, typer.Option(help="Only the requests that read this table.", show_default=False)
    ] = None,
    day: Day = None,
    limit: Annotated[int, typer.Option(help="The number of newest requests.", min=1)] = 50,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Show the newest requests: who, what, how many rows, and why it was allowed."""
    settings = open_project(folder, env).settings
    newest = deque(
        (
            record
            for record in records(settings.state / "audit" / settings.env, day)
            if caller in {None, record["caller"], record["caller_name"]}
            and (table is None or table in str(record.get("table", "")).split(","))
        ),
        maxlen=limit,
    )
    if as_json:
        print_json(list(newest))
        return
    if not newest:
        is_filtered = (caller, table, day) != (None, None, None)
        out.print("no such request is recorded" if is_filtered else "no request is recorded yet")
        return
    columns = ("time (UTC)", "caller", "request", "status", "table", "version", "rows", "why")
    rows = [
        (
            f"{datetime.fromtimestamp(each['at'], UTC):%Y-%m-%d %H:%M:%S}",
            each["caller_name"] or each["caller"],
            f"{each['method']} {each['path']}",
            each["status"],
            each.get("table", ""),
            each.get("version", ""),
            each.get("rows", ""),
            each.get("why", ""),
        )
        for each in newest
    ]
    grid(None, columns, rows, right="status, version, rows")


@app.command()
def verify(day: Day = None, env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """Check that no record was changed, added or removed. Fails if one was."""
    settings = open_project(folder, env).settings
    count, damages = verify_records(settings.state / "audit" / settings.env, day)
    if as_json:
        print_json({"records": count, "damages": [{**vars(each), "file": str(each.file)} for each in damages]})
    else:
        out.print(f"{quantity(count, 'record')} checked")
        for each in damages:
            err.print(f"[red]{text(str(each.file))}:{each.line}[/]: {each.problem}", soft_wrap=True)
    if damages:
        raise StopError(
            f"{quantity(len(damages), 'line')} of the audit log {'do' if len(damages) > 1 else 'does'} not fit"
        )
