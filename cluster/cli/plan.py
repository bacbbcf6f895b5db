"""`headwater plan`: what a change of the definitions does to the tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.markup import escape

from cluster.cli.console import open_workspace, out, print_json
from cluster.cli.options import HERE, Env, Folder, Json
from pipeline.core.errors import few, quantity
from pipeline.runner.plan_changes import PlannedChange, plan_changes

_SIGNS = {"added": "+", "removed": "-", "changed": "~", "affected": "~", "layout": "~", "new data": "·"}


def plan(env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """Show what the definitions change: tables and columns, what breaks, and rows, bytes, seconds and cost.

    Exits with code 1 if a table can no longer be computed.
    """
    workspace = open_workspace(folder, env)
    changes = plan_changes(workspace)
    rates = workspace.settings.cluster.cost_per_hour
    if as_json:
        print_json([asdict(change) for change in changes])
    else:
        for change in changes:
            _show(change)
        out.print(_summary(changes, max(rates.values(), default=None)))
    if any(change.error for change in changes):
        sys.exit(1)


def _show(change: PlannedChange) -> None:
    action = f", {change.decision}" if change.decision else ""
    out.print(f"{_SIGNS[change.cause]} [bold]{change.name}[/]  {change.cause}{action}: {escape(change.reason)}")
    for name in change.columns.added:
        out.print(f"    + column {escape(name)}")
    for name in change.columns.removed:
        out.print(f"    - column {escape(name)}{_users(change, name)}")
    for name, before, after in change.columns.retyped:
        out.print(f"    ~ column {escape(name)}: {before} becomes {after}{_users(change, name)}")
    if change.error:
        out.print(f"    [red]breaks[/]: {escape(change.error)}")


def _users(change: PlannedChange, column: str) -> str:
    users = change.used_by.get(column, ())
    return f", may be used by {few(users)}" if users else ""


def _summary(changes: Sequence[PlannedChange], rate: float | None) -> str:
    if not changes:
        return "nothing changes: all tables are as defined, and there is no new data"
    work = [change for change in changes if change.decision not in {"", "skip", "streamed", "fail"}]
    known = [change.work.seconds for change in work if change.work.seconds is not None]
    parts = [f"{quantity(len(work), 'table')} to compute"]
    parts.append(
        f"{sum(c.work.rows for c in work):,} rows and {sum(c.work.size_bytes for c in work) / 1e6:,.1f} MB to read"
    )
    if known:
        also = f", and {len(work) - len(known)} for the first time" if len(known) < len(work) else ""
        parts.append(f"about {sum(known):,.1f} s by the last runs{also}")
        parts += [f"cost about {sum(known) / 3600 * rate:,.2f}"] if rate is not None else []
    broken = sum(bool(change.error) for change in changes)
    parts += [f"{quantity(broken, 'table')} can no longer be computed"] if broken else []
    return "; ".join(parts)
