"""`headwater explain`: what a run would do, and how each table is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, cast

import typer
from sqlglot import exp

from cluster.cli.console import HERE, Env, Folder, Json, grid, open_workspace, out, print_json
from pipeline.core.definitions import Stored, Table
from pipeline.kernel.aggregates import take_apart
from pipeline.run.foresight import Foresight, Options, foresee
from pipeline.run.planning import strategy, tree_of
from pipeline.run.workspace import Workspace


def explain(
    names: Annotated[
        list[str] | None, typer.Argument(help="Tables to explain; all without.", show_default=False)
    ] = None,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Show how each table is computed, where, and why, and what a run would do with it."""
    workspace = open_workspace(folder, env)
    planned = foresee(workspace, Options(tuple(names or ())))
    if as_json or not names:
        print_plan(planned, as_json=as_json)
        return
    for found in planned:
        _explain_one(workspace, found)


def print_plan(planned: Sequence[Foresight], *, as_json: bool) -> None:
    """Print a plan, one line for each definition."""
    if as_json:
        print_json([_facts(found) for found in planned])
        return
    rows = [
        (
            found.definition.name,
            found.decision.kind,
            found.decision.reason,
            "" if found.route is None else found.route.strategy,
            "" if found.route is None else found.route.executor,
            "" if found.route is None else f"{found.route.reason}; {found.route.why}",
        )
        for found in planned
    ]
    grid(None, ("name", "would", "because", "strategy", "where", "why so"), rows)


def _facts(found: Foresight) -> dict[str, object]:
    facts: dict[str, object] = {
        "name": found.definition.name,
        "decision": found.decision.kind,
        "reason": found.decision.reason,
    }
    if found.route is not None:
        facts |= vars(found.route)
        facts["strategy_reason"] = facts.pop("reason")
        facts["reason"] = found.decision.reason
        facts["executor_reason"] = facts.pop("why")
    return facts


def _explain_one(workspace: Workspace, found: Foresight) -> None:
    definition, way = found.definition, found.route
    out.print(f"[bold]{definition.name}[/]  {definition.description.partition(chr(10))[0]}")
    out.print(f"  defined   {definition.place}", soft_wrap=True)
    out.print(f"  would     {found.decision.kind}: {found.decision.reason}")
    if way is None or not isinstance(definition, Stored):
        return
    out.print(f"  strategy  {way.strategy}: {way.reason}")
    out.print(f"  where     {way.executor}: {way.why}")
    for name in definition.inputs:
        version = workspace.version(name)
        size = "not made yet" if version is None else _size(version.rows, version.scan().size_bytes, len(version.files))
        out.print(f"  reads     {name} {'(split) ' if name == way.driving else ''}[dim]{size}[/]")
    if isinstance(definition, Table) and strategy(definition).strategy == "partial":
        apart = take_apart(cast("exp.Select", tree_of(definition.transform)))  # partial means a SELECT
        out.print(f"  partial   {apart.partial()}", soft_wrap=True)
        out.print(f"  finish    {apart.finish}", soft_wrap=True)
    out.print()


def _size(rows: int, size_bytes: int, files: int) -> str:
    return f"{rows:,} rows, {size_bytes / 1e6:,.1f} MB in {files} file{'s' if files != 1 else ''}"
