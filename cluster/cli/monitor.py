"""`headwater monitor`: the monitors of a project, their open alarms, and reports of their windows."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from cluster.cli.console import grid, open_workspace, out, print_json, print_rows
from cluster.cli.options import HERE, Env, Folder, Json
from pipeline.core.errors import RequestError, did_you_mean, quantity
from pipeline.kernel.sql_text import quoted

if TYPE_CHECKING:
    from ml.monitoring import Monitor, PerformanceMonitor
    from ml.monitoring.incidents import Incident
    from pipeline.project.workspace import Workspace

app = typer.Typer(no_args_is_help=True, help="List monitors, show their open alarms, and write Evidently's reports.")
_INCIDENT = ("since", "feature", "by", "segments", "reason")


@app.command()
def ls(
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if an alarm is open.")] = False,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """List the monitors with their newest window and the number of open alarms."""
    from ml.monitoring.status import monitors, open_alarms  # noqa: PLC0415 - imports DuckDB

    workspace = open_workspace(folder, env)
    rows = []
    for monitor in monitors(workspace):
        newest, alarms = open_alarms(workspace, monitor)
        rows.append({"name": monitor.name, "of": monitor.of, "newest_window": newest, "open_alarms": len(alarms)})
    if as_json:
        print_json(rows)
    else:
        grid(
            None,
            ("name", "of", "newest window", "open alarms"),
            [tuple(row.values()) for row in rows],
            right="open alarms",
        )
    if check and any(row["open_alarms"] for row in rows):
        raise typer.Exit(1)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of a monitor.")],
    limit: Annotated[int, typer.Option(help="Number of results to show.", min=0)] = 20,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Show a monitor: its open alarms, and the newest results that are not quiet."""
    from ml.monitoring import Monitor  # noqa: PLC0415 - imports DuckDB
    from ml.monitoring.counts import LEAST_REFERENCE  # noqa: PLC0415 - likewise
    from ml.monitoring.status import open_alarms, options_of  # noqa: PLC0415 - likewise

    workspace = open_workspace(folder, env)
    monitor = monitor_named(workspace, name)
    newest, alarms = open_alarms(workspace, monitor)
    if as_json:
        print_json(
            {"name": name, "of": monitor.of, "newest_window": newest, "open_alarms": [asdict(i) for i in alarms]}
        )
        return
    out.print(f"[bold]{name}[/]  {escape(monitor.description)}")
    out.print(f"{quantity(len(alarms), 'open alarm')}; newest window {newest or 'none'}")
    if newest is None and isinstance(monitor, Monitor) and workspace.version(name) is not None:
        out.print(f"The reference has fewer than {LEAST_REFERENCE} rows: there are no bins, and nothing is compared.")
    if alarms:
        grid(None, _INCIDENT, [tuple(_shown(incident).values()) for incident in alarms])
    columns = (
        "feature, round(psi, 3) as psi"
        if isinstance(monitor, Monitor)
        else f"round({monitor.transform.options.metric}, 4) as {monitor.transform.options.metric}"
    )
    by = "".join(f"{quoted(column)}, " for column in options_of(monitor).by)
    results = workspace.query(
        f"select window_start::timestamp as window_start, {by}segment, {columns}, rows, state, reason from {quoted(name)} "
        f"where state <> 'quiet' order by all desc limit {limit}"
    )
    if results.num_rows:
        out.print()
        print_rows(results, as_json=False, most=limit)


@app.command()
def report(
    name: Annotated[str, typer.Argument(help="Name of a monitor.")],
    into: Annotated[Path, typer.Option("--out", help="Folder of report.html and report.json.")],
    window: Annotated[
        str | None, typer.Option(help="Start of the window (ISO 8601, UTC); by default the newest.", show_default=False)
    ] = None,
    rows: Annotated[
        int, typer.Option(help="Rows of the samples of window and reference.", min=100, max=100_000)
    ] = 10_000,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if one of Evidently's tests fails.")] = False,
    env: Env = None,
    as_json: Json = False,
    folder: Folder = HERE,
) -> None:
    """Write Evidently's report of samples of a window and its reference."""
    from cluster.cli.monitor_reports import newest_window, window_report  # noqa: PLC0415 - imports DuckDB
    from ml.monitoring import Monitor  # noqa: PLC0415 - likewise
    from ml.monitoring.evidently_report import FILES  # noqa: PLC0415 - likewise

    workspace = open_workspace(folder, env)
    monitor = monitor_named(workspace, name)
    if not isinstance(monitor, Monitor):
        raise RequestError(
            f"{name!r} measures performance, and has no features to report", do="name a monitor of features"
        )
    start = newest_window(workspace, monitor) if window is None else _time(window)
    samples, tests = window_report(workspace, monitor, start, rows, into)
    failed = [test for test in tests if not test.has_passed]
    if as_json:
        print_json(
            {
                "window": start,
                "rows": samples[0],
                "reference_rows": samples[1],
                "tests": [asdict(test) for test in tests],
            }
        )
    else:
        out.print(f"window {start:%Y-%m-%d %H:%M}, {samples[0]:,} rows against {samples[1]:,}")
        out.print(f"{len(tests) - len(failed)} of {quantity(len(tests), 'test')} passed")
        if failed:
            grid(None, ("failed test", "description"), [(test.name, test.description) for test in failed])
        out.print(f"report {(into / FILES[0]).resolve().as_uri()}")
    if check and failed:
        raise typer.Exit(1)


def _time(text: str) -> datetime:
    """Return the start of a window; raise `RequestError` if it is not a time."""
    try:
        start = datetime.fromisoformat(text)
    except ValueError as error:
        raise RequestError("--window is not a time", got=repr(text), do="write 2026-03-14") from error
    return start.replace(tzinfo=UTC) if start.tzinfo is None else start.astimezone(UTC)


def monitor_named(workspace: Workspace, name: str) -> Monitor | PerformanceMonitor:
    """Return a monitor; raise `RequestError` if there is none of this name."""
    from ml.monitoring.status import monitors  # noqa: PLC0415 - imports DuckDB

    known = {monitor.name: monitor for monitor in monitors(workspace)}
    if name not in known:
        do = did_you_mean(name, known) if known else "define one with monitor(…)"
        raise RequestError(f"{name!r} is not a monitor", do=do)
    return known[name]


def _shown(incident: Incident) -> dict[str, str]:
    values = {**asdict(incident), "segments": ", ".join(incident.segments), "since": f"{incident.since:%Y-%m-%d %H:%M}"}
    return {name: values[name] for name in _INCIDENT}
