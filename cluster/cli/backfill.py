"""`headwater backfill`: recomputes the partitions of a table, one commit each."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated

import typer

from cluster.cli.console import err, open_workspace, out, print_json, text
from cluster.cli.interrupts import interrupts, leave
from cluster.cli.leasing import leased
from cluster.cli.options import HERE, Env, Folder, Json
from cluster.cli.running import REFUSED
from pipeline.core.errors import RequestError, quantity
from pipeline.governance import BackfillRecord
from pipeline.runner.backfill import Backfill, BackfillOptions, parallelism, plan_backfill
from pipeline.runner.backfill import backfill as fill


def backfill(
    name: Annotated[str, typer.Argument(help="A partitioned table.", metavar="TABLE")],
    partitions: Annotated[
        str | None, typer.Option("--partitions", "-p", help="Only these partitions: A, A..B (inclusive), A.. or ..B.")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only partitions that failed last time.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Also recompute partitions that this backfill has completed.")
    ] = False,
    parallel: Annotated[
        int, typer.Option(help="Number of partitions to compute concurrently.", min=1, max=os.cpu_count())
    ] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the partitions without computing them.")] = False,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Recompute partitions of a table from the inputs it consumed. If stopped, it resumes where it stopped."""
    if failed and partitions is not None:
        raise RequestError("--failed and --partitions cannot be combined", do="use one of them")
    workspace = open_workspace(folder, env)
    plan = plan_backfill(workspace, name, BackfillOptions(partitions, failed, restart, parallel))
    if dry_run:
        _print_plan(plan, as_json=as_json)
        return
    if parallel > parallelism(plan) and not as_json:
        err.print("partitions are computed one after the other, because rows of one key can be in several of them")
    shown = _Shown(len(plan.left), quiet=as_json)
    with interrupts() as interrupt:
        try:
            with leased(workspace, "backfill", [name]):
                report = fill(workspace, plan, on_partition=shown)
        except KeyboardInterrupt:
            err.print("interrupted; completed partitions are committed, and the same command resumes after them")
            leave(interrupt.code)
    bad = sum(filled.error is not None for filled in report)
    if as_json:
        print_json({"table": name, "before": plan.completed, "partitions": [asdict(filled) for filled in report]})
    else:
        _print_end(plan, len(report) - bad, bad)
    if bad:
        raise typer.Exit(REFUSED)


class _Shown:
    """Prints a line for each computed partition, with its number and the total."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        self._total = total
        self._quiet = quiet
        self._count = 0

    def __call__(self, filled: BackfillRecord) -> None:
        self._count += 1
        if self._quiet:
            return
        where, of = text(_word(filled.partition)), f"[dim]({self._count} of {self._total})[/]"
        if filled.error is None:
            rows = quantity(filled.rows, "row")
            err.print(f"[green]✓[/] {where}: {rows}, {filled.seconds:.2f} s {of}")
        else:
            err.print(f"[red]✗[/] {where}: {text(filled.error)} {of}")


def _print_plan(plan: Backfill, *, as_json: bool) -> None:
    if as_json:
        print_json({"table": plan.definition.name, "partitions": plan.left, "before": plan.completed})
        return
    for partition in plan.left:
        out.print(_word(partition), markup=False)
    _print_end(plan, 0, 0)


def _print_end(plan: Backfill, completed: int, bad: int) -> None:
    name, before = plan.definition.name, len(plan.completed)
    left = len(plan.left) - completed - bad
    parts = [f"{n} {word}" for n, word in ((completed, "done"), (bad, "failed"), (left, "to do")) if n]
    if before:
        parts.append(f"{before} done earlier")
    out.print(f"[bold]{name}: {', '.join(parts) or 'nothing to do'}[/]")
    if bad:
        out.print(f"to retry them: headwater backfill {name} --failed")
    elif not plan.left and before:
        out.print("[dim]--restart recomputes them[/]")


def _word(partition: str | None) -> str:
    return "null" if partition is None else partition
