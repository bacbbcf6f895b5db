"""The reason of an alarm in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

_NOTICED = 0.01
"""The change of a share that is worth a word."""
_UNITS = 20
"""From this factor between means on, another unit is likelier than a drift."""


@dataclass(frozen=True)
class DistributionChange:
    """What changed from the reference to a window; pairs are before and now."""

    psi: float
    new_share: float
    """The share of rows with values that the reference did not have, without nulls."""
    nulls: tuple[float, float]
    means: tuple[float, float]
    others: tuple[str, ...]
    """Some of the values that the reference did not have."""
    is_numerical: bool


def changed(change: DistributionChange, compared: str) -> str:
    """Return what changed against the reference, which is named by `compared`."""
    parts = [f"index {change.psi:.2f} against {compared}"]
    before, now = change.nulls
    if abs(now - before) >= _NOTICED or (before == 0 < now):
        parts.append(f"nulls {percent(before)} -> {percent(now)}")
    if change.new_share > 0:
        named = f": {', '.join(map(repr, change.others))}" if change.others else ""
        what = "values outside its range" if change.is_numerical else f"new values{named}"
        parts.append(f"{percent(change.new_share)} {what}")
    old, new = change.means
    if math.isfinite(old) and math.isfinite(new):
        parts.append(f"mean {figure(old)} -> {figure(new)}")
        if old and new and max(abs(new / old), abs(old / new)) >= _UNITS:
            parts.append("check the unit")
    return "; ".join(parts)


def percent(share: float) -> str:
    """Return a share in percent."""
    return f"{100 * share:.3g} %"


def figure(value: float) -> str:
    """Return a number with four digits."""
    return f"{value:,.4g}"
