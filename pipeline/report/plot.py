"""What a chart shows, worked out from its points: axes with ticks, series, and which of them to highlight."""

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
"""How many series are each given a colour; of more, the two highest and the two lowest."""
TICKED = 16
"""Up to how many whole numbers on the x axis are each given a tick."""


@dataclass(frozen=True)
class Tick:
    """A place on an axis and what stands there."""

    value: float
    label: str


@dataclass(frozen=True)
class Series:
    """One line or one colour of bars: points ascending in x. `rank` numbers the highlighted ones from 0."""

    name: str
    points: tuple[tuple[float, float], ...]
    rank: int | None = None

    @property
    def mean(self) -> float:
        """The mean of its y values."""
        return statistics.fmean(y for _, y in self.points)


@dataclass(frozen=True)
class ChartSpec:
    """A chart without its pixels."""

    title: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    x_names: Mapping[float, str]
    """What every place on the x axis is called, with a tick or without."""
    series: tuple[Series, ...]
    percent: bool = False
    categorical: bool = False
    """Whether x is a name rather than a number or a time."""

    def shown(self, value: float) -> str:
        """Return a y value as it is written beside the chart."""
        return f"{100 * value:.1f} %" if self.percent else words.figure(value)

    @property
    def highlighted(self) -> tuple[Series, ...]:
        """The series with a colour of their own, in the order of their colours."""
        return tuple(sorted((s for s in self.series if s.rank is not None), key=lambda s: s.rank or 0))


def plot_of(chart: Chart, points: Sequence[tuple[Any, float, str]], *, title: str) -> ChartSpec:
    """Return the plot of points `(x, y, by)` that are sorted by x; text x keeps its place in that order."""
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
    """Rank the series to colour: all when they are few, else the two highest and the two lowest by their mean.

    Of many, those with less than half of the points of the longest do not count as extremes.
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
