"""When a difference becomes an alarm, and when the alarm ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.core.definitions import caller
from pipeline.core.errors import DefinitionError

QUIET, SUSPECTED, ALARM, NOT_JUDGED, NO_DATA = "quiet", "suspected", "alarm", "not judged", "no data"
STATES = (QUIET, SUSPECTED, ALARM)
"""The states of a window that is judged, by their number."""


@dataclass(frozen=True)
class Alarms:
    """The thresholds of a monitor; see `alarms`."""

    enter: float = 0.2
    leave: float = 0.1
    windows: int = 2
    of: int = 3
    significance: float = 0.05
    new_values: float = 0.01
    weights: Mapping[str, float] = field(default_factory=dict)


def alarms(  # noqa: PLR0913 - options of a definition, all keyword-only
    *,
    enter: float = 0.2,
    leave: float = 0.1,
    windows: tuple[int, int] = (2, 3),
    significance: float = 0.05,
    new_values: float = 0.01,
    weights: Mapping[str, float] | None = None,
) -> Alarms:
    """Return when a monitor raises alarms.

    A window is *high* if its index (PSI) is at least `enter` and its p-value, corrected for the number of features, is below
    `significance`; or if the share of rows in bins without reference rows is over `new_values`. It is *low* if neither holds
    for `leave`. An alarm starts when `windows[0]` of the last `windows[1]` judged windows are high, and ends when as many are
    low. `weights` are the importances of features: with them, the weighted mean index of all features is judged too.

    Raises `DefinitionError` for thresholds that contradict each other.
    """
    place, (count, of) = caller(), windows
    if not 0 < leave <= enter:
        raise DefinitionError("leave= must be positive and at most enter=", got=f"{leave:g} and {enter:g}", place=place)
    if not 1 <= count <= of:
        raise DefinitionError("windows= must be a number of windows, and of how many", got=repr(windows), place=place)
    for name, value in {"significance": significance, "new_values": new_values}.items():
        if not 0 < value < 1:
            raise DefinitionError(f"{name}= must be between 0 and 1", got=f"{value:g}", place=place)
    chosen = dict(weights or {})
    if any(not value >= 0 for value in chosen.values()) or (chosen and not sum(chosen.values()) > 0):
        raise DefinitionError("weights= must not be negative, and not all 0", got=repr(chosen), place=place)
    return Alarms(enter, leave, count, of, significance, new_values, chosen)
