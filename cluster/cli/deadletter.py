"""`headwater deadletter`: inspects and replays records that streams rejected."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.console import grid, open_workspace, out, print_json, print_rows, text
from cluster.cli.options import HERE, Env, Folder, Json
from cluster.cli.quarantine import near
from pipeline.reprocessing.dead_letters import dead_letters, replay_letters
from pipeline.reprocessing.quarantine import quarantined_rows

app = typer.Typer(help="List, show and replay records that streams rejected.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name of a stream's table.")]
_LONG = 120


@app.command()
def ls(env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """List rejected records by stream and reason."""
    summaries = dead_letters(open_workspace(folder, env))
    if as_json:
        print_json(list(summaries))
    elif summaries:
        rows = [(s.stream, s.reasons, s.rows, s.first_at[:19], s.last_at[:19]) for s in summaries]
        grid(None, ("stream", "reason", "rows", "first", "last"), rows, right="rows")
    else:
        out.print("no stream has rejected records")


@app.command()
def show(
    name: Name,
    reason: Annotated[str | None, typer.Option(help="Only records whose reason contains this text.")] = None,
    limit: Annotated[int, typer.Option(help="Number of rows to show.", min=1)] = 20,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Show the records with partition and offset. Bytes that are not text are shown as `base64:...`."""
    rows = quarantined_rows(open_workspace(folder, env), name)
    if reason is not None:
        rows = rows.filter([reason.lower() in str(reasons).lower() for reasons in rows["reasons"].to_pylist()])
    if as_json:
        print_rows(rows.slice(0, limit), as_json=True)
        return
    cells = [
        (r["reasons"], near(r["_source"], folder), r["_position"], _short(r["row"]))
        for r in rows.slice(0, limit).to_pylist()
    ]
    grid(None, ("reason", "partition", "offset", "row"), cells, right="offset")
    if rows.num_rows > limit:
        out.print(f"[dim]… {text(rows.num_rows - limit)} more rows; --limit {rows.num_rows} shows all[/]")


@app.command()
def replay(name: Name, env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """Validate rejected records again by the current definition; records that pass are added to the table.

    The stream must not be running.
    """
    flow = replay_letters(open_workspace(folder, env), name)
    if as_json:
        print_json(flow)
    else:
        out.print(
            f"{text(flow.rows_in)} replayed: {text(flow.rows_out)} added to {name!r}, "
            f"{text(flow.quarantined)} still rejected"
        )


def _short(row: str | None) -> str:
    content = row or ""
    return content if len(content) <= _LONG else f"{content[:_LONG]}… ({len(content):,} characters)"
