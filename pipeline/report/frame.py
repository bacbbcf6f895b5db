"""The parts that line charts and bar charts share: the plot area, grid lines and axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.report.plot import ChartSpec, Tick
from pipeline.report.scales import Scale, ticks
from pipeline.report.svg import line, text, width_of

WIDTH, HEIGHT = 600, 360
MINUS = "\N{MINUS SIGN}"
SMALL = 12.0
"""Font size of the axis labels, in pixels; it must match the style sheet."""


@dataclass(frozen=True)
class Frame:
    """The edges of the plot area, in pixels."""

    left: float
    top: float
    right: float
    bottom: float


def vertical(plot: ChartSpec, values: Sequence[float], frame: Frame) -> tuple[Scale, tuple[Tick, ...]]:
    """Return a y scale that covers the values, and its ticks."""
    marks = ticks(min(values), max(values))
    scale = Scale(marks[0], marks[-1], frame.bottom, frame.top)
    return scale, tuple(Tick(value, tick_label(plot, value)) for value in marks)


def tick_label(plot: ChartSpec, value: float) -> str:
    """Format a round y value; the unit is in the axis label."""
    return f"{100 * value:.6g}" if plot.percent else f"{value:,.6g}".replace("-", MINUS)


def margin(labels: Sequence[str]) -> float:
    """Return the width needed by the labels beside an axis."""
    return max((width_of(label, SMALL) for label in labels), default=0) + 10


def grid(scale: Scale, marks: Sequence[Tick], frame: Frame) -> list[Markup]:
    """Return the horizontal grid lines with their labels; the zero line is emphasized."""
    drawn = []
    for mark in marks:
        y = scale(mark.value)
        drawn.append(line((frame.left, y), (frame.right, y), "zero" if mark.value == 0 else "grid"))
        drawn.append(text((frame.left - 8, y + 4), mark.label, "tick", anchor="end"))
    return drawn


def along(scale: Scale, marks: Sequence[Tick], frame: Frame) -> list[Markup]:
    """Return the labels below the plot area, omitting those that would overlap a neighbor."""
    drawn, free = [], float("-inf")
    for mark in marks:
        half = width_of(mark.label, SMALL) / 2
        x = min(max(scale(mark.value), half), WIDTH - half)
        if x - half >= free:
            drawn.append(text((x, frame.bottom + 18), mark.label, "tick", anchor="middle"))
            free = x + half + 6
    return drawn


def axis_names(plot: ChartSpec, frame: Frame) -> list[Markup]:
    """Return the axis titles: y above its labels, x centered below its labels."""
    middle = (frame.left + frame.right) / 2
    return [
        text((4, 14), plot.y_label, "axis"),
        text((middle, frame.bottom + 38), plot.x_label, "axis", anchor="middle"),
    ]
