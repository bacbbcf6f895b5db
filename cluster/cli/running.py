"""`headwater run`."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from cluster.cli.console import err, open_project, out, print_failure, print_json, text
from cluster.cli.interrupts import interrupts, leave
from cluster.cli.options import HERE, Env, Folder, Json
from cluster.cli.reporting import try_update_report, update_report
from cluster.cli.summary import print_summary
from pipeline.commit.moments import Moment
from pipeline.core.errors import DefinitionError, HeadwaterError, RequestError, quantity
from pipeline.core.event_time import parse_duration
from pipeline.governance import Catalog, RunRecord, StepRecord
from pipeline.project.project import Project
from pipeline.project.workspace import Workspace
from pipeline.runner.decide import RunOptions
from pipeline.runner.dry_run import plan_run
from pipeline.runner.events import Event, StepProgress
from pipeline.runner.runner import Runner

REFUSED = 3
TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
INTERRUPTED = 130


def run(
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
        int | None, typer.Option(min=1, help="Number of tables to compute concurrently (default: number of cores).")
    ] = None,
    deadline: Annotated[
        str | None, typer.Option(help="Ask a cluster for as many cores as are needed to end in this time: 4h, 30min.")
    ] = None,
    summary: Annotated[bool, typer.Option(help="Print the summary table at the end.")] = True,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Run the project: compute what is new or changed, in dependency order, with one commit per table."""
    project = open_project(folder, env)
    options = RunOptions(
        tuple(select or ()),
        full,
        accept_gaps,
        None if until is None else until.replace(tzinfo=UTC),
        threads,
        None if deadline is None else _duration(deadline),
    )
    if dry_run:
        from cluster.cli.planning import print_plan  # noqa: PLC0415 - a run does not need the code of streams

        planned = plan_run(Workspace(project), options)
        print_plan(planned, as_json=as_json)
        raise typer.Exit(int(any(step.decision.kind == "fail" for step in planned)))
    try:
        record, errors = _watched(project, options, quiet=as_json)
    except KeyboardInterrupt:
        err.print("interrupted; committed tables are kept, and the next run resumes from there")
        leave(INTERRUPTED)
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


def _duration(deadline: str) -> timedelta:
    try:
        return parse_duration(deadline, "--deadline")
    except DefinitionError as error:
        raise RequestError("--deadline is not a duration", got=repr(deadline), do="use 4h, 30min or 90s") from error


def _watched(project: Project, options: RunOptions, *, quiet: bool) -> tuple[RunRecord, Mapping[str, Exception]]:
    """Run with a progress line on the terminal and write the report; return the run and the errors of its steps."""
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
            with interrupts() as interrupt:
                runner = Runner(project, options, observer=interrupt.before(watcher))
                record = runner.attempt()
        except HeadwaterError as error:
            try_update_report(project, Workspace(project).catalog, quiet=quiet, known=str(error))
            raise
    update_report(project, workspace.catalog)
    return record, runner.errors


class _Watcher:
    """Turns a run's events into a progress line, and a line per completed table. Called from the steps' threads."""

    def __init__(self, progress: Progress, task: TaskID, expected: dict[str, float]) -> None:
        self._progress = progress
        self._task = task
        self._expected = expected
        self._working: dict[str, tuple[float, str]] = {}
        """For each running step, its start time and description."""
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            if event.moment is Moment.DECIDED:
                self._working[event.name] = (time.monotonic(), f"{event.name}: {event.note}")
                self._show(sum(self._expected.values()))
            elif event.moment is Moment.WORKING and event.work is not None:
                self._measure(event.name, event.work)
            elif event.moment is Moment.RECORDED and event.step is not None:
                self._working.pop(event.name, None)
                self._expected.pop(event.name, None)
                self._progress.advance(self._task)
                self._done(event.step)

    def _measure(self, name: str, work: StepProgress) -> None:
        """Show rows, speed and remaining time of a long step. Other steps are assumed to take as long as last time."""
        begun, _ = self._working[name]
        elapsed = time.monotonic() - begun
        speed = work.share * work.size_bytes / 1e6 / elapsed if elapsed else 0
        left = elapsed * (1 - work.share) / work.share if work.share else 0
        others = sum(seconds for other, seconds in self._expected.items() if other != name)
        rows = f"{quantity(int(work.share * work.rows), 'row')}, " if work.rows else ""
        self._working[name] = (begun, f"{name}: {work.share:.0%}, {rows}{speed:,.0f} MB/s")
        self._show(left + others)

    def _show(self, left: float) -> None:
        words = "; ".join(words for _, words in self._working.values())
        self._progress.update(self._task, description=words, left=f"about {left:.0f} s left" if left >= 1 else "")

    def _done(self, step: StepRecord) -> None:
        if step.is_unchanged:
            return
        if step.has_failed:
            words = "failed" if step.decision == "failed" else step.reason
            self._progress.console.print(f"[red]✗[/] {step.name}: {escape(words)}")
            return
        rows_out = step.flow.rows_out
        rows = "" if step.verdict else f"{quantity(rows_out, 'row')}, "
        flow = step.flow
        away = [f"{text(n)} {word}" for n, word in ((flow.quarantined, "quarantined"), (flow.dropped, "dropped")) if n]
        rows += "".join(f"[yellow]{part}[/], " for part in away)
        mark = "[red]✗[/]" if step.decision == "refused" else "[green]✓[/]"
        self._progress.console.print(f"{mark} {step.name}: {rows}{step.seconds:.2f} s [dim]({escape(step.reason)})[/]")


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
