"""`headwater explain`: what a run would do, and how each table is computed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer

from cluster.cli.console import err, grid, open_workspace, print_json
from cluster.cli.explained import Explained, print_explained
from cluster.cli.options import HERE, Env, Folder, Json
from pipeline.core.definitions import StoredDefinition
from pipeline.core.errors import StorageError
from pipeline.project.workspace import Workspace
from pipeline.runner.context import PlannedStep
from pipeline.runner.decide import RunOptions
from pipeline.runner.dry_run import plan_run
from pipeline.runner.estimate import estimate, spec_of_all, trial


def explain(
    names: Annotated[
        list[str] | None, typer.Argument(help="Tables to explain; all without.", show_default=False)
    ] = None,
    analyze: Annotated[
        bool, typer.Option("--analyze", help="Also compute the tables from all of their inputs and commit nothing.")
    ] = False,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Show how each table is computed, where, and why, and what a run would do with it."""
    workspace = open_workspace(folder, env)
    planned = plan_run(workspace, RunOptions(tuple(names or ())))
    if not analyze and (as_json or not names):
        print_plan(planned, as_json=as_json)
        return
    explained = [_explained(workspace, found, analyze=analyze) for found in planned]
    if as_json:
        print_json([one.facts() for one in explained])
        return
    for one in explained:
        print_explained(workspace, one)


def _explained(workspace: Workspace, found: PlannedStep, *, analyze: bool) -> Explained:
    definition = found.definition
    if found.route is None or not isinstance(definition, StoredDefinition):
        return Explained(found)
    try:
        order = spec_of_all(workspace, definition)
    except StorageError:
        return Explained(found)  # an input is not made yet
    expected = estimate(workspace, order)
    if not analyze:
        return Explained(found, order, expected)
    begun = time.perf_counter()
    with err.status(f"computing {definition.name}"):
        outcome, landing = trial(workspace, order)
    return Explained(found, order, expected, replace(outcome, flow=landing.flow), time.perf_counter() - begun)


def print_plan(planned: Sequence[PlannedStep], *, as_json: bool) -> None:
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


def _facts(found: PlannedStep) -> dict[str, object]:
    return Explained(found).facts()
