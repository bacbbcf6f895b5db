"""Line charts: highlighted series are colored and labeled at their ends, the others are gray."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from markupsafe import Markup

from pipeline.report.frame import HEIGHT, SMALL, WIDTH, Frame, along, axis_names, grid, margin, vertical
from pipeline.report.plot import ChartSpec, Series
from pipeline.report.scales import Scale, apart
from pipeline.report.svg import element, line, picture, shortened, text

SHARED = 60
"""Up to this number of x values, every series is expected to have a value at each of them."""
LETTERS = 18
"""Maximum length of a label at the end of a line, in characters; the full name is in the tooltip."""


def line_chart(plot: ChartSpec) -> Markup:
    """Draw a plot with at least one point."""
    values = [y for series in plot.series for _, y in series.points]
    label_room = margin([_label(plot, s) for s in plot.highlighted]) + 12
    frame = Frame(0, 34, WIDTH - label_room, HEIGHT - 48)
    y, marks = vertical(plot, values, frame)
    frame = Frame(margin([mark.label for mark in marks]), frame.top, frame.right, frame.bottom)
    places = [x for series in plot.series for x, _ in series.points]
    x = Scale(min(places), max(places), frame.left + 6, frame.right - 6)
    muted = [series for series in plot.series if series.rank is None]
    return picture(
        WIDTH,
        HEIGHT,
        _text_alternative(plot),
        *grid(y, marks, frame),
        *along(x, plot.x_ticks, frame),
        *axis_names(plot, frame),
        *(_curve(plot, series, x, y) for series in (*muted, *reversed(plot.highlighted))),
        *_names(plot, x, y, frame),
        class_="chart",
    )


def _curve(plot: ChartSpec, series: Series, x: Scale, y: Scale) -> Markup:
    colour = "muted" if series.rank is None else f"s{series.rank}"
    placed = [(x(a), y(b)) for a, b in series.points]
    dotted = bridges(plot, series)
    path = "".join(f"{'M' if i == 0 or i in dotted else 'L'}{a:.1f} {b:.1f}" for i, (a, b) in enumerate(placed))
    shapes = [element("path", d=path, class_="line")]
    shapes += [element("path", d=_svg_path(placed[i - 1 : i + 1]), class_="bridge") for i in sorted(dotted)]
    alone = [i for i in range(len(placed)) if i in {0, *dotted} and i + 1 in {len(placed), *dotted}]
    shapes += [element("circle", cx=placed[i][0], cy=placed[i][1], r=2, class_="dot") for i in alone]
    span = f"mean {plot.shown(series.mean)}, last {plot.shown(series.points[-1][1])}"
    return element("g", element("title", f"{series.name}: {span}" if series.name else span), *shapes, class_=colour)


def bridges(plot: ChartSpec, series: Series) -> frozenset[int]:
    """Return the points before which a series lacks a value that other series have.

    If the x axis has too many values for all series to share, nothing is considered missing.
    """
    places = sorted(plot.x_names)
    if len(places) > SHARED:
        return frozenset()
    number = {x: i for i, x in enumerate(places)}
    steps = [number[x] for x, _ in series.points]
    return frozenset(i for i in range(1, len(steps)) if steps[i] - steps[i - 1] > 1)


def _svg_path(placed: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)


def _names(plot: ChartSpec, x: Scale, y: Scale, frame: Frame) -> list[Markup]:
    """Label each highlighted series at its end; overlapping labels are moved apart and connected to their line."""
    ends = sorted(plot.highlighted, key=lambda series: y(series.points[-1][1]))
    heights = [y(series.points[-1][1]) for series in ends]
    drawn = []
    for series, at, moved in zip(ends, heights, apart(heights, SMALL + 4, frame.top, frame.bottom), strict=True):
        end = (x(series.points[-1][0]), at)
        parts = [
            element("circle", cx=end[0], cy=at, r=3, class_="dot"),
            text((frame.right + 14, moved + 4), _label(plot, series), "name", hover=series.name),
        ]
        if series.name and (abs(moved - at) > 1 or end[0] < frame.right - 8):
            parts += _leader([(end[0] + 4, at), (frame.right + 2, at), (frame.right + 11, moved)])
        drawn.append(element("g", *parts, class_=f"s{series.rank}"))
    return drawn


def _leader(points: Sequence[tuple[float, float]]) -> list[Markup]:
    return [line(start, end, "leader") for start, end in pairwise(points) if end[0] > start[0]]


def _label(plot: ChartSpec, series: Series) -> str:
    return f"{shortened(series.name, LETTERS)} {plot.shown(series.points[-1][1])}".strip()


def _text_alternative(plot: ChartSpec) -> str:
    """Return a text alternative for the drawing."""
    many = f", {len(plot.series)} lines" if len(plot.series) > 1 else ""
    named = "; ".join(f"{s.name or plot.y_label} mean {plot.shown(s.mean)}" for s in plot.highlighted)
    return f"Line chart: {plot.title}. {plot.y_label} by {plot.x_label}{many}. {named}."
