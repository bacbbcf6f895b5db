"""Evidently's reports of monitors: on demand, and at the end of a run for the monitors that declare them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from rich.markup import escape

from cluster.cli.console import err
from cluster.jobs import report_file
from ml.monitoring import Monitor
from ml.monitoring.evidently_report import EvidentlyTest, reference_query, sample_query, write_evidently_report
from ml.monitoring.references import Fixed
from pipeline.core.errors import HeadwaterError, RequestError
from pipeline.governance import RunRecord
from pipeline.kernel.sql_text import quoted
from pipeline.project.workspace import Workspace

SAMPLED = 10_000
"""The rows of each sample."""


def window_report(
    workspace: Workspace, monitor: Monitor, start: datetime, rows: int, into: Path
) -> tuple[tuple[int, int], list[EvidentlyTest]]:
    """Write the report of a window to a folder; return the rows of both samples, and the results of the tests.

    Errors are those of `write_evidently_report`.
    """
    reference = monitor.monitored.reference
    examples = workspace.definition(reference.rows.table) if isinstance(reference, Fixed) else None
    current = workspace.query(sample_query(monitor, start, rows))
    compared = workspace.query(reference_query(monitor, start, rows, examples))
    tests = write_evidently_report(monitor, current, compared, into)
    return (current.num_rows, compared.num_rows), tests


def newest_window(workspace: Workspace, monitor: Monitor) -> datetime:
    """Return the start of the newest window of a monitor; raise `RequestError` if it has none."""
    newest: datetime | None = None
    if workspace.version(monitor.name) is not None:
        query = f"select max(window_start)::timestamp as newest from {quoted(monitor.name)}"
        newest = workspace.query(query)["newest"][0].as_py()
    if newest is None:
        raise RequestError(f"monitor {monitor.name!r} has no windows yet", do="headwater run")
    return newest.replace(tzinfo=UTC)


def update_monitor_reports(workspace: Workspace, record: RunRecord) -> list[Path]:
    """Write the reports of the monitors that declare one and that a run has computed; return their files.

    They are in `monitors/NAME` beside the report of the run. A report that cannot be written is said, and does not fail the run.
    """
    written = []
    computed = {step.name for step in record.steps if step.is_done}
    for monitor in workspace.project.graph.all_of(Monitor):
        if monitor.has_report and monitor.name in computed:
            into = report_file(workspace.settings).parent / "monitors" / monitor.name
            try:
                window_report(workspace, monitor, newest_window(workspace, monitor), SAMPLED, into)
                written.append(into / "report.html")
            except HeadwaterError as error:
                err.print(f"no report of monitor {monitor.name}: {escape(str(error))}")
    return written
