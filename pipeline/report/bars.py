"""Bar charts with a zero baseline: vertical for numbers and times, horizontal for text."""

from __future__ import annotations

from dataclasses import replace

from markupsafe import Markup

from pipeline.report.frame import HEIGHT, SMALL, WIDTH, Frame, along, axis_names, grid, margin, vertical
from pipeline.report.plot import ChartSpec, Series
from pipeline.report.scales import Scale
from pipeline.report.svg import element, line, picture, shortened, text, width_of

MOST = 40
"""Maximum number of groups: the first (largest) ones of text, the last ones of numbers."""
NAMED = 20
"""Maximum length of a label beside a bar, in characters."""


def bar_chart(plot: ChartSpec, *, rows: bool) -> Markup:
    """Draw a plot with at least one point, as rows (for text) or columns."""
    plot = trimmed(plot, first=rows)
    return _rows(plot) if rows else _columns(plot)


def trimmed(plot: ChartSpec, *, first: bool) -> ChartSpec:
    """Return a plot with at most `MOST` groups, the first or the last ones, with x renumbered from 0."""
    ticks_kept = plot.x_ticks[:MOST] if first else plot.x_ticks[-MOST:]
    start = ticks_kept[0].value
    kept = {tick.value for tick in ticks_kept}
    series = tuple(replace(s, points=tuple((x - start, y) for x, y in s.points if x in kept)) for s in plot.series)
    moved = tuple(replace(tick, value=tick.value - start) for tick in ticks_kept)
    return replace(plot, x_ticks=moved, series=tuple(s for s in series if s.points))


def _columns(plot: ChartSpec) -> Markup:
    values = [0.0, *(y for series in plot.series for _, y in series.points)]
    frame = Frame(0, 34 + _legend_room(plot), WIDTH - 8, HEIGHT - 48)
    y, marks = vertical(plot, values, frame)
    frame = replace(frame, left=margin([mark.label for mark in marks]))
    x = Scale(-0.5, len(plot.x_ticks) - 0.5, frame.left, frame.right)
    slot = (frame.right - frame.left) / len(plot.x_ticks) * 0.76 / len(plot.series)
    bars = []
    for number, series in enumerate(plot.series):
        shift = (number - len(plot.series) / 2) * slot
        for place, value in series.points:
            top, bottom = sorted((y(value), y(0)))
            box = (x(place) + shift, top, slot, bottom - top)
            bars.append(_bar(plot, series, place, value, box))
    names = [*grid(y, marks, frame), *bars, *_legend(plot), *along(x, plot.x_ticks, frame), *axis_names(plot, frame)]
    return picture(WIDTH, HEIGHT, _text_alternative(plot), *names, class_="chart")


def _rows(plot: ChartSpec) -> Markup:
    values = [0.0, *(y for series in plot.series for _, y in series.points)]
    thick = 16 if len(plot.series) == 1 else 10
    height = len(plot.x_ticks) * (thick * len(plot.series) + 6)
    left = margin([shortened(tick.label, NAMED) for tick in plot.x_ticks])
    top = 44 + _legend_room(plot)
    frame = Frame(left, top, WIDTH - margin([plot.shown(value) for value in values]) - 4, top + height)
    x = Scale(min(values), max(values) or 1.0, frame.left, frame.right)
    drawn = [text((frame.left, frame.top - 14), plot.y_label, "axis")]
    drawn.append(line((x(0), frame.top - 6), (x(0), frame.bottom), "zero"))
    for tick in plot.x_ticks:
        y = frame.top + (tick.value + 0.5) * height / len(plot.x_ticks)
        drawn.append(
            text((frame.left - 8, y + 4), shortened(tick.label, NAMED), "tick", anchor="end", hover=tick.label)
        )
    for number, series in enumerate(plot.series):
        for place, value in series.points:
            y = frame.top + (place + 0.5) * height / len(plot.x_ticks) + (number - len(plot.series) / 2) * thick
            start, end = sorted((x(value), x(0)))
            drawn.append(_bar(plot, series, place, value, (start, y, end - start, thick - 2)))
            drawn.append(text((max(end, x(0)) + 6, y + thick / 2 + 3), plot.shown(value), "tick"))
    return picture(WIDTH, frame.bottom + 12, _text_alternative(plot), *drawn, *_legend(plot), class_="chart")


def _bar(plot: ChartSpec, series: Series, place: float, value: float, box: tuple[float, float, float, float]) -> Markup:
    name = plot.x_ticks[int(place)].label
    of = f"{series.name}, {plot.x_label} {name}" if series.name else f"{plot.x_label} {name}"
    colour = "muted" if series.rank is None else f"s{series.rank}"
    x, y, width, height = box
    shape = element("rect", x=x, y=y, width=max(width, 0.5), height=max(height, 0.5), class_="bar")
    return element("g", element("title", f"{of}: {plot.shown(value)}"), shape, class_=colour)


def _legend_room(plot: ChartSpec) -> float:
    return 22 if len(plot.series) > 1 else 0


def _legend(plot: ChartSpec) -> list[Markup]:
    """Return a legend of the highlighted series; all others share one entry."""
    if len(plot.series) == 1:
        return []
    entries = [(f"s{s.rank}", shortened(s.name, 14)) for s in plot.highlighted]
    others = len(plot.series) - len(entries)
    entries += [("muted", f"{others} others")] if others else []
    drawn, x = [], 4.0
    for colour, name in entries:
        swatch = element("rect", x=x, y=26, width=10, height=10, class_="bar")
        drawn.append(element("g", swatch, text((x + 15, 35), name, "tick"), class_=colour))
        x += 15 + width_of(name, SMALL) + 14
    return drawn


def _text_alternative(plot: ChartSpec) -> str:
    """Return a text alternative for the drawing."""
    points = [(value, place) for series in plot.series for place, value in series.points]
    (low, at_low), (high, at_high) = min(points), max(points)
    return (
        f"Bar chart: {plot.title}. {plot.y_label} by {plot.x_label}: from {plot.shown(low)} at "
        f"{plot.x_ticks[int(at_low)].label} to {plot.shown(high)} at {plot.x_ticks[int(at_high)].label}."
    )
