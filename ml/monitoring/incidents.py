"""Incidents: the alarms that are open, one for each cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ml.monitoring.alarm_rules import ALARM


@dataclass(frozen=True)
class Incident:
    """An alarm of a feature, or of a metric, that has not ended."""

    feature: str
    """The feature; empty for all features together, and for the performance of a model."""
    by: str
    """The values of the columns at which windows are cut, for example a model's version."""
    since: datetime
    segments: tuple[str, ...]
    """The segments whose alarm is open; empty if all rows are concerned and no segment is judged."""
    reason: str


def incidents(
    results: Sequence[Mapping[str, Any]], by: Sequence[str], window: timedelta, windows: int
) -> list[Incident]:
    """Return the open alarms, the oldest first, from the results on the last windows.

    The alarms of a feature in several segments are one: its reason is that of all rows, if these are concerned, otherwise that
    of the segment with the most rows. An alarm is open until it ends, or until no rows have come for `windows` windows; a window that
    is not judged ends none.
    """
    dated = [result for result in results if result["window_start"] is not None]
    if not dated:
        return []
    end = max(result["window_start"] for result in dated)
    last: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for result in sorted(dated, key=lambda each: each["window_start"]):
        series = (*(result[name] for name in by), result["segment"], result.get("feature"))
        goes_on = series in last and result["since"] is not None and result["state"] != ALARM
        last[series] = {**result, "reason": last[series]["reason"]} if goes_on else result
    opened: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for result in last.values():
        if result["since"] is not None and result["window_start"] > end - windows * window:
            opened.setdefault((*(result[name] for name in by), result.get("feature")), []).append(result)
    return sorted(
        (_incident(key, alarms, by) for key, alarms in opened.items()), key=lambda each: (each.since, each.feature)
    )


def _incident(key: tuple[Any, ...], alarms: Sequence[Mapping[str, Any]], by: Sequence[str]) -> Incident:
    ordered = sorted(alarms, key=lambda each: (each["segment"] is not None, -each["rows"]))
    return Incident(
        feature=key[-1] or "",
        by=", ".join(f"{name} {value}" for name, value in zip(by, key, strict=False)),
        since=min(each["since"] for each in alarms),
        segments=tuple(each["segment"] for each in ordered if each["segment"] is not None),
        reason=ordered[0]["reason"],
    )
