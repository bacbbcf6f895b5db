"""Charts: bars start at zero, few of many lines are highlighted, labels do not overlap."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from pipeline.core.definitions import Chart
from pipeline.report.bars import MOST, bar_chart
from pipeline.report.lines import bridges, line_chart
from pipeline.report.plot import plot_of

NAMES = [f"c{i:02}" for i in range(16)]
YEAR = [(float(x), (i + 1) / 20, name) for x in range(1, 13) for i, name in enumerate(NAMES)]
SVG = "{http://www.w3.org/2000/svg}"


def plotted(kind, points, **options):
    chart = Chart(kind, x=options.pop("x", "month"), y=options.pop("y", "on_time_share"), by="carrier")
    return plot_of(chart, points, title="A title")


def parts(drawing, tag, class_=None):
    elements = ET.fromstring(drawing).iter(SVG + tag)  # noqa: S314 - likewise
    return [part for part in elements if class_ is None or part.get("class") == class_]


def test_extremes_of_many_lines_are_highlighted_and_labelled():
    plot = plotted("line", YEAR)
    assert [series.name for series in plot.highlighted] == ["c15", "c14", "c01", "c00"]
    drawing = line_chart(plot)
    assert [part.text or part[0].tail for part in parts(drawing, "text", "name")] == [
        "c15 80.0 %",
        "c14 75.0 %",
        "c01 10.0 %",
        "c00 5.0 %",
    ]
    assert len(parts(drawing, "g", "muted")) == 12


def test_few_lines_are_all_highlighted():
    plot = plotted("line", [point for point in YEAR if point[2] < "c05"])
    assert len(plot.highlighted) == 5


def test_line_with_few_points_is_not_an_extreme():
    plot = plotted("line", [*YEAR, (1.0, 0.0, "once")])
    assert [series.name for series in plot.highlighted] == ["c15", "c14", "c01", "c00"]


def test_labels_at_the_ends_of_lines_do_not_overlap():
    plot = plotted("line", [(x, 0.5 + i / 1000, name) for x in (1.0, 2.0) for i, name in enumerate(NAMES[:6])])
    heights = sorted(float(part.get("y")) for part in parts(line_chart(plot), "text", "name"))
    assert len(heights) == 6
    assert all(b - a >= 15.9 for a, b in pairwise(heights))


def test_line_is_dotted_across_missing_values():
    #   a  x x x x
    #   b  x . . x
    plot = plotted("line", [(float(x), 0.5, "a") for x in range(4)] + [(0.0, 0.1, "b"), (3.0, 0.2, "b")])
    assert [bridges(plot, series) for series in plot.series] == [frozenset(), frozenset({1})]
    assert len(parts(line_chart(plot), "path", "bridge")) == 1


def test_shares_are_drawn_in_percent_with_an_axis_label():
    plot = plotted("line", YEAR)
    assert (plot.x_label, plot.y_label) == ("month", "on time share (percent)")
    assert "80" in [part.text for part in parts(line_chart(plot), "text", "tick")]
    beyond = plotted("line", [(1.0, 1.5, ""), (2.0, 0.5, "")])
    assert beyond.y_label == "on time share"


def test_few_integers_have_one_tick_each_and_many_have_round_ticks():
    assert [tick.label for tick in plotted("line", YEAR).x_ticks] == [str(month) for month in range(1, 13)]
    many = plotted("line", [(float(x), 0.5, "") for x in range(3, 200)])
    assert [tick.label for tick in many.x_ticks] == ["50", "100", "150"]


@pytest.mark.parametrize(
    ("x", "label"),
    [
        (date(2026, 1, 5), "2026-01-05"),
        (datetime(2026, 1, 5, tzinfo=UTC), "2026-01-05"),
        (datetime(2026, 1, 5, 13, 30), "2026-01-05 13:30"),  # noqa: DTZ001 - a TIMESTAMP column has no zone
    ],
)
def test_dates_and_times_are_on_a_time_axis(x, label):
    plot = plotted("line", [(x, 1.0, ""), (x.replace(year=2027), 2.0, "")], x="at")
    assert plot.x_ticks[0].label == label
    assert not plot.categorical


def test_single_point_is_drawn_as_a_dot():
    assert parts(line_chart(plotted("line", [(1.0, 0.5, "a")])), "circle", "dot")


def test_bars_start_at_zero_and_reach_their_value():
    plot = plotted("bar", [(5, 10.0, ""), (6, 20.0, ""), (7, -5.0, "")], x="hour", y="delay")
    drawing = bar_chart(plot, rows=False)
    zero = float(parts(drawing, "line", "zero")[0].get("y1"))
    boxes = [(float(bar.get("y")), float(bar.get("height"))) for bar in parts(drawing, "rect", "bar")]
    assert boxes[0][0] + boxes[0][1] == pytest.approx(zero, abs=0.2)
    assert boxes[1][1] == pytest.approx(2 * boxes[0][1], abs=0.3)
    assert boxes[2][0] == pytest.approx(zero, abs=0.2)
    assert boxes[2][1] == pytest.approx(boxes[0][1] / 2, abs=0.2)


def test_bars_of_names_are_horizontal_with_the_largest_first():
    drawing = bar_chart(plotted("bar", [("a", 1.0, ""), ("b", 3.0, "")], x="route", y="flights"), rows=True)
    bars = parts(drawing, "rect", "bar")
    assert float(bars[0].get("width")) == pytest.approx(3 * float(bars[1].get("width")), abs=0.3)
    assert [part.text or part[0].tail for part in parts(drawing, "text", "tick")] == ["b", "a", "3", "1"]


def test_too_many_bars_are_limited_to_the_largest_names_or_last_numbers():
    names = plotted("bar", [(f"n{i:03}", float(i), "") for i in range(100)], x="route", y="flights")
    drawn = bar_chart(names, rows=True)
    assert len(parts(drawn, "rect", "bar")) == MOST
    assert "n099: 99" in drawn
    assert "n059: 59" not in drawn
    numbers = bar_chart(plotted("bar", [(i, float(i), "") for i in range(100)], x="n", y="flights"), rows=False)
    assert "n 99: 99" in numbers
    assert "n 59: 59" not in numbers


def test_groups_of_bars_have_a_legend():
    points = [(x, float(x + i), name) for x in (1, 2) for i, name in enumerate(NAMES)]
    drawing = bar_chart(plotted("bar", points, y="flights"), rows=False)
    assert "12 others" in drawing
    assert len(parts(drawing, "rect", "bar")) == 2 * 16 + 5


@pytest.mark.parametrize("kind", ["line", "bar"])
def test_names_in_charts_are_escaped(kind):
    points = [("<b>x</b>", 1.0, "<script>"), ("y", 2.0, '"&')]
    plot = plotted(kind, points, x="<i>", y="<u>")
    drawing = line_chart(plot) if kind == "line" else bar_chart(plot, rows=True)
    assert not re.search(r"<(b|i|u|script)\b", drawing)
    ET.fromstring(drawing)  # noqa: S314 - generated by the chart


@pytest.mark.parametrize("value", [0.0, -1.0, 1e12, 1e-9])
@pytest.mark.parametrize("kind", ["line", "bar"])
def test_any_value_can_be_drawn(kind, value):
    plot = plotted(kind, [(1, value, "")], y="amount")
    drawing = line_chart(plot) if kind == "line" else bar_chart(plot, rows=False)
    assert "nan" not in drawing
    rows = bar_chart(plotted("bar", [("a", value, "")], y="amount"), rows=True)
    assert "nan" not in rows
