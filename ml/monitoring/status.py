"""Where the monitors of a project stand: their newest windows and their open alarms."""

from __future__ import annotations

from ml.monitoring.definition import Monitor
from ml.monitoring.incidents import Incident, incidents
from ml.monitoring.monitored import Monitored
from ml.monitoring.performance_monitor import PerformanceMonitor
from ml.monitoring.performance_options import PerformanceOptions
from pipeline.kernel.sql_text import quoted
from pipeline.project.workspace import Workspace


def monitors(workspace: Workspace) -> tuple[Monitor | PerformanceMonitor, ...]:
    """Return the monitors of the project."""
    graph = workspace.project.graph
    return (*graph.all_of(Monitor), *graph.all_of(PerformanceMonitor))


def options_of(monitor: Monitor | PerformanceMonitor) -> Monitored | PerformanceOptions:
    """Return the options that decide its results."""
    return monitor.monitored if isinstance(monitor, Monitor) else monitor.transform.options


def open_alarms(workspace: Workspace, monitor: Monitor | PerformanceMonitor) -> tuple[str | None, list[Incident]]:
    """Return the newest window of a monitor, and its open alarms; `None` if it was not computed yet or has no windows."""
    if workspace.version(monitor.name) is None:
        return None, []
    options = options_of(monitor)
    span = int((options.window * options.alarms.of).total_seconds())
    newest = workspace.query(
        f"select max(window_start)::timestamp::varchar as newest from {quoted(monitor.name)}"
    ).to_pylist()
    recent = workspace.query(
        f"select * from {quoted(monitor.name)} where window_start > "
        f"(select max(window_start) from {quoted(monitor.name)}) - interval '{span}' second"
    )
    alarms = incidents(recent.to_pylist(), options.by, options.window, options.alarms.of)
    return newest[0]["newest"] if newest else None, alarms
