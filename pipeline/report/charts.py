"""A chart as it is shown, on a page or in a notebook: its drawing, notes, and its values as a text table."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from pipeline.core.definitions import Chart
from pipeline.report import words
from pipeline.report.bars import MOST, bar_chart
from pipeline.report.lines import bridges, line_chart
from pipeline.report.plot import ChartSpec, plot_of
from pipeline.report.points import ChartPoints

LISTED = 60
"""Maximum number of rows in the table below a chart."""


@dataclass(frozen=True)
class RenderedChart:
    """A chart: its drawing, and its values as a text table."""

    title: str
    table: str
    picture: Markup | None
    notes: tuple[str, ...]
    head: tuple[str, ...] = ()
    lines: tuple[tuple[str, ...], ...] = ()


def rendered(name: str, chart: Chart | None, data: ChartPoints) -> RenderedChart:
    """Return a chart of the rows with a name, or without its drawing, with the reason in its notes."""
    title = name.replace("_", " ").capitalize() if chart is None or chart.title is None else chart.title
    if chart is None or not data.points:
        return RenderedChart(title, name, None, data.notes or ("The table has no rows to draw.",))
    plot = plot_of(chart, data.points, title=title)
    text = isinstance(data.points[0][0], str)
    picture = bar_chart(plot, rows=text) if chart.kind == "bar" else line_chart(plot)
    head = (plot.x_label, *(s.name or plot.y_label for s in plot.series))
    notes = (*_notes(plot, bars=chart.kind == "bar"), *data.notes)
    return RenderedChart(title, name, picture, notes, head, _listed(plot))


def _notes(plot: ChartSpec, *, bars: bool) -> tuple[str, ...]:
    muted = [series.name for series in plot.series if series.rank is None]
    notes = []
    if muted:
        notes.append(f"Highlighted are the two highest and the two lowest by mean; gray: {', '.join(muted)}.")
    if bars and len(plot.x_ticks) > MOST:
        notes.append(f"{MOST} of {words.count(len(plot.x_ticks))} are drawn.")
    if not bars and plot.series[0].name:
        notes.append("Each line is labeled with its last value.")
    if any(bridges(plot, series) for series in plot.series):
        notes.append(f"Dotted lines span each {plot.x_label} without a value.")
    return tuple(notes)


def _listed(plot: ChartSpec) -> tuple[tuple[str, ...], ...]:
    values_at: dict[float, dict[str, str]] = {}
    for series in plot.series:
        for x, y in series.points:
            values_at.setdefault(x, {})[series.name] = plot.shown(y)
    return tuple(
        (plot.x_names[x], *(values_at[x].get(s.name, words.ABSENT) for s in plot.series))
        for x in sorted(values_at)[:LISTED]
    )
