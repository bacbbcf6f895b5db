"""`headwater run`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from cluster.cli.console import HERE, Env, Folder, Json, err, open_project, out, print_json, text
from cluster.cli.planning import print_plan
from cluster.cli.summary import print_summary
from pipeline.core.errors import HeadwaterError
from pipeline.governance import Catalog, Run
from pipeline.run.events import Event, Moment
from pipeline.run.foresight import Options, foresee
from pipeline.run.project import Project
from pipeline.run.report import write_report
from pipeline.run.runner import Runner
from pipeline.run.workspace import Workspace

REFUSED = 3
INTERRUPTED = 130


def run(
    select: Annotated[
        list[str] | None,
        typer.Option("--select", "-s", help="Only these: NAME, +NAME with its inputs, NAME+ with its readers."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Recompute what is up to date, too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and do nothing.")] = False,
    summary: Annotated[bool, typer.Option(help="Print the summary table at the end.")] = True,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Run the project: what is new or changed, in order, each table committed once."""
    project = open_project(folder, env)
    options = Options(tuple(select or ()), full)
    if dry_run:
        print_plan(foresee(Workspace(project), options), as_json=as_json)
        return
    try:
        done = _watched(project, options, quiet=as_json)
    except KeyboardInterrupt:
        err.print("interrupted; what was committed stays, and the next run goes on from there")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(done)
    elif summary:
        print_summary(done)
        _print_where(project)
    if done.status == "refused":
        raise typer.Exit(REFUSED)


def _watched(project: Project, options: Options, *, quiet: bool) -> Run:
    """Run with a progress line on the terminal; write the report also when the run fails."""
    workspace = Workspace(project)
    names = [n for n in project.graph.names if n in project.graph.select(options.select)]
    expected = {name: _last_seconds(workspace.catalog, name) for name in names}
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, TextColumn("{task.fields[left]}"), console=err, transient=True, disable=quiet) as progress:
        watcher = _Watcher(progress, progress.add_task("starting", total=len(names), left=""), expected)
        try:
            done = Runner(project, options, observer=watcher).run()
        except HeadwaterError as error:
            _report_failure(project, error, quiet=quiet)
            raise
    write_report(project, workspace.catalog, project.settings.state / "report.html")
    return done


def _report_failure(project: Project, error: HeadwaterError, *, quiet: bool) -> None:
    """Leave the report of the failed run beside the others, unless the report itself cannot be written."""
    try:
        write_report(project, Workspace(project).catalog, project.settings.state / "report.html")
    except (HeadwaterError, OSError) as second:
        if not quiet and str(second) != str(error):
            err.print(f"[dim]no report: {second}[/]")


class _Watcher:
    """Turns a run's events into a progress line and a line for each table done."""

    def __init__(self, progress: Progress, task: TaskID, expected: dict[str, float]) -> None:
        self._progress = progress
        self._task = task
        self._expected = expected

    def __call__(self, event: Event) -> None:
        if event.moment is Moment.DECIDED:
            left = sum(self._expected.values())
            note = f"about {left:.0f} s left" if left >= 1 else ""
            self._progress.update(self._task, description=f"{event.name}: {event.note}", left=note)
        if event.moment is Moment.RECORDED and event.step is not None:
            self._expected.pop(event.name, None)
            self._progress.advance(self._task)
            step = event.step
            if step.decision != "skip":
                rows = "" if step.verdict else f"{text(step.flow.rows_out)} row{'s' * (step.flow.rows_out != 1)}, "
                mark = "[red]✗[/]" if step.decision == "refused" else "[green]✓[/]"
                self._progress.console.print(f"{mark} {step.name}: {rows}{step.seconds:.2f} s [dim]({step.reason})[/]")


def _last_seconds(catalog: Catalog, name: str) -> float:
    step = catalog.last_step(name)
    return 0.0 if step is None else step.seconds


def _print_where(project: Project) -> None:
    settings = project.settings
    report = settings.state / "report.html"
    places = {
        "lake": settings.lake,
        "warehouse": settings.warehouse,
        "models": settings.models,
        "report": report.as_uri(),
    }
    for name, place in places.items():
        out.print(f"[dim]{name:>10}[/]  {place}", soft_wrap=True)
