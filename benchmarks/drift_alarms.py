"""False alarms and delays of monitors on simulated days: `python -m benchmarks.drift_alarms [SEEDS]`.

A feature is a standard normal number; a day has 5,000 rows, of which a quarter are in the segment `small`. The reference is 50,000
other rows. Quiet days have no drift, or a harmless one of 0.02 standard deviations. Planted drifts begin on day 20:

| drift | what changes |
| --- | --- |
| sudden | the mean by 0.5 standard deviations |
| gradual | the mean by 0.05 more each day |
| one segment | the mean of the segment by 1 |
| recurring | the mean by 1 on each weekend, from the first day on: no alarm is right, against the same weekdays |

A rule is judged by windows of a feature in which an alarm is raised. `delay` is the number of days from the first day of the
drift to the day of the alarm; 0 is the same day.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow as pa

from ml import alarms, monitor, rows_of, same_weekday
from ml.monitoring.alarm_rules import Alarms
from ml.monitoring.references import Reference
from pipeline.core.definitions import Transform

Results = Sequence[Mapping[str, Any]]
ROWS, REFERENCE, DAYS, BEGIN, FEATURES = 5_000, 50_000, 60, 20, 8
SATURDAY = 5
MONDAY = datetime(2026, 1, 5)  # noqa: DTZ001 - as in tables
RULES: dict[str, tuple[Callable[[Mapping[str, Any]], bool], Alarms]] = {
    "p < 0.05, corrected": (lambda v: v["p_value"] is not None and v["p_value"] < 0.05, alarms()),  # noqa: PLR2004 - the rule
    "index >= 0.2, one window": (lambda v: v["state"] == "alarm", alarms(windows=(1, 1))),
    "monitor's default": (lambda v: v["state"] == "alarm", alarms()),
}
"""For each rule, whether a result is an alarm, and the options of the monitor."""


@dataclass(frozen=True)
class Days:
    """Simulated days: the mean of the first features on each day, how many rows they have, and the reference."""

    mean: Callable[[int], float]
    reference: Reference
    rows: int = ROWS
    moved: int = FEATURES
    """The number of features with this mean; others have mean 0."""
    in_segment: bool = False
    """Whether only the rows of the small segment have it."""


def main() -> None:
    """Print the false alarms and delays of each rule as one JSON object."""
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
    fixed, weekly = rows_of("base"), same_weekday(2)
    quiet = {
        f"quiet, {rows:,} rows a day, mean {shift:g}": Days(partial(_always, shift), fixed, rows)
        for rows, shift in ((2_000, 0.0), (5_000, 0.0), (50_000, 0.0), (5_000, 0.02), (50_000, 0.02))
    }
    quiet["recurring, against the same weekdays"] = Days(lambda day: 1.0 * (day % 7 >= SATURDAY), weekly)
    drifts = {
        "sudden": Days(lambda day: 0.5 * (day >= BEGIN), fixed, moved=1),
        "gradual": Days(lambda day: 0.05 * max(day - BEGIN, 0), fixed, moved=1),
        "one segment": Days(lambda day: 1.0 * (day >= BEGIN), fixed, moved=1, in_segment=True),
    }
    calm, found = (
        {name: [_judged(np.random.default_rng(seed), days) for seed in seeds] for name, days in each.items()}
        for each in (quiet, drifts)
    )
    print(json.dumps({"false_alarms": _false(calm), "delays": _delays(found)}, indent=2))


def _always(mean: float, day: int) -> float:
    del day
    return mean


def _judged(rng: np.random.Generator, simulated: Days) -> dict[str, Results]:
    """Return the results of each rule on simulated days."""
    features = [f"x{k}" for k in range(FEATURES)]
    days = np.repeat(np.arange(DAYS), simulated.rows)
    small = np.tile(np.arange(simulated.rows) % 4 == 0, DAYS)
    shift = np.array([simulated.mean(day) for day in range(DAYS)])[days] * (small if simulated.in_segment else 1)
    moved = [rng.normal(0, 1, len(days)) + (shift if k < simulated.moved else 0) for k in range(FEATURES)]
    base = np.where(np.arange(REFERENCE) % 4 == 0, "small", "large")
    at = np.datetime64(MONDAY, "us") + days.astype("timedelta64[D]")
    tables = {
        "rows": pa.table(
            {"at": pa.array(at), "part": np.where(small, "small", "large"), **dict(zip(features, moved, strict=True))}
        ),
        "base": pa.table({"part": base, **{name: rng.normal(0, 1, REFERENCE) for name in features}}),
    }
    defined = partial(monitor, of="rows", time="at", reference=simulated.reference, numerical=features, segment="part")
    plain = defined().named("m")
    for part in plain.companions:
        transform = cast("Transform", part.computed_by)
        tables[part.name] = transform(**{name: tables[name] for name in transform.inputs})
    results = {}
    for name, (_, chosen) in RULES.items():
        each = defined(alarms=chosen).named("m")
        results[name] = each.transform(**{n: tables[n] for n in each.inputs}).to_pylist()
    return results


def _false(quiet: Mapping[str, Sequence[Mapping[str, Results]]]) -> dict[str, dict[str, float]]:
    """Return, for each scenario and rule, the windows with an alarm per 1,000 windows of a feature that were judged."""
    return {
        scenario: {rule: _per_thousand(rule, [each[rule] for each in runs]) for rule in RULES}
        for scenario, runs in quiet.items()
    }


def _per_thousand(rule: str, runs: Sequence[Results]) -> float:
    judged = [v for results in runs for v in results if v["state"] not in {"not judged", "no data"}]
    raised = sum(RULES[rule][0](result) for result in judged)
    return round(1000 * raised / len(judged), 2) if judged else float("nan")


def _delays(found: Mapping[str, Sequence[Mapping[str, Results]]]) -> dict[str, dict[str, Any]]:
    """Return, for each drift, how many were found and the median delay in days, by the rule of the default."""
    rule = "monitor's default"
    delays: dict[str, dict[str, Any]] = {}
    for name, runs in found.items():
        segment = "small" if name == "one segment" else None
        days = [_first(each[rule], segment) for each in runs]
        known = [day for day in days if day is not None]
        delays[name] = {
            "found": len(known),
            "of": len(days),
            "median_delay": statistics.median(known) if known else None,
            "longest_delay": max(known, default=None),
            "false_before": sum(day < 0 for day in known),
        }
    return delays


def _first(results: Results, segment: str | None) -> int | None:
    """Return the days from the begin of the drift to its alarm."""
    start = MONDAY + timedelta(days=BEGIN)
    times = [
        (v["window_start"].replace(tzinfo=None) - start).days
        for v in results
        if v["state"] == "alarm" and v["feature"] == "x0" and v["segment"] == segment
    ]
    return min(times, default=None)


if __name__ == "__main__":
    main()
