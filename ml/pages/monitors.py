"""The page of monitors: drift and performance over their newest windows, and what is in alarm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from markupsafe import Markup

from ml.monitoring import Monitor, PerformanceMonitor
from ml.monitoring.alarm_rules import NO_DATA, NOT_JUDGED, QUIET, STATES
from ml.monitoring.counts import LEAST_REFERENCE
from ml.monitoring.incidents import Incident
from ml.monitoring.status import monitors, open_alarms, options_of
from ml.pages.current import current_version
from ml.pages.strips import StateSeries, strips
from pipeline.core.definitions import Chart
from pipeline.core.errors import HeadwaterError, quantity
from pipeline.kernel.sql_text import literal, quoted
from pipeline.project.workspace import Workspace
from pipeline.report import words
from pipeline.report.charts import RenderedChart, rendered
from pipeline.report.headline import Figure
from pipeline.report.points import ChartPoints, points_of, points_query

WINDOWS = 60
"""The number of windows that the page shows."""
SERIES = 40
"""The number of series whose states are drawn."""
LISTED = 12
"""The number of results in the table of a monitor of performance, and of those that are not quiet of another one."""


@dataclass(frozen=True)
class MonitorSummary:
    """A monitor as the page shows it."""

    name: str
    description: str
    rule: str
    subject: str
    """What an alarm without a feature is about."""
    newest: str = ""
    is_judged: bool = False
    """Whether the newest window is judged."""
    alarms: tuple[Incident, ...] = ()
    chart: RenderedChart | None = None
    strip: Markup | None = None
    notes: tuple[str, ...] = ()
    head: tuple[str, ...] = ()
    lines: tuple[tuple[str, ...], ...] = ()
    problem: str = ""

    @property
    def state(self) -> str:
        """The state in words."""
        if self.problem:
            return "not readable"
        if self.alarms or not self.newest:
            return quantity(len(self.alarms), "open alarm") if self.alarms else "no windows yet"
        return QUIET if self.is_judged else NOT_JUDGED

    @property
    def tone(self) -> str:
        """How the state is colored."""
        return "alarm" if self.alarms or self.problem else "accepted" if self.is_judged else ""


def monitor_values(workspace: Workspace, at: datetime) -> Mapping[str, Any]:
    """Return the values of the template; `at` is the time of the page."""
    del at
    shown = tuple(_summary(workspace, monitor) for monitor in monitors(workspace))
    alarms = sum(len(each.alarms) for each in shown)
    alarmed = ", ".join(each.name for each in shown if each.alarms)
    waiting = [each.name for each in shown if not each.newest]
    figures = (
        Figure("Monitors", words.count(len(shown)), f"the newest {WINDOWS} windows of each"),
        Figure("Open alarms", words.count(alarms), alarmed or "all quiet", alarm=bool(alarms)),
        Figure("Without windows", words.count(len(waiting)), ", ".join(waiting) or "each monitor has windows"),
    )
    return {"shown": shown, "figures": figures}


def _summary(workspace: Workspace, monitor: Monitor | PerformanceMonitor) -> MonitorSummary:
    rule = _drift_rule(monitor) if isinstance(monitor, Monitor) else _limit(monitor)
    subject = "all features" if isinstance(monitor, Monitor) else monitor.transform.options.metric
    known = MonitorSummary(monitor.name, monitor.description, rule, subject)
    try:
        version, none = current_version(workspace, monitor)
        if version is None:
            return replace(known, notes=(none,))
        newest, alarms = open_alarms(workspace, monitor)
        if newest is None:
            return replace(known, notes=(_without_windows(monitor),))
        return _with_windows(workspace, monitor, replace(known, newest=newest, alarms=tuple(alarms)))
    except HeadwaterError as error:
        return replace(known, problem=str(error))


def _without_windows(monitor: Monitor | PerformanceMonitor) -> str:
    if isinstance(monitor, Monitor):
        return f"There are no windows: the reference has fewer than {LEAST_REFERENCE} rows, or {monitor.of!r} has none with a time."
    return f"There are no windows: {monitor.of!r} has no rows with a time."


def _with_windows(workspace: Workspace, monitor: Monitor | PerformanceMonitor, known: MonitorSummary) -> MonitorSummary:
    name, options = quoted(monitor.name), options_of(monitor)
    span = int((options.window * WINDOWS).total_seconds())
    recent = (
        f"select * replace (window_start::timestamp as window_start) from {name} where window_start > "
        f"(select max(window_start) from {name}) - interval '{span}' second"
    )
    rows = workspace.query(f"{recent} order by window_start").to_pylist()
    series = _series(rows, options.by)
    drawn = sorted(series, key=lambda each: each.rank)[:SERIES]
    notes = [f"{len(series) - SERIES:,} more series have fewer alarms."] if len(series) > SERIES else []
    if isinstance(monitor, Monitor):
        chart, value = _drift_chart(workspace, monitor, recent), "psi"
        listed = [row for row in reversed(rows) if row["state"] not in {QUIET, NO_DATA}][:LISTED]
    else:
        chart, value = _performance_chart(workspace, monitor, recent), monitor.transform.options.metric
        listed = rows[: -LISTED - 1 : -1]
    columns = _columns(listed, options.by, value, is_drift=isinstance(monitor, Monitor))
    windows = sorted({row["window_start"] for row in rows})
    return replace(
        known,
        newest=known.newest[:16],
        is_judged=any(row["state"] in STATES for row in rows if row["window_start"] == windows[-1]),
        chart=chart,
        strip=strips(drawn, windows) if drawn else None,
        notes=tuple(notes),
        head=tuple(name.replace("_", " ") for name in columns),
        lines=tuple(tuple(_shown(row[column], column) for column in columns) for row in listed),
    )


def _columns(rows: Sequence[Mapping[str, Any]], by: Sequence[str], value: str, *, is_drift: bool) -> list[str]:
    expected = f"expected_{value}"
    middle = ["rows"] if is_drift else ["rows", "labelled_share"]
    more = [expected] if rows and expected in rows[0] else []
    segment = ["segment"] if any(row["segment"] is not None for row in rows) else []
    return [
        "window_start",
        *by,
        *segment,
        *(["feature"] if is_drift else []),
        value,
        *more,
        *middle,
        "state",
        "reason",
    ]


def _shown(value: Any, column: str) -> str:
    if value is None:
        return words.ABSENT
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, float):
        return words.percent(value) if words.is_share(column) and 0 <= value <= 1 else words.figure(value)
    return words.count(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _series(rows: Sequence[Mapping[str, Any]], by: Sequence[str]) -> list[StateSeries]:
    states: dict[str, dict[datetime, str]] = {}
    for row in rows:
        parts = [row.get("feature") or "", *(f"{name} {row[name]}" for name in by), row["segment"] or ""]
        name = " · ".join(part for part in parts if part) or "all rows"
        states.setdefault(name, {})[row["window_start"]] = row["state"]
    return [StateSeries(name, found) for name, found in states.items()]


def _drift_chart(workspace: Workspace, monitor: Monitor, recent: str) -> RenderedChart:
    by = "".join(f" || ' · ' || coalesce({quoted(name)}::varchar, '')" for name in monitor.monitored.by)
    query = (
        f'select window_start as "window", psi, feature{by} as series from ({recent}) as recent where segment is null'
    )
    chart = Chart("line", x="window", y="psi", by="series", title="Drift (PSI) by feature, all rows")
    return _chart(workspace, chart, query)


def _performance_chart(workspace: Workspace, monitor: PerformanceMonitor, recent: str) -> RenderedChart:
    options = monitor.transform.options
    by = " || ' ' || ".join(f"coalesce({quoted(name)}::varchar, '')" for name in options.by) or literal(options.metric)
    part = f"from ({recent}) as recent where segment is null"
    selects = [f'select window_start as "window", {quoted(options.metric)}, {by} as series {part}']
    if options.task == "binary" and options.metric in {"auc", "accuracy"}:
        selects.append(f"select window_start, {quoted(f'expected_{options.metric}')}, {by} || ' expected' {part}")
    selects.append(f"select distinct window_start, {options.limit!r}, 'limit' {part}")
    chart = Chart("line", x="window", y=options.metric, by="series", title=f"{options.metric.capitalize()} of all rows")
    return _chart(workspace, chart, " union all ".join(selects))


def _chart(workspace: Workspace, chart: Chart, query: str) -> RenderedChart:
    fetched = [tuple(row.values()) for row in workspace.query(points_query(chart, query)).to_pylist()]
    return rendered("", chart, points_of(chart, fetched, len(fetched)) if fetched else ChartPoints())


def _drift_rule(monitor: Monitor) -> str:
    rule = monitor.monitored.alarms
    return (
        f"An index (PSI) from {rule.enter:g} on is high, one below {rule.leave:g} low; an alarm starts when {rule.windows} of "
        f"{quantity(rule.of, 'window')} are high, and ends when as many are low."
    )


def _limit(monitor: PerformanceMonitor) -> str:
    options = monitor.transform.options
    side = "at least" if options.is_higher_better else "at most"
    return f"The {options.metric} must be {side} {options.limit:g}; a window is judged when {options.maturity:.0%} of its rows have labels."
