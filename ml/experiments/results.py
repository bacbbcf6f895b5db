"""The results of an experiment: a pure function of sums per metric and variant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ml.experiments.moments import (
    EARLIER,
    INCOMPLETE,
    LEAST_UNITS,
    SEVERAL,
    Difference,
    Moments,
    cuped,
    difference,
    ratio_difference,
)
from ml.experiments.sequential import Interval, always_valid, mixture_for, sequential_sample_ratio

if TYPE_CHECKING:
    from ml.experiments.definition import OutcomeMetric

BROKEN, HARM, BETTER, WORSE, SAFE, OPEN = "broken", "harm", "better", "worse", "safe", "undecided"
BROKEN_BELOW = 0.001
"""The p-value of the ratio of variants below which no result can be trusted."""
SCHEMA = pa.schema(
    [
        ("metric", pa.string()),
        ("variant", pa.string()),
        ("units", pa.int64()),
        *(
            (name, pa.float64())
            for name in ("mean", "control_mean", "difference", "relative", "low", "high", "p_value")
        ),
        ("decision", pa.string()),
        ("reason", pa.string()),
    ]
)


def results(
    sums: pa.Table, variants: Sequence[tuple[str, float]], metrics: Sequence[OutcomeMetric], units: int, alpha: float
) -> pa.Table:
    """Return a row for each metric and variant but the control, and first one for the ratio of the variants.

    Intervals and p-values are always valid; those of goals are corrected for their number and that of the variants.
    """
    by = _moments(sums)
    ratio = _ratio(by, dict(variants))
    control, *others = (name for name, _ in variants)
    goals = sum(metric.margin is None for metric in metrics) * len(others)
    mixture = mixture_for(units, alpha)
    rows = [ratio]
    for metric in metrics:
        level = alpha / max(goals, 1) if metric.margin is None else alpha
        for name in others:
            none = Moments(0, 0.0, 0.0)
            pair = (by.get((metric.name, name), none), by.get((metric.name, control), none))
            rows.append(_row(metric, name, pair, mixture, level))
    if ratio["decision"] == BROKEN:
        rows = [
            ratio,
            *({**row, "decision": BROKEN, "reason": "the ratio of the variants is wrong"} for row in rows[1:]),
        ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def means(sums: pa.Table, variants: Sequence[tuple[str, float]], metrics: Sequence[OutcomeMetric]) -> pa.Table:
    """Return the rows of `results` for a bandit, without intervals, p-values and decisions, and without a test of the ratio.

    Its weights depend on the results: units of different times have different shares in each variant.
    """
    by, weights = _moments(sums), dict(variants)
    control, *others = weights
    ratio = {**_ratio(by, weights), "p_value": None}
    unknown = any(metric == "" and variant not in weights for metric, variant in by)
    rows = [{**ratio, "decision": BROKEN if unknown else OPEN}]
    none = Moments(0, 0.0, 0.0)
    for metric in metrics:
        for name in others:
            pair = (by.get((metric.name, name), none), by.get((metric.name, control), none))
            row = _row(metric, name, pair, 1.0, 0.5)
            is_broken = unknown or row["decision"] == BROKEN
            reason = row["reason"] if row["decision"] == BROKEN else "an unknown variant" if unknown else ""
            decided = {"decision": BROKEN if is_broken else OPEN, "reason": reason}
            rows.append({**row, "low": None, "high": None, "p_value": None, **decided})
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _moments(sums: pa.Table) -> dict[tuple[str, str], Moments]:
    """Return the sums by metric and variant."""
    return {(row["metric"], row["variant"]): Moments.of(row) for row in sums.to_pylist()}


def _ratio(by: Mapping[tuple[str, str], Moments], weights: Mapping[str, float]) -> dict[str, Any]:
    counts = {variant: moments.units for (metric, variant), moments in by.items() if metric == ""}
    unknown = sorted(set(counts) - set(weights))
    several = sum(moments.units for (metric, _), moments in by.items() if metric == SEVERAL)
    p = sequential_sample_ratio({name: counts.get(name, 0) for name in weights}, weights)
    parts = [f"{name} {counts.get(name, 0):,}" for name in weights]
    parts += [f"{several:,} units saw several variants and are excluded"] if several else []
    incomplete = sum(moments.units for (metric, _), moments in by.items() if metric == INCOMPLETE)
    parts += [f"{incomplete:,} exposures without unit, variant or time"] if incomplete else []
    earlier = sum(moments.units for (metric, _), moments in by.items() if metric == EARLIER)
    parts += [f"{earlier:,} exposures before since= do not count"] if earlier else []
    parts += [f"unknown variant {name!r}: {counts[name]:,} units" for name in unknown]
    is_broken = p < BROKEN_BELOW or bool(unknown)
    return {
        "metric": None,
        "variant": None,
        "units": sum(counts.values()),
        "p_value": p,
        "decision": BROKEN if is_broken else SAFE,
        "reason": "; ".join(parts),
    }


def _row(
    metric: OutcomeMetric, variant: str, pair: tuple[Moments, Moments], mixture: float, alpha: float
) -> dict[str, Any]:
    against = _difference(metric, *pair)
    least = min(arm.units for arm in pair)
    interval = always_valid(against, mixture, alpha) if least >= LEAST_UNITS else Interval(-math.inf, math.inf, 1.0)
    decision, reason = _decided(metric, against, interval)
    if not all(arm.is_finite for arm in pair):
        decision, reason = BROKEN, "a value is NaN or infinite"
    elif least < LEAST_UNITS:
        reason = f"{least:,} units, needs {LEAST_UNITS:,} in each variant"
    values = {
        "mean": against.control + against.value,
        "control_mean": against.control,
        "difference": against.value,
        "relative": against.relative,
        "low": interval.low,
        "high": interval.high,
        "p_value": interval.p,
    }
    return {
        "metric": metric.name,
        "variant": variant,
        "units": pair[0].units,
        **{name: value if math.isfinite(value) else None for name, value in values.items()},
        "decision": decision,
        "reason": reason,
    }


def _difference(metric: OutcomeMetric, variant: Moments, control: Moments) -> Difference:
    if metric.is_ratio:
        return ratio_difference(variant, control)
    if metric.before is not None and variant.units and control.units:
        return cuped(variant, control)
    return difference(variant, control)


def _decided(metric: OutcomeMetric, against: Difference, interval: Interval) -> tuple[str, str]:
    """Return the decision on a metric: for a goal, whether it differs; for a guardrail, whether the harm is over its margin."""
    sign = 1 if metric.is_higher_better else -1
    low, high = sorted((sign * interval.low, sign * interval.high))
    if metric.margin is None:
        decision = BETTER if low > 0 else WORSE if high < 0 else OPEN
        return decision, "" if decision == OPEN else _change(against)
    tolerated = -metric.margin * abs(against.control)
    if high < tolerated:
        return HARM, f"{_change(against)}, more than the tolerated {100 * metric.margin:g} %"
    return (SAFE, "") if low > tolerated else (OPEN, "")


def _change(against: Difference) -> str:
    """Return the difference for readers: in percent of the control's mean, or both means if that is 0."""
    if math.isfinite(against.relative):
        return f"{100 * against.relative:+.1f} %"
    return f"{against.control + against.value:.4g} instead of {against.control:.4g}"
