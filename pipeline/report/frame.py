"""What a line chart and a bar chart have in common: the room they draw in, grid lines and axes."""

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
"""The size of the letters at the axes, in pixels; the style sheet says the same."""


@dataclass(frozen=True)
class Frame:
    """The sides of the area in which values are drawn, in pixels."""

    left: float
    top: float
    right: float
    bottom: float


def vertical(plot: ChartSpec, values: Sequence[float], frame: Frame) -> tuple[Scale, tuple[Tick, ...]]:
    """Return a scale from the bottom of a frame to its top that encloses the values, and its ticks."""
    marks = ticks(min(values), max(values))
    scale = Scale(marks[0], marks[-1], frame.bottom, frame.top)
    return scale, tuple(Tick(value, tick_label(plot, value)) for value in marks)


def tick_label(plot: ChartSpec, value: float) -> str:
    """Return a round y value in words; the unit stands in the label of the axis."""
    return f"{100 * value:.6g}" if plot.percent else f"{value:,.6g}".replace("-", MINUS)


def margin(labels: Sequence[str]) -> float:
    """Return the room that labels beside an axis need."""
    return max((width_of(label, SMALL) for label in labels), default=0) + 10


def grid(scale: Scale, marks: Sequence[Tick], frame: Frame) -> list[Markup]:
    """Return the horizontal grid lines with their labels; the line at zero stands out."""
    drawn = []
    for mark in marks:
        y = scale(mark.value)
        drawn.append(line((frame.left, y), (frame.right, y), "zero" if mark.value == 0 else "grid"))
        drawn.append(text((frame.left - 8, y + 4), mark.label, "tick", anchor="end"))
    return drawn


def along(scale: Scale, marks: Sequence[Tick], frame: Frame) -> list[Markup]:
    """Return the labels below a frame, leaving out what would run into its neighbour."""
    drawn, free = [], float("-inf")
    for mark in marks:
        half = width_of(mark.label, SMALL) / 2
        x = min(max(scale(mark.value), half), WIDTH - half)
        if x - half >= free:
            drawn.append(text((x, frame.bottom + 18), mark.label, "tick", anchor="middle"))
            free = x + half + 6
    return drawn


def axis_names(plot: ChartSpec, frame: Frame) -> list[Markup]:
    """Return what the axes show: y above its labels, x below the middle of its own."""
    middle = (frame.left + frame.right) / 2
    return [
        text((4, 14), plot.y_label, "axis"),
        text((middle, frame.bottom + 38), plot.x_label, "axis", anchor="middle"),
    ]
