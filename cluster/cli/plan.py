"""`headwater plan`: what a change of the definitions does to the tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from cluster.cli.console import open_workspace, out, print_json
from cluster.cli.options import HERE, Env, Folder, Json
from pipeline.core.errors import few, quantity
from pipeline.report.words import size
from pipeline.runner.decide import DecisionKind
from pipeline.runner.plan_changes import PlannedChange, StepEstimate, plan_changes

_SIGNS = {
    "added": "+",
    "removed": "-",
    "changed": "~",
    "affected": "~",
    "layout": "~",
    "new data": "·",
    "unreadable": "!",
    "failed": "!",
}
_UNDECIDED = {"unreadable": "cannot be read", "failed": "cannot be planned"}
"""The causes whose reason is an error, in the words of the summary."""


def plan(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Show only these: NAME, +NAME with its inputs, NAME+ with its readers.", show_default=False
        ),
    ] = None,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Show what the definitions change: tables and columns, what breaks, and rows, bytes, seconds and cost.

    Exits with code 1 if a source cannot be read, or a table cannot be planned or can no longer be computed.
    """
    workspace = open_workspace(folder, env)
    chosen = workspace.project.graph.select(names or ())
    changes = tuple(each for each in plan_changes(workspace) if not names or each.name in chosen)
    rates = workspace.settings.cluster.cost_per_hour
    if as_json:
        print_json([asdict(change) for change in changes])
    else:
        for change in changes:
            _show(change)
        out.print(_summary(changes, max(rates.values(), default=None)), soft_wrap=True)
    if any(change.error for change in changes):
        sys.exit(1)


def _show(change: PlannedChange) -> None:
    action = f", {change.decision}" if change.decision else ""
    out.print(
        f"{_SIGNS[change.cause]} [bold]{change.name}[/]  {change.cause}{action}: {escape(change.reason)}",
        soft_wrap=True,
    )
    for name in change.columns.added:
        out.print(f"    + column {escape(name)}")
    for name in change.columns.removed:
        out.print(f"    - column {escape(name)}{_users(change, name)}")
    for name, before, after in change.columns.retyped:
        out.print(f"    ~ column {escape(name)}: {before} becomes {after}{_users(change, name)}")
    if change.error and change.cause not in _UNDECIDED:
        out.print(f"    [red]breaks[/]: {escape(change.error)}", soft_wrap=True)


def _users(change: PlannedChange, column: str) -> str:
    users = change.used_by.get(column, ())
    return f", may be used by {few(users)}" if users else ""


def _summary(changes: Sequence[PlannedChange], rate: float | None) -> str:
    if not changes:
        return "nothing changes: all tables are as defined, and there is no new data"
    work = [change for change in changes if change.decision and DecisionKind(change.decision).is_work]
    known = [change.work.seconds for change in work if change.work.seconds is not None]
    new = len(work) - len(known)
    parts = [f"{quantity(len(work), 'table')} to compute" + (f", {new} of them for the first time" if new else "")]
    parts += [_reads([change.work for change in work])] if work else []
    if known:
        parts.append(f"about {sum(known):,.1f} s by the last runs" + (" of the others" if new else ""))
        parts += [f"cost about {sum(known) / 3600 * rate:,.2f}"] if rate is not None else []
    for cause, words in _UNDECIDED.items():
        undecided = [change.name for change in changes if change.cause == cause]
        parts += [f"{few(map(repr, undecided))} {words}"] if undecided else []
    broken = sum(bool(change.error) and change.cause not in _UNDECIDED for change in changes)
    parts += [f"{quantity(broken, 'table')} can no longer be computed"] if broken else []
    return "; ".join(parts)


def _reads(work: Sequence[StepEstimate]) -> str:
    """Return what is read; the rows of files, and those that a run computes first, are not known."""
    rows = sum(each.rows for each in work)
    known = size(sum(each.size_bytes for each in work)) + (f" with {quantity(rows, 'stored row')}" if rows else "")
    return f"{known} to read" + ("" if all(each.is_all for each in work) else ", and the rows that are computed first")
