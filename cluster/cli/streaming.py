"""`headwater stream` and `headwater verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.console import HERE, Env, Folder, Json, grid, open_workspace, out, print_json, text
from cluster.cli.interrupts import interrupts
from pipeline.core.errors import RequestError
from pipeline.run.stream.running import Running, Wanted
from pipeline.run.stream.starting import From
from pipeline.run.stream.stream import Asked
from pipeline.run.stream.verifying import verify as verify_stream

Names = Annotated[list[str] | None, typer.Argument(help="Streams, by their tables' names; all without any.")]


def stream(
    names: Names = None,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="End when what the logs hold now is read.")
    ] = False,
    begin: Annotated[
        str, typer.Option("--from", help="Where to begin: committed, earliest (makes the table anew), latest.")
    ] = "committed",
    drain: Annotated[bool, typer.Option("--drain", help="Close all windows in the end.")] = False,
    shards: Annotated[int | None, typer.Option(help="How many shards remember; as many as cores.", min=1)] = None,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Run streams: rows are committed exactly once, every half second, until Ctrl-C."""
    workspace = open_workspace(folder, env)
    asked = Asked(begin=_begin(begin), shards=shards)
    running = Running(workspace, Wanted(tuple(names or ()), until_caught_up, drain, asked))
    with interrupts() as interrupted:
        del interrupted
        running.run()
    if as_json:
        print_json({name: {"epoch": s.number, **s.totals} for name, s in running.streams.items()})
        return
    for name in running.names:
        if name in running.streams:
            done = running.streams[name]
            words = ", ".join(f"{text(count)} {what}" for what, count in done.totals.items() if count)
            out.print(f"[green]✓[/] {name}: epoch {done.number}, {words}")


def verify(
    name: Annotated[str, typer.Argument(help="A stream, by its table's name.")],
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Compute a stream's table in batch and compare the two, row by row."""
    found = verify_stream(open_workspace(folder, env), name)
    if as_json:
        print_json(found)
    else:
        mark = "[green]✓[/]" if found.holds else "[red]✗[/]"
        out.print(
            f"{mark} {name} at epoch {found.epoch}: {text(found.rows_read)} rows read, {text(found.rows_aside)} set aside; "
            f"{text(found.rows_there)} rows in the table and {text(found.rows_remembered)} to come, "
            f"{text(found.rows_expected)} in batch: {text(found.missing)} missing, {text(found.unexpected)} unexpected"
        )
        if found.differences:
            grid(None, tuple(found.differences[0]), [tuple(row.values()) for row in found.differences])
    if not found.holds:
        raise typer.Exit(1)


def _begin(words: str) -> From:
    known: dict[str, From] = {"committed": "committed", "earliest": "earliest", "latest": "latest"}
    if words not in known:
        raise RequestError("--from is committed, earliest or latest", got=repr(words))
    return known[words]
