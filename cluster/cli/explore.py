"""Commands that inspect a project: `ls`, `show`, `query`, `quality`, `lineage`, `report`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated

import typer
from rich.markup import escape
from rich.tree import Tree

from cluster.cli.console import as_objects, grid, open_workspace, out, print_json, print_rows
from cluster.cli.options import HERE, At, Env, Folder, Json
from cluster.cli.reporting import update_report
from cluster.cli.summary import print_summary
from pipeline.core.definitions import Source
from pipeline.core.errors import RequestError, did_you_mean, few, quantity
from pipeline.kernel.sql_text import quoted
from pipeline.project.origins import origins
from pipeline.project.workspace import Workspace
from pipeline.quality import score
from pipeline.runner.handlers import descriptions, handler_of
from pipeline.warehouse.modelling.metrics import MetricDefinition

Name = Annotated[str, typer.Argument(help="Name of a definition.")]


def ls(env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """List the definitions with their rows and versions."""
    workspace = open_workspace(folder, env)
    rows = [asdict(each) for each in descriptions(workspace)]
    if as_json:
        print_json(rows)
        return
    if not any(row["owner"] for row in rows):
        rows = [{name: value for name, value in row.items() if name != "owner"} for row in rows]
    grid(None, tuple(rows[0]), [tuple(row.values()) for row in rows], right="rows, version")


def show(
    name: Annotated[
        str | None, typer.Argument(help="Name of a table or metric (default: the last run).", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(help="Number of rows to show.", min=0)] = 10,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Show a table: its description, columns, versions and some rows; or a metric. Without a name: the last run."""
    workspace = open_workspace(folder, env)
    if name is None:
        _show_run(workspace, as_json=as_json)
        return
    metrics = {each.name: each for each in workspace.project.metrics}
    if name in metrics:
        _show_metric(metrics[name], as_json=as_json)
        return
    if name not in workspace.project.graph.names:
        advice = did_you_mean(name, (*workspace.project.graph.names, *metrics))
        more = "" if advice.startswith("did you mean") else "; `headwater ls` lists all definitions"
        raise RequestError(f"{name!r} is not defined", do=f"{advice}{more}")
    definition = workspace.stored(name)
    version = workspace.require(name)
    rows = workspace.query(f"select * from {quoted(name)} limit {limit}")
    history, changes = workspace.catalog.versions(name), workspace.catalog.column_changes(name)
    if as_json:
        facts = {"name": name, "kind": definition.kind, "layer": definition.layer, "version": version.number}
        columns = {"columns": version.schema.as_dict(), "column_changes": changes}
        print_json({**facts, **columns, "versions": history, "rows": as_objects(rows)})
        return
    out.print(f"[bold]{name}[/]  {definition.description}")
    out.print(
        f"[dim]{definition.kind}, {definition.layer}, version {version.number}, {quantity(version.rows, 'row')},[/] {definition.place}"
    )
    grid("Columns", ("name", "type"), [(c.name, c.type) for c in version.schema.columns])
    if changes:
        shown = [
            (c.at[:19], c.column, c.type_before or "new", c.type, ", ".join(c.read_by), c.run_id) for c in changes[:5]
        ]
        grid("Changed columns", ("at", "column", "before", "now", "read by", "run"), shown)
    versions = [(m.version, m.at[:19], m.rows, m.run_id, _inputs(m.inputs)) for m in history[:5]]
    grid("Versions", ("version", "at", "rows", "run", "computed from"), versions, right="version, rows")
    out.print()
    print_rows(rows, as_json=False, most=limit)


def query(
    statements: Annotated[list[str], typer.Argument(help="SELECT statements over the project's tables.")],
    limit: Annotated[int, typer.Option(help="Number of rows to show.", min=1)] = 50,
    timeout: Annotated[
        float | None,
        typer.Option(help="Time limit per statement in seconds (default: query_seconds of headwater.toml).", min=0.001),
    ] = None,
    at: At = None,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Query the lake in SQL. --json prints the rows as a list, and for several statements a list of lists."""
    workspace = open_workspace(folder, env)
    as_of = workspace.as_of(at)
    answers = [workspace.query(statement, timeout, at=as_of) for statement in statements]
    if as_json:
        print_json(as_objects(answers[0]) if len(answers) == 1 else [as_objects(rows) for rows in answers])
        return
    for number, rows in enumerate(answers):
        if number:
            out.print()
        print_rows(rows, as_json=False, most=limit)


def quality(
    name: Annotated[str | None, typer.Argument(help="Name of a table (default: all).", show_default=False)] = None,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Show the results of each table's expectations when it was last computed."""
    workspace = open_workspace(folder, env)
    names = [workspace.stored(name).name] if name else workspace.table_names
    steps = [step for n in names if (step := workspace.catalog.last_step(n)) is not None]
    if as_json:
        print_json(
            [
                {"name": s.name, "score": score((c.rows, c.violations) for c in s.checks), "checks": list(s.checks)}
                for s in steps
            ]
        )
        return
    if not steps:
        raise RequestError(
            "no computed tables are recorded in the catalog",
            do="run `headwater run`; with --full if the catalog was lost",
        )
    rows: list[tuple[object, ...]] = []
    for step in steps:
        total = score((c.rows, c.violations) for c in step.checks)
        if total is not None:
            rows.append((step.name, f"{total:.2f}", "", "", "", "", ""))
        for check in step.checks:
            share = f"{100 * (1 - check.violations / check.rows):.2f} %" if check.rows else ""
            rows.append(("", "", check.expectation, check.action.value, check.rows, check.violations, share))
    columns = ("table", "score", "expectation", "action", "rows", "violations", "met")
    grid(None, columns, rows, right="score, rows, violations, met")


def lineage(name: Name, env: Env = None, as_json: Json = False, folder: Folder = HERE) -> None:
    """Show what a definition is computed from, and what is computed from it."""
    workspace = open_workspace(folder, env)
    graph = workspace.project.graph
    definition = graph[name]
    if as_json:
        edges = [{"name": d.name, "inputs": list(d.inputs)} for d in graph.definitions]
        print_json(
            {
                "name": name,
                "upstream": sorted(graph.upstream(name)),
                "downstream": sorted(graph.downstream(name)),
                "edges": edges,
                "origins": {
                    each.name: origins(workspace, each)
                    for each in graph.all_of(Source)
                    if each.name == name or each.name in graph.upstream(name)
                },
            }
        )
        return
    above = Tree(f"[bold]{definition.name}[/] is computed from")
    _grow(workspace, above, name, up=True)
    _add_origins(workspace, above, name)
    below = Tree(f"[bold]{definition.name}[/] is read by")
    _grow(workspace, below, name, up=False)
    for metric in workspace.project.metrics:
        if metric.table == name or any(each.table == name for each in metric.dimensions):
            below.add(f"{metric.name} [dim]metric[/]")
    for tree in (above, below):
        if not tree.children:
            tree.add("[dim]nothing in this project[/]")
        out.print(tree)


def report(env: Env = None, folder: Folder = HERE) -> None:
    """Write the report of the last run and print its location."""
    workspace = open_workspace(folder, env)
    path = update_report(workspace.project, workspace.catalog)
    out.print(path.as_uri(), soft_wrap=True)


def _show_metric(metric: MetricDefinition, *, as_json: bool) -> None:
    facts = {
        "name": metric.name,
        "kind": "metric",
        "description": metric.description,
        "owner": metric.owner,
        "expression": metric.expression,
        "table": metric.table,
        "where": metric.where,
        "time": metric.time,
        "grains": list(metric.grains),
        "dimensions": list(metric.dimension_names),
        "format": metric.format,
    }
    if as_json:
        print_json(facts)
        return
    out.print(f"[bold]{metric.name}[/]  {escape(metric.description)}")
    out.print(f"[dim]metric of {metric.table},[/] {metric.place}")
    skipped = {"name", "kind", "description", "table"}
    shown = [(n, ", ".join(v) if isinstance(v, list) else v) for n, v in facts.items() if v and n not in skipped]
    grid(None, ("", ""), [(title, str(value)) for title, value in shown])


def _show_run(workspace: Workspace, *, as_json: bool) -> None:
    run = workspace.catalog.run()
    if run is None:
        raise RequestError("no runs recorded yet", do="run `headwater run`; `headwater streams` lists streams")
    if run.status == "running" and run.run_id in workspace.lake.killed():
        run = replace(run, status="stopped", error="its process was killed")  # the next run records this
    if as_json:
        print_json(run)
    else:
        print_summary(run)


def _grow(workspace: Workspace, tree: Tree, name: str, *, up: bool) -> None:
    graph = workspace.project.graph
    near = graph[name].inputs if up else [d.name for d in graph.definitions if name in d.inputs]
    for other in near:
        shown = handler_of(graph[other]).describe(workspace, graph[other])
        rows = "" if shown.rows is None else f", {quantity(shown.rows, 'row')}"
        known = "" if shown.version is None else f" [dim]version {shown.version}{rows}[/]"
        branch = tree.add(f"{other}{known}")
        _grow(workspace, branch, other, up=up)
        if up:
            _add_origins(workspace, branch, other)


def _add_origins(workspace: Workspace, tree: Tree, name: str) -> None:
    """Add the systems and objects that a source was read from."""
    source = workspace.project.graph[name]
    for origin in origins(workspace, source) if isinstance(source, Source) else ():
        owner = f" [dim]owner {escape(origin.owner)}[/]" if origin.owner else ""
        tree.add(f"{origin.system}: {escape(few(origin.objects))}{owner}")


def _inputs(inputs: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in inputs.items())
