"""The states of the series of a monitor, window by window: one row of cells for each series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from ml.monitoring.alarm_rules import ALARM, QUIET, SUSPECTED
from pipeline.report.svg import LETTER_EM, element, picture, shortened, text

CELL, LINE, LETTERS = 12, 20, 30
_CLASSES = {QUIET: "quiet", SUSPECTED: "suspected", ALARM: "alarmed"}


@dataclass(frozen=True)
class StateSeries:
    """A feature, or a metric, of some rows, with its state by window."""

    name: str
    states: Mapping[datetime, str]

    @property
    def rank(self) -> tuple[int, int, str]:
        """The order of series: those with the most alarms first."""
        found = list(self.states.values())
        return -found.count(ALARM), -found.count(SUSPECTED), self.name


def strips(series: Sequence[StateSeries], windows: Sequence[datetime]) -> Markup:
    """Draw the states of at least one series in windows that are sorted by time."""
    names = [shortened(each.name, LETTERS) for each in series]
    left = max(map(len, names)) * 12 * LETTER_EM + 12
    drawn = []
    for number, each in enumerate(series):
        top = number * LINE + 2
        drawn.append(
            text(
                (left - 10, top + 12),
                names[number],
                "label",
                anchor="end",
                hover=each.name if names[number] != each.name else None,
            )
        )
        for place, window in enumerate(windows):
            state = each.states.get(window)
            if state is not None:
                drawn.append(_cell(left + place * CELL, top, state, f"{each.name}, {_label(window)}: {state}"))
    bottom = len(series) * LINE + 18
    drawn += _ticks(windows, left, bottom)
    legend, x = bottom + 12, left
    for state, class_ in (*_CLASSES.items(), ("not judged, or no data", "open")):
        drawn.append(element("rect", x=x, y=legend, width=CELL - 2, height=14, class_=class_))
        drawn.append(text((x + CELL + 4, legend + 11), state, "tick"))
        x += CELL + 16 + len(state) * 12 * LETTER_EM
    width = max(left + len(windows) * CELL + 8, x)
    alarms = sum(state == ALARM for each in series for state in each.states.values())
    title = f"States of {len(series)} series in {len(windows)} windows, {alarms} in alarm"
    return picture(width, legend + 20, title, *drawn, class_="strip")


def _cell(x: float, y: float, state: str, title: str) -> Markup:
    shape = element("rect", x=x + 1, y=y + 1, width=CELL - 2, height=LINE - 6, class_=_CLASSES.get(state, "open"))
    return element("g", element("title", title), shape)


def _ticks(windows: Sequence[datetime], left: float, y: float) -> list[Markup]:
    """Return the labels of the first and of some other windows, which do not overlap."""
    every = max(1, -(-18 * 12 // (2 * CELL)))
    return [
        text((left + place * CELL, y - 4), _label(window), "tick")
        for place, window in enumerate(windows)
        if place % every == 0
    ]


def _label(window: datetime) -> str:
    return f"{window:%Y-%m-%d}" if (window.hour, window.minute) == (0, 0) else f"{window:%m-%d %H:%M}"
