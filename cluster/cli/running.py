"""`headwater run`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.markup import escape

from cluster.cli.console import err, open_project, out, print_failure, print_json
from cluster.cli.interrupts import Interrupts, interrupts, leave
from cluster.cli.options import HERE, Env, Folder, Json
from cluster.cli.reporting import try_update_report, update_report
from cluster.cli.run_progress import RunProgress, bars
from cluster.cli.summary import print_summary
from cluster.jobs import report_file
from pipeline.core.errors import ConflictError, DefinitionError, HeadwaterError, RequestError
from pipeline.core.event_time import parse_duration
from pipeline.governance import Catalog, RunRecord
from pipeline.governance.run_leases import RunLease, holding
from pipeline.project.project import Project
from pipeline.project.workspace import Workspace
from pipeline.runner.decide import RunOptions
from pipeline.runner.dry_run import plan_run
from pipeline.runner.runner import Runner, is_chosen

REFUSED = 3
TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]


def run(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Only these definitions, as with --select (default: all).", show_default=False),
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(
            "--select", "-s", help="Only these definitions: NAME, +NAME with its inputs, NAME+ with its readers."
        ),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Recompute everything, also tables that are up to date.")
    ] = False,
    until: Annotated[
        datetime | None, typer.Option(help="Read sources only up to their state at this time (UTC).", formats=TIMES)
    ] = None,
    accept_gaps: Annotated[
        bool, typer.Option("--accept-gaps", help="Continue after data that a source deleted before it was read.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done without doing it.")] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of tables to compute concurrently (default: number of cores; on an object store, at least 32).",
        ),
    ] = None,
    deadline: Annotated[
        str | None, typer.Option(help="Ask a cluster for as many cores as are needed to end in this time: 4h, 30min.")
    ] = None,
    wait: Annotated[
        str | None,
        typer.Option(help="If another run computes the same tables, wait for it at most this long: 10min, 2h."),
    ] = None,
    summary: Annotated[bool, typer.Option(help="Print the summary table at the end.")] = True,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Run the project: compute what is new or changed, in dependency order, with one commit per table."""
    project = open_project(folder, env)
    options = RunOptions(
        (*(names or ()), *(select or ())),
        full,
        accept_gaps,
        None if until is None else until.replace(tzinfo=UTC),
        threads,
        None if deadline is None else _duration(deadline, "--deadline"),
    )
    wait_s = 0.0 if wait is None else _duration(wait, "--wait").total_seconds()
    if dry_run:
        from cluster.cli.explain import print_plan  # noqa: PLC0415 - a run does not need the code of streams

        planned = plan_run(Workspace(project), options)
        print_plan(planned, as_json=as_json)
        raise typer.Exit(int(any(step.decision.kind == "fail" for step in planned)))
    with interrupts() as interrupt:
        try:
            record, errors = _watched(project, options, interrupt, wait_s, quiet=as_json)
        except KeyboardInterrupt:
            err.print("interrupted; committed tables are kept, and the next run resumes from there")
            leave(interrupt.code)
    if as_json:
        print_json(record)
    elif summary:
        print_summary(record)
        _print_where(project)
    for name, error in errors.items():
        print_failure(name, error)
    if record.status == "failed":
        raise typer.Exit(1)
    if record.status == "refused":
        raise typer.Exit(REFUSED)


def _duration(text: str, option: str) -> timedelta:
    try:
        duration = parse_duration(text, option)
    except DefinitionError as error:
        problem = error.problem.replace(f"{option}=", option)
        raise RequestError(problem, got=repr(text), do="use 4h, 30min or 90s") from error
    if not duration:
        raise RequestError(f"{option} must be positive", got=repr(text), do="use 4h, 30min or 90s")
    return duration


def _watched(
    project: Project, options: RunOptions, interrupt: Interrupts, wait_s: float, *, quiet: bool
) -> tuple[RunRecord, Mapping[str, Exception]]:
    """Run with progress bars on the terminal and write the report; return the run and the errors of its steps.

    Raises `ConflictError` if another run computes one of the tables, and still does after `wait_s` seconds.
    """
    workspace = Workspace(project)
    chosen = project.graph.select(options.select)
    names = [definition.name for definition in project.graph.definitions if is_chosen(definition, chosen)]
    expected = {name: _last_seconds(workspace.catalog, name) for name in names}
    with bars(quiet=quiet) as progress:
        watcher = RunProgress(progress, len(names), expected)
        try:
            runner = Runner(project, options, observer=interrupt.before(watcher))
            lease = RunLease(runner.run_id, project.settings.lake, names)
            with holding(workspace.catalog, lease, wait_s=wait_s, on_wait=waiting):
                record = runner.attempt()
        except ConflictError:  # another run is under way, and its report stays
            raise
        except HeadwaterError as error:
            try_update_report(project, Workspace(project).catalog, quiet=quiet, known=str(error))
            raise
    update_report(project, workspace.catalog)
    if any(project.graph[step.name].kind == "monitor" for step in record.steps):
        from cluster.cli.monitor_reports import update_monitor_reports  # noqa: PLC0415 - only for monitors

        update_monitor_reports(Workspace(project), record)
    return record, runner.errors


def waiting(error: ConflictError) -> None:
    """Say what a run waits for."""
    err.print(f"waiting: {escape(error.problem)} ({escape(error.got or '')})")


def _last_seconds(catalog: Catalog, name: str) -> float:
    step = catalog.last_step(name)
    return 0.0 if step is None else step.seconds


def _print_where(project: Project) -> None:
    settings = project.settings
    places = {
        "lake": settings.lake,
        "warehouse": settings.warehouse,
        "models": settings.models,
        "report": report_file(settings).as_uri(),
    }
    for name, place in places.items():
        out.print(f"[dim]{name:>10}[/]  {place}", soft_wrap=True)
