"""`headwater state`: lists, shows and exports the state of streams, as of their last commits."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import pyarrow.parquet as pq
import typer

from cluster.cli.console import grid, open_workspace, out, print_json, print_rows, text
from cluster.cli.options import HERE, Env, Folder, Json
from pipeline.core.epochs import BEGINNING, END
from pipeline.core.errors import RequestError, quantity
from pipeline.streaming.runtime.control import stream_summaries
from pipeline.streaming.runtime.state_query import committed_state, where
from pipeline.streaming.runtime.status import state_rows

app = typer.Typer(help="List, show and export the state of streams, as of their last commits.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name of a stream's table.")]
Which = Annotated[
    str | None, typer.Option("--table", help="A state table (default: the rows that are still to be emitted).")
]
Keys = Annotated[
    list[str] | None, typer.Option("--key", help="Only rows with COLUMN=VALUE; if repeated, all must match.")
]


@app.command()
def ls(env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """List the streams that have state, with its size."""
    streams = [
        (stream.name, stream.epoch)
        for stream in stream_summaries(open_workspace(folder, env))
        if stream.epoch and stream.epoch.state
    ]
    parts = [
        {
            "name": name,
            "epoch": epoch.number,
            "rows": state_rows(epoch),
            "bytes": sum(file.size_bytes for file in epoch.state),
            "files": len(epoch.state),
            "shards": epoch.shards,
            "watermark": _moment(epoch.watermark),
        }
        for name, epoch in streams
    ]
    if as_json:
        print_json(parts)
    elif parts:
        columns = tuple(parts[0])
        grid(None, columns, (tuple(p.values()) for p in parts), right="epoch,rows,bytes,files,shards")
    else:
        out.print("no stream has state")


@app.command()
def show(
    name: Name,
    table: Which = None,
    key: Keys = None,
    limit: Annotated[int, typer.Option(help="Number of rows to show.", min=1)] = 20,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Show the state of a stream: open windows with their current values, or buffered rows."""
    state = committed_state(open_workspace(folder, env), name)
    rows = where(state.table(table), _pairs(key or []))
    if as_json:
        print_rows(rows.slice(0, limit), as_json=True)
        return
    tables = ", ".join(f"{table_name} ({text(rows.num_rows)})" for table_name, rows in state.tables.items())
    out.print(f"[dim]{name} at epoch {text(state.epoch)}, watermark {_moment(state.watermark)}; tables: {tables}[/]")
    print_rows(rows, as_json=False, most=limit)


@app.command()
def export(
    name: Name,
    file: Annotated[Path, typer.Argument(help="Parquet file to write.")],
    table: Which = None,
    key: Keys = None,
    env: Env = None,
    folder: Folder = HERE,
) -> None:
    """Write the state of a stream to a Parquet file."""
    rows = where(committed_state(open_workspace(folder, env), name).table(table), _pairs(key or []))
    try:
        pq.write_table(rows, file)
    except OSError as error:
        raise RequestError(f"cannot write {file}", got=str(error)) from error
    out.print(f"[green]✓[/] {quantity(rows.num_rows, 'row')} in {file}", soft_wrap=True)


def _pairs(keys: list[str]) -> dict[str, str]:
    pairs = [key.partition("=") for key in keys]
    bad = next((key for key, (_, equals, _) in zip(keys, pairs, strict=True) if not equals), None)
    if bad is not None:
        raise RequestError("--key must have the form COLUMN=VALUE", got=repr(bad))
    return {column: value for column, _, value in pairs}


def _moment(watermark: int) -> str:
    if watermark <= BEGINNING:
        return "not started"
    return "end of input" if watermark >= END else f"{datetime.fromtimestamp(watermark / 1e6, UTC):%Y-%m-%d %H:%M:%S}"
