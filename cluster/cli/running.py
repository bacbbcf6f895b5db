"""`headwater run`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from cluster.cli.console import HERE, Env, Folder, Json, err, open_project, out, print_json, text
from cluster.cli.interrupts import interrupts
from cluster.cli.planning import print_plan
from cluster.cli.summary import print_summary
from pipeline.core.errors import HeadwaterError
from pipeline.governance import Catalog, Run, Step
from pipeline.run.decide import Options
from pipeline.run.events import Event, Moment, Work
from pipeline.run.foresight import foresee
from pipeline.run.project import Project
from pipeline.run.report import write_report
from pipeline.run.runner import Runner
from pipeline.run.workspace import Workspace

REFUSED = 3
TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
INTERRUPTED = 130


def run(
    select: Annotated[
        list[str] | None,
        typer.Option("--select", "-s", help="Only these: NAME, +NAME with its inputs, NAME+ with its readers."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Recompute what is up to date, too.")] = False,
    until: Annotated[
        datetime | None, typer.Option(help="Read sources only as far as they were at this time, in UTC.", formats=TIMES)
    ] = None,
    accept_gaps: Annotated[
        bool, typer.Option("--accept-gaps", help="Go on where a source deleted something before it was read.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and do nothing.")] = False,
    summary: Annotated[bool, typer.Option(help="Print the summary table at the end.")] = True,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Run the project: what is new or changed, in order, each table committed once."""
    project = open_project(folder, env)
    options = Options(tuple(select or ()), full, accept_gaps, None if until is None else until.replace(tzinfo=UTC))
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
    if done.status == "failed":
        raise typer.Exit(1)
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
            with interrupts() as asked:
                done = Runner(project, options, observer=asked.before(watcher)).run()
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
    """Turns a run's events into a progress line, and a line for each table done."""

    def __init__(self, progress: Progress, task: TaskID, expected: dict[str, float]) -> None:
        self._progress = progress
        self._task = task
        self._expected = expected
        self._begun = time.monotonic()

    def __call__(self, event: Event) -> None:
        if event.moment is Moment.DECIDED:
            self._begun = time.monotonic()
            self._line(f"{event.name}: {event.note}", sum(self._expected.values()))
        elif event.moment is Moment.WORKING and event.work is not None:
            self._working(event.name, event.work)
        elif event.moment is Moment.RECORDED and event.step is not None:
            self._expected.pop(event.name, None)
            self._progress.advance(self._task)
            self._done(event.step)

    def _working(self, name: str, work: Work) -> None:
        """Show rows, speed and time left of a long step; the others left are taken to last as they last did."""
        elapsed = time.monotonic() - self._begun
        speed = work.share * work.size_bytes / 1e6 / elapsed if elapsed else 0
        left = elapsed * (1 - work.share) / work.share if work.share else 0
        others = sum(seconds for other, seconds in self._expected.items() if other != name)
        rows = f"{text(int(work.share * work.rows))} rows, " if work.rows else ""
        self._line(f"{name}: {work.share:.0%}, {rows}{speed:,.0f} MB/s", left + others)

    def _line(self, words: str, left: float) -> None:
        self._progress.update(self._task, description=words, left=f"about {left:.0f} s left" if left >= 1 else "")

    def _done(self, step: Step) -> None:
        if step.decision == "skip":
            return
        made = step.flow.rows_out
        rows = "" if step.verdict else f"{text(made)} row{'s' * (made != 1)}, "
        flow = step.flow
        away = [f"{text(n)} {word}" for n, word in ((flow.quarantined, "quarantined"), (flow.dropped, "dropped")) if n]
        rows += "".join(f"[yellow]{part}[/], " for part in away)
        mark = "[red]✗[/]" if step.decision in {"refused", "failed"} else "[green]✓[/]"
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
