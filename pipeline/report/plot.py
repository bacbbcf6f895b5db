"""The contents of a chart, computed from its points: axes with ticks, series, and the highlighted ones."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from pipeline.core.definitions import Chart
from pipeline.report import words
from pipeline.report.scales import inside

COLOURED = 6
"""Up to this number of series, each is colored; otherwise the two highest and the two lowest."""
TICKED = 16
"""Up to this number of integers on the x axis, each has a tick."""


@dataclass(frozen=True)
class Tick:
    """A position on an axis and its label."""

    value: float
    label: str


@dataclass(frozen=True)
class Series:
    """A line, or the bars of one color: points sorted by x. `rank` numbers the highlighted series from 0."""

    name: str
    points: tuple[tuple[float, float], ...]
    rank: int | None = None

    @property
    def mean(self) -> float:
        """The mean of the y values."""
        return statistics.fmean(y for _, y in self.points)


@dataclass(frozen=True)
class ChartSpec:
    """A chart without its pixel coordinates."""

    title: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    x_names: Mapping[float, str]
    """The label of every position on the x axis, with or without a tick."""
    series: tuple[Series, ...]
    percent: bool = False
    categorical: bool = False
    """Whether x is text rather than a number or a time."""

    def shown(self, value: float) -> str:
        """Format a y value as shown beside the chart."""
        return f"{100 * value:.1f} %" if self.percent else words.figure(value)

    @property
    def highlighted(self) -> tuple[Series, ...]:
        """The highlighted series, in the order of their colors."""
        return tuple(sorted((s for s in self.series if s.rank is not None), key=lambda s: s.rank or 0))


def plot_of(chart: Chart, points: Sequence[tuple[Any, float, str]], *, title: str) -> ChartSpec:
    """Return the plot of points `(x, y, by)`, which must be sorted by x; text x keeps this order."""
    kind = next((type(x) for x, _, _ in points), float)
    categorical = chart.kind == "bar" or not issubclass(kind, int | float | date) or kind is bool
    if chart.kind == "bar" and issubclass(kind, str):
        points = sorted(points, key=lambda point: -point[1])
    names = dict.fromkeys(x for x, _, _ in points)
    place = {x: float(i) if categorical else _number(x) for i, x in enumerate(names)}
    percent = words.is_share(chart.y) and all(0 <= y <= 1 for _, y, _ in points)
    series: dict[str, list[tuple[float, float]]] = {}
    for x, y, by in points:
        series.setdefault(by, []).append((place[x], y))
    return ChartSpec(
        title=title,
        x_label=words.axis_label(chart.x),
        y_label=words.axis_label(chart.y) + (" (percent)" if percent else ""),
        x_ticks=tuple(Tick(place[x], _label(x)) for x in names) if categorical else _ticks(list(names)),
        x_names={place[x]: _label(x) for x in names},
        series=highlight([Series(name, tuple(sorted(places))) for name, places in sorted(series.items())]),
        percent=percent,
        categorical=categorical,
    )


def highlight(series: Sequence[Series]) -> tuple[Series, ...]:
    """Rank the series to highlight: all if they are few, otherwise the two highest and the two lowest by mean.

    If there are many, series with less than half the points of the longest series are not candidates.
    """
    if len(series) <= COLOURED:
        chosen = sorted(series, key=lambda s: -s.mean) if len(series) > 1 else list(series)
    else:
        longest = max(len(s.points) for s in series)
        ordered = sorted((s for s in series if 2 * len(s.points) >= longest), key=lambda s: -s.mean)
        chosen = [*ordered[:2], *ordered[2:][-2:]]
    ranks = {s.name: rank for rank, s in enumerate(chosen)}
    return tuple(Series(s.name, s.points, ranks.get(s.name)) for s in series)


def _number(x: Any) -> float:
    if isinstance(x, datetime):
        return (x if x.tzinfo else x.replace(tzinfo=UTC)).timestamp()
    return float(x.toordinal()) if isinstance(x, date) else float(x)


def _label(x: Any) -> str:
    if isinstance(x, datetime):
        return f"{x:%Y-%m-%d}" if (x.hour, x.minute) == (0, 0) else f"{x:%Y-%m-%d %H:%M}"
    return words.figure(x) if isinstance(x, float) else str(x)


def _ticks(values: Sequence[Any]) -> tuple[Tick, ...]:
    if not values:
        return ()
    if isinstance(values[0], date):
        every = max(1, -(-len(values) // 6))
        return tuple(Tick(_number(x), _label(x)) for x in values[::every])
    if len(values) <= TICKED and all(float(x).is_integer() for x in values):
        return tuple(Tick(float(x), _label(int(x))) for x in values)
    return tuple(Tick(x, words.figure(x)) for x in inside(float(values[0]), float(values[-1])))
