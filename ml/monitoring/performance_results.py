"""The metrics and the state of each window: a pure function of counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ml.monitoring import estimates
from ml.monitoring.alarm_reasons import figure, percent
from ml.monitoring.alarm_rules import NO_DATA, NOT_JUDGED, STATES
from ml.monitoring.divergence import Array
from ml.monitoring.hysteresis import states
from ml.monitoring.performance_options import INVALID, METRICS, SCORE_BINS, PerformanceOptions
from ml.monitoring.series import UTC_US, added, numbered, numbers, series_rows, window_time

_CONFIDENT = 1.6448536269514722
"""The 95 % quantile of the normal distribution: the side of a limit is certain from so many standard errors on."""
_SUMS: dict[str, tuple[str, ...]] = {
    "binary": ("rows", "labelled", "actual", "predicted", "predicted_labelled", "squared", "loss"),
    "multiclass": ("rows", "labelled", "correct"),
    "regression": ("rows", "labelled", "absolute", "squared", "difference"),
}


@dataclass(frozen=True)
class PerformanceSeries:
    """The sums of the windows of a segment: arrays of windows and bins, without the rows that have no valid prediction."""

    key: tuple[Any, ...]
    segment: str | None
    first: int
    sums: dict[str, Array]
    invalid: Array
    """Per window, the rows without a valid prediction."""


def performance_results(counts: pa.Table, options: PerformanceOptions) -> pa.Table:
    """Return one row for each window and segment, with its metrics, their expected values, and its state."""
    names = [
        *METRICS[options.task],
        *(
            ("positive_rate", "calibration_error", "expected_auc", "expected_accuracy")
            if options.task == "binary"
            else ()
        ),
    ]
    schema = pa.schema(
        [
            ("window_start", UTC_US),
            *((name, counts.schema.field(name).type) for name in options.by),
            ("segment", pa.string()),
            *((name, pa.int64()) for name in ("rows", "labelled", "invalid_rows")),
            *((name, pa.float64()) for name in ("labelled_share", *names, "error")),
            ("state", pa.string()),
            ("since", UTC_US),
            ("reason", pa.string()),
        ]
    )
    start, dated = numbered(counts, options.window)
    rows = (
        [row for series in _series(dated, options) for row in _rows(series, start, options)] if dated.num_rows else []
    )
    return pa.Table.from_pylist(rows, schema=schema)


def _series(dated: pa.Table, options: PerformanceOptions) -> Iterator[PerformanceSeries]:
    window, bin_ = dated["_window"].to_numpy(), dated["bin"].to_numpy()
    sums = {name: numbers(dated[name]) for name in _SUMS[options.task]}
    width = SCORE_BINS if options.task == "binary" else 1
    for each in series_rows(dated, options.by, has_segments=options.has_segments):
        is_valid = bin_[each.rows] != INVALID
        valid, invalid = each.rows[is_valid], each.rows[~is_valid]
        at = (window[valid] - each.first, bin_[valid])
        none = (window[invalid] - each.first, np.zeros(len(invalid), np.int64))
        yield PerformanceSeries(
            each.key,
            each.segment,
            each.first,
            {name: added((each.windows, width), at, values[valid]) for name, values in sums.items()},
            added((each.windows, 1), none, sums["rows"][invalid])[:, 0],
        )


def _rows(series: PerformanceSeries, start: int, options: PerformanceOptions) -> list[dict[str, Any]]:
    rows = series.sums["rows"].sum(-1)
    labelled = series.sums["labelled"].sum(-1)
    share = np.divide(labelled, rows, out=np.zeros(rows.shape), where=rows > 0)
    measured, error = _measured(series, share, options)
    value = measured[options.metric]
    judged = (share >= options.maturity) & (labelled >= options.min_rows) & np.isfinite(value)
    worse = options.limit - value if options.is_higher_better else np.abs(value) - options.limit
    margin = np.where(np.isfinite(error), error, 0) * _CONFIDENT
    state, since = states(judged & (worse > margin), judged & (worse <= 0), judged, options.alarms)
    described = []
    for w in range(len(rows)):
        if series.segment is not None and not rows[w] + series.invalid[w]:
            continue
        name, reason = _words(w, (rows, labelled, share, value), STATES[state[w]], bool(judged[w]), options)
        if series.invalid[w]:
            reason = "; ".join(
                [*([reason] if reason else []), f"{int(series.invalid[w]):,} rows without a valid prediction"]
            )
        described.append(
            {
                "window_start": window_time(start, series.first + w, options.window),
                **dict(zip(options.by, series.key, strict=True)),
                "segment": series.segment,
                "rows": int(rows[w]),
                "labelled": int(labelled[w]),
                "invalid_rows": int(series.invalid[w]),
                "labelled_share": float(share[w]) if rows[w] else None,
                **{n: float(v[w]) if np.isfinite(v[w]) else None for n, v in measured.items()},
                "error": float(error[w]) if np.isfinite(error[w]) else None,
                "state": name,
                "since": window_time(start, series.first + int(since[w]), options.window) if since[w] >= 0 else None,
                "reason": reason,
            }
        )
    return described


def _words(w: int, facts: tuple[Array, ...], state: str, judged: bool, options: PerformanceOptions) -> tuple[str, str]:  # noqa: FBT001 - one of the facts
    rows, labelled, share, value = (each[w] for each in facts)
    if not rows:
        return NO_DATA, "no rows"
    if not judged:
        if share < options.maturity:
            return NOT_JUDGED, f"{percent(share)} labelled, needs {percent(options.maturity)}"
        if labelled < options.min_rows:
            return NOT_JUDGED, f"{int(labelled):,} labelled rows, needs {options.min_rows:,}"
        return NOT_JUDGED, "all labels are the same"
    if state == STATES[0]:
        return state, ""
    return state, f"{options.metric} {figure(value)}, limit {figure(options.limit)}"


def _measured(series: PerformanceSeries, share: Array, options: PerformanceOptions) -> tuple[dict[str, Array], Array]:
    """Return the metrics of each window, and the standard error of the one that is judged."""
    if options.task == "binary":
        return _binary(series, share, options)
    if options.task == "regression":
        return _regression(series, options)
    count = series.sums["labelled"].sum(-1)
    accuracy = _mean(series.sums["correct"], count)
    return {"accuracy": accuracy}, estimates.share_error(accuracy, count)


def _binary(series: PerformanceSeries, share: Array, options: PerformanceOptions) -> tuple[dict[str, Array], Array]:
    sums = series.sums
    positives, labelled, rows = sums["actual"], sums["labelled"], sums["rows"]
    negatives = labelled - positives
    count = labelled.sum(-1)
    measured = {
        "auc": estimates.auc(positives, negatives),
        "accuracy": estimates.accuracy(positives, negatives, options.threshold),
        "brier": _mean(sums["squared"], count),
        "log_loss": _mean(sums["loss"], count),
        "positive_rate": _mean(positives, count),
        "calibration_error": estimates.calibration_error(positives, labelled, sums["predicted_labelled"]),
    }
    expected = np.full((2, len(rows)), np.nan)
    known = np.zeros((2, rows.shape[1]))
    for w in range(len(rows)):
        scores = np.divide(
            sums["predicted"][w], rows[w], out=(np.arange(rows.shape[1]) + 0.5) / rows.shape[1], where=rows[w] > 0
        )
        likely = estimates.expected(rows[w], estimates.calibrated(known[0], known[1], scores))
        expected[:, w] = estimates.auc(*likely), estimates.accuracy(*likely, options.threshold)
        if share[w] >= options.maturity:
            known += np.stack([positives[w], negatives[w]])
    measured["expected_auc"], measured["expected_accuracy"] = expected
    if options.metric == "auc":
        return measured, estimates.auc_error(measured["auc"], positives.sum(-1), negatives.sum(-1))
    if options.metric == "accuracy":
        return measured, estimates.share_error(measured["accuracy"], count)
    return measured, np.full(count.shape, np.nan)


def _regression(series: PerformanceSeries, options: PerformanceOptions) -> tuple[dict[str, Array], Array]:
    sums = {name: values.sum(-1) for name, values in series.sums.items()}
    count = sums["labelled"]
    measured = {
        "mae": _mean(series.sums["absolute"], count),
        "rmse": np.sqrt(_mean(series.sums["squared"], count)),
        "bias": _mean(series.sums["difference"], count),
    }
    if options.metric != "mae":
        return measured, np.full(count.shape, np.nan)
    variance = np.maximum(_mean(series.sums["squared"], count) - measured["mae"] ** 2, 0)
    return measured, np.sqrt(np.divide(variance, count, out=np.full(count.shape, np.nan), where=count > 0))


def _mean(values: Array, count: Array) -> Array:
    return np.asarray(np.divide(values.sum(-1), count, out=np.full(count.shape, np.nan), where=count > 0), np.float64)
