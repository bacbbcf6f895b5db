"""The points of a chart: a statement that computes them from the rows of a query, and notes on rows that are not drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.core.definitions import Chart
from pipeline.core.errors import quantity
from pipeline.kernel.sql_text import literal, quoted

POINTS = 6_000
"""Maximum number of points in a chart; those with the greatest x are kept."""


@dataclass(frozen=True)
class ChartPoints:
    """The points `(x, y, series)` of a chart, sorted by x, and notes on rows that are not drawn."""

    points: tuple[tuple[Any, float, str], ...] = ()
    notes: tuple[str, ...] = ()


def points_query(chart: Chart, query: str) -> str:
    """Return the SELECT of a chart's points, one per x and series, for `points_of`."""
    series = literal("") if chart.by is None else f"coalesce({quoted(chart.by)}::varchar, '(none)')"
    points = (
        f"select {quoted(chart.x)} as x, max(try_cast({quoted(chart.y)}::varchar as double)) as y, "
        f"{series} as series, count(*) as rows from ({query}) group by all"
    )
    counts = "sum(rows) over () as used, count(*) filter (where rows > 1) over () as shared, count(*) over () as points"
    drawn = f"select x, y, series, {counts} from ({points}) where x is not null and isfinite(y)"
    return f"from (from ({drawn}) order by x desc, series limit {POINTS}) order by x, series"


def points_of(chart: Chart, fetched: Sequence[tuple[Any, ...]], rows: int) -> ChartPoints:
    """Return the points that `points_query` has returned for this number of rows."""
    used, shared, total = (int(count) for count in fetched[0][3:]) if fetched else (0, 0, 0)
    notes = {
        f"Not drawn: {quantity(rows - used, 'row')} without {chart.x} or {chart.y}.": rows > used,
        f"Several rows have the same {chart.x}: the highest {chart.y} is drawn.": shared > 0,
        f"The last {POINTS:,} of {total:,} points are drawn.": total > POINTS,
    }
    shown = tuple(note for note, holds in notes.items() if holds)
    return ChartPoints(tuple((x, float(y), str(series)) for x, y, series, *_ in fetched), shown)
