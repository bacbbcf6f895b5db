"""The effects of an experiment, each with its always-valid interval, relative to the control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.report.frame import MINUS
from pipeline.report.scales import Scale, inside
from pipeline.report.svg import element, line, picture, shortened, text

WIDTH, LINE, LEFT, RIGHT, LETTERS = 760, 30, 190, 190, 26
WIDEST = 1.0
"""The relative difference beyond which an interval is cut, unless an effect is larger."""
_TONES = {"better": "good", "safe": "good", "worse": "bad", "harm": "bad", "broken": "bad"}


@dataclass(frozen=True)
class Effect:
    """The relative difference of a metric between a variant and the control."""

    name: str
    value: float
    low: float | None
    high: float | None
    decision: str
    margin: float | None
    """For a guardrail, the relative difference beyond which it does harm."""

    @property
    def text(self) -> str:
        """The difference with its interval, in percent."""
        interval = "no interval"
        if self.low is not None and self.high is not None:
            interval = f"{100 * self.low:+.1f} to {100 * self.high:+.1f}"
        return f"{100 * self.value:+.1f} % ({interval})".replace("-", MINUS)


def effects_picture(effects: Sequence[Effect]) -> Markup:
    """Draw at least one effect: a dot, the interval, and for a guardrail the tolerated harm as a dashed line."""
    most = max([WIDEST, *(abs(each.value) for each in effects)])
    shown = [0.0, *(each.value for each in effects)]
    shown += [min(max(end, -most), most) for each in effects for end in (each.low, each.high) if end is not None]
    shown += [each.margin for each in effects if each.margin is not None]
    room = (max(shown) - min(shown)) * 0.04 or 0.01
    x = Scale(min(shown) - room, max(shown) + room, LEFT, WIDTH - RIGHT)
    bottom = len(effects) * LINE + 8
    drawn = []
    for tick in inside(x.low, x.high):
        drawn.append(line((x(tick), 4), (x(tick), bottom), "zero" if tick == 0 else "grid"))
        drawn.append(
            text(
                (x(tick), bottom + 16),
                f"{100 * tick:+.6g} %".replace("-", MINUS) if tick else "0",
                "tick",
                anchor="middle",
            )
        )
    for number, each in enumerate(effects):
        drawn.append(_row(each, x, number * LINE + LINE / 2 + 4))
    drawn.append(
        text(
            ((LEFT + WIDTH - RIGHT) / 2, bottom + 36), "difference from the control (percent)", "axis", anchor="middle"
        )
    )
    title = "Effects with always-valid intervals: " + "; ".join(f"{each.name} {each.text}" for each in effects)
    return picture(WIDTH, bottom + 44, title, *drawn, class_="chart effect")


def _row(effect: Effect, x: Scale, y: float) -> Markup:
    parts = [element("title", f"{effect.name}: {effect.text}, {effect.decision}")]
    if effect.low is not None and effect.high is not None:
        start, end = (x(min(max(value, x.low), x.high)) for value in sorted((effect.low, effect.high)))
        parts.append(line((start, y), (end, y), "whisker"))
        parts += [line((at, y - 5), (at, y + 5), "whisker") for at in (start, end)]
    if effect.margin is not None:
        parts.append(line((x(effect.margin), y - 12), (x(effect.margin), y + 12), "margin"))
    parts.append(element("circle", cx=x(effect.value), cy=y, r=4.5, class_="dot"))
    parts.append(text((LEFT - 12, y + 4), shortened(effect.name, LETTERS), "metric", anchor="end", hover=effect.name))
    parts.append(text((WIDTH - RIGHT + 10, y + 4), effect.text, "value"))
    return element("g", *parts, class_=_TONES.get(effect.decision, "open"))
