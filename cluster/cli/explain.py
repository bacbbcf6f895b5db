"""`headwater explain`: shows what a run would do, and how each table is computed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer
from rich.markup import escape

from cluster.cli.console import err, grid, open_workspace, print_json
from cluster.cli.explanation import Explained, print_explained
from cluster.cli.options import HERE, Env, Folder, Json
from pipeline.core.definitions import StoredDefinition
from pipeline.core.errors import StorageError
from pipeline.project.workspace import Workspace
from pipeline.runner.context import PlannedStep
from pipeline.runner.decide import DecisionKind, RunOptions
from pipeline.runner.dry_run import plan_run
from pipeline.runner.estimate import estimate, full_spec, trial


def explain(
    names: Annotated[
        list[str] | None, typer.Argument(help="Tables to explain (default: all).", show_default=False)
    ] = None,
    analyze: Annotated[
        bool,
        typer.Option("--analyze", help="Also compute the tables in full, without committing, and show measurements."),
    ] = False,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Show how, where and why each table is computed, and what the next run would do with it.

    Exits with code 1 if a source of these tables cannot be read.
    """
    workspace = open_workspace(folder, env)
    chosen = workspace.project.graph.select(names or ())
    with_inputs = plan_run(workspace, RunOptions(tuple(f"+{name}" for name in chosen)))
    planned = [step for step in with_inputs if step.definition.name in chosen]
    if not analyze and (as_json or not names):
        print_plan(planned, as_json=as_json)
    else:
        explained = [_explained(workspace, step, analyze=analyze) for step in planned]
        if as_json:
            print_json([table.facts() for table in explained])
        else:
            for table in explained:
                print_explained(workspace, table)
    failed = [step for step in with_inputs if step.decision.kind is DecisionKind.FAIL]
    for step in failed:
        err.print(f"[bold red]error:[/] {step.definition.name}: {escape(step.decision.reason)}")
    if failed:
        raise typer.Exit(1)


def _explained(workspace: Workspace, step: PlannedStep, *, analyze: bool) -> Explained:
    definition = step.definition
    if step.execution_plan is None or not isinstance(definition, StoredDefinition):
        return Explained(step)
    try:
        spec = full_spec(workspace, definition)
    except StorageError:
        return Explained(step)  # an input is not computed yet
    expected = estimate(workspace, spec)
    if not analyze:
        return Explained(step, spec, expected)
    begun = time.perf_counter()
    with err.status(f"computing {definition.name}"):
        outcome, commit_plan = trial(workspace, spec)
    return Explained(step, spec, expected, replace(outcome, flow=commit_plan.flow), time.perf_counter() - begun)


def print_plan(planned: Sequence[PlannedStep], *, as_json: bool) -> None:
    """Print a plan, one row per definition."""
    if as_json:
        print_json([_facts(step) for step in planned])
        return
    rows = [
        (
            step.definition.name,
            step.decision.kind,
            step.decision.reason,
            "" if step.execution_plan is None else step.execution_plan.strategy,
            "" if step.execution_plan is None else step.execution_plan.executor,
            "" if step.execution_plan is None else f"{step.execution_plan.reason}; {step.execution_plan.why}",
        )
        for step in planned
    ]
    grid(None, ("name", "decision", "reason", "strategy", "executor", "chosen because"), rows)


def _facts(step: PlannedStep) -> dict[str, object]:
    return Explained(step).facts()
