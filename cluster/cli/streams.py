"""`headwater streams`: lists the streams of a project, controls running ones, and manages savepoints."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from cluster.cli.console import grid, open_workspace, out, print_json, text
from cluster.cli.live import span
from cluster.cli.options import HERE, Env, Folder, Json
from pipeline.core.epochs import BEGINNING, END
from pipeline.core.errors import quantity
from pipeline.governance import DesiredState
from pipeline.streaming.runtime.control import StreamSummary, request, stream_summaries
from pipeline.streaming.runtime.control import rescale as rescale_stream
from pipeline.streaming.runtime.metrics import TROUBLED
from pipeline.streaming.runtime.savepoints import delete_savepoint, save
from pipeline.streaming.runtime.savepoints import savepoints as savepoints_of

app = typer.Typer(help="List streams; pause, resume, rescale, drain or stop running streams; manage savepoints.")
Name = Annotated[str, typer.Argument(help="Name of a stream's table.")]


@app.callback(invoke_without_command=True)
def list_them(context: typer.Context, env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """List the streams with status, progress, and the process that runs each."""
    if context.invoked_subcommand is None:
        ls(env, as_json, folder)


@app.command()
def ls(env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """List the streams with status, progress, and the process that runs each."""
    summaries = stream_summaries(open_workspace(folder, env))
    if as_json:
        print_json([_parts(stream) for stream in summaries])
        return
    if not summaries:
        out.print("this project has no streams: set event_time= on a source, and read it with a table")
        return
    rows = [
        (
            p["name"],
            p["status"],
            p["epoch"],
            "" if p["rows_per_s"] is None else f"{p['rows_per_s']:,.0f}",
            p["lag"],
            "" if p["watermark_delay_s"] is None else span(p["watermark_delay_s"]),
            p["holder"],
        )
        for p in map(_parts, summaries)
    ]
    grid(
        None,
        ("stream", "status", "epoch", "rows/s", "behind", "event time", "run by"),
        rows,
        right="epoch,rows/s,behind,event time",
    )
    for stream in summaries:
        if stream.obstacle:
            out.print(f"[yellow]{stream.name}[/]: {text(stream.obstacle)}", soft_wrap=True)
        if stream.lease is not None and stream.lease.facts.get("error") and stream.status in TROUBLED:
            out.print(f"[red]{stream.name}[/]: {stream.lease.facts['error']}", soft_wrap=True)
        for name, sink in ({} if stream.lease is None else stream.lease.facts.get("sinks", {})).items():
            how = f"[red]{sink['status']}[/]: {sink['error']}" if sink["error"] else sink["status"]
            out.print(f"[dim]{stream.name} →[/] {name}: {how}, {text(sink['behind'])} versions behind", soft_wrap=True)


@app.command()
def pause(name: Name, env: Env = None, folder: Folder = HERE) -> None:
    """Pause a stream: it commits pending rows and reads nothing until it is resumed."""
    _request(name, DesiredState.PAUSE, "is paused", env, folder)


@app.command()
def resume(name: Name, env: Env = None, folder: Folder = HERE) -> None:
    """Resume a paused stream."""
    _request(name, DesiredState.RUN, "has resumed", env, folder)


@app.command()
def drain(name: Name, env: Env = None, folder: Folder = HERE) -> None:
    """Drain a stream: it closes all windows, commits and ends."""
    _request(name, DesiredState.DRAIN, "is drained and has ended", env, folder)


@app.command()
def stop(name: Name, env: Env = None, folder: Folder = HERE) -> None:
    """Stop a stream: it commits pending rows and ends; its windows stay open."""
    _request(name, DesiredState.STOP, "has ended", env, folder)


@app.command()
def rescale(
    name: Name,
    shards: Annotated[int, typer.Option(help="The new number of state shards.", min=1)],
    env: Env = None,
    folder: Folder = HERE,
) -> None:
    """Change the number of shards of a running stream, at its next commit."""
    lease = rescale_stream(open_workspace(folder, env), name, shards)
    out.print(f"[green]✓[/] {name} has {quantity(shards, 'shard')}, at epoch {text(lease.facts.get('epoch'))}")


@app.command()
def savepoint(
    name: Name,
    label: Annotated[str | None, typer.Argument(help="Label of the savepoint (default: epoch-N).")] = None,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Save a stream's last commit; restore it with `headwater stream NAME --restore LABEL`. It may be running."""
    saved = save(open_workspace(folder, env), name, label)
    if as_json:
        print_json({"stream": name, "label": saved.label, "epoch": saved.epoch, "version": saved.version})
    else:
        out.print(f"[green]✓[/] {name}: savepoint {saved.label} at epoch {saved.epoch}, {quantity(saved.rows, 'row')}")


@app.command()
def savepoints(name: Name, env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """List a stream's savepoints."""
    saved = savepoints_of(open_workspace(folder, env), name)
    if as_json:
        print_json(
            [{"label": s.label, "epoch": s.epoch, "version": s.version, "at": s.at, "rows": s.rows} for s in saved]
        )
    elif saved:
        rows = [(s.label, s.epoch, s.version, s.rows, s.at[:19].replace("T", " ")) for s in saved]
        grid(None, ("label", "epoch", "version", "rows", "created at (UTC)"), rows, right="epoch,version,rows")
    else:
        out.print(f"stream {name!r} has no savepoints; create one: headwater streams savepoint {name}")


@app.command("delete-savepoint")
def delete_savepoint_(
    name: Name,
    label: Annotated[str, typer.Argument(help="Label of the savepoint.")],
    env: Env = None,
    folder: Folder = HERE,
) -> None:
    """Delete a savepoint, so that its version of the table is no longer held."""
    delete_savepoint(open_workspace(folder, env), name, label)
    out.print(f"[green]✓[/] {name}: savepoint {label} is deleted")


def _request(name: str, state: DesiredState, words: str, env: str | None, folder: Folder) -> None:
    lease = request(open_workspace(folder, env), name, state)
    if lease.facts.get("status") == "failed":
        out.print(f"[red]✗[/] {name} failed: {lease.facts.get('error')}", soft_wrap=True)
        raise typer.Exit(1)
    out.print(f"[green]✓[/] {name} {words}, at epoch {text(lease.facts.get('epoch'))}")


def _parts(stream: StreamSummary) -> dict[str, Any]:
    facts = stream.lease.facts if stream.lease is not None else {}
    running = facts if stream.is_running else {}
    lease = stream.lease if stream.is_running else None
    epoch = stream.epoch
    delay = None if epoch is None or not BEGINNING < epoch.watermark < END else time.time() - epoch.watermark / 1e6
    return {
        "name": stream.name,
        "status": stream.status,
        "epoch": None if epoch is None else epoch.number,
        "lag": running.get("lag"),
        "rows_per_s": running.get("rows_per_s"),
        "watermark_delay_s": running.get("watermark_delay_s", delay),
        "holder": "" if lease is None else f"process {lease.pid} on {lease.host}",
        "shards": running.get("shards"),
        "restarts": facts.get("restarts", 0),
        "recoveries": facts.get("recoveries", 0),
        "sinks": facts.get("sinks", {}),
        "error": facts.get("error", ""),
    }
