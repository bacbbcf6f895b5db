"""The results of a monitor, for each feature in each window and segment: a pure function of counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ml.monitoring import divergence as d
from ml.monitoring.alarm_reasons import DistributionChange, changed
from ml.monitoring.alarm_rules import ALARM, NO_DATA, NOT_JUDGED, QUIET, STATES, Alarms
from ml.monitoring.counts import NAN, NULL, Feature
from ml.monitoring.divergence import Array
from ml.monitoring.hysteresis import states
from ml.monitoring.monitored import Monitored
from ml.monitoring.references import WEEK, Fixed, Reference, SameWeekday
from ml.monitoring.series import UTC_US, added, numbered, numbers, series_rows, window_time

_SUMS = ("rows", "total", "squares")
_NAMED = 3
"""The most new values with a bin of their own that a reason names."""
_SHIFT = -NAN
"""The place of bin 0 in an array of bins."""


@dataclass(frozen=True)
class FeatureSeries:
    """A feature in the windows of a segment, and its reference: arrays of windows and bins."""

    key: tuple[Any, ...]
    """The values of the columns `by`."""
    segment: str | None
    """`None` for all rows."""
    feature: Feature
    first: int
    """The number of its first window."""
    sums: Mapping[str, Array]
    reference: Mapping[str, Array]
    others: tuple[tuple[str, str] | None, ...] = field(default=(), repr=False)
    """Per window, two values without a bin of their own."""
    values: Sequence[str] = field(default=(), repr=False)
    """The values that have a bin, from bin 1 on; empty for numbers."""


@dataclass(frozen=True)
class Measures:
    """The distances of a series from its reference, per window."""

    series: FeatureSeries
    rows: Array
    reference_rows: Array
    psi: Array
    noise: Array
    ks: Array
    jensen_shannon: Array
    wasserstein: Array
    p: Array
    null_share: Array
    new_share: Array
    needed: Array


def drift_results(counts: pa.Table, bins: pa.Table, reference: pa.Table | None, monitored: Monitored) -> pa.Table:
    """Return one row for each window, segment and feature, with its distances, its state and the reason.

    Windows without rows between the first and the last one are there, with the state `no data`. Rows without a time are
    counted in the row whose window is null.
    """
    schema = schema_of(monitored, counts.schema)
    if counts.num_rows == 0:
        return schema.empty_table()
    start, dated = numbered(counts, monitored.window)
    measures = [
        _measured(series, monitored) for series in _series(dated, _values(bins, monitored), reference, monitored)
    ]
    rows: list[dict[str, Any]] = []
    for group in _grouped(measures):
        rows += _judged(group, start, monitored)
    rows += _undated(counts, monitored)
    return pa.Table.from_pylist(rows, schema=schema)


def schema_of(monitored: Monitored, counts: pa.Schema) -> pa.Schema:
    """Return the columns of the results."""
    numbers = ("psi", "noise", "ks", "jensen_shannon", "wasserstein", "p_value", "null_share", "new_share")
    return pa.schema(
        [
            ("window_start", UTC_US),
            *((name, counts.field(name).type) for name in monitored.by),
            ("segment", pa.string()),
            ("feature", pa.string()),
            ("rows", pa.int64()),
            ("reference_rows", pa.int64()),
            *((name, pa.float64()) for name in numbers),
            ("state", pa.string()),
            ("since", UTC_US),
            ("reason", pa.string()),
        ]
    )


def _series(
    dated: pa.Table, values: Mapping[str, Sequence[str]], reference: pa.Table | None, monitored: Monitored
) -> Iterator[FeatureSeries]:
    """Return the series of each segment and feature, and those of all segments together."""
    names = [feature.name for feature in monitored.binning.features]
    number = pc.index_in(dated["feature"], pa.array(names)).to_numpy()
    window, bin_ = dated["_window"].to_numpy(), dated["bin"].to_numpy() + _SHIFT
    columns = {name: numbers(dated[name]) for name in _SUMS}
    fixed = _fixed(reference, monitored)
    for each in series_rows(dated, monitored.by, has_segments=monitored.has_segments):
        shape = (each.windows, monitored.binning.width)
        for f, feature in enumerate(monitored.binning.features):
            rows = each.rows[number[each.rows] == f]
            if each.segment is not None and not len(rows):
                continue
            at = (window[rows] - each.first, bin_[rows])
            sums = {name: added(shape, at, columns[name][rows]) for name in _SUMS}
            others = _others(dated, rows, at[0], each.windows)
            compared = _compared(sums, fixed, each.segment, feature.name, monitored)
            named = values.get(feature.name, ())
            yield FeatureSeries(each.key, each.segment, feature, each.first, sums, compared, others, named)


def _others(dated: pa.Table, rows: np.ndarray, window: np.ndarray, windows: int) -> tuple[tuple[str, str] | None, ...]:
    others: list[tuple[str, str] | None] = [None] * windows
    chosen = dated.select(["first_other", "last_other"]).take(pa.array(rows)).to_pylist()
    for at, row in zip(window, chosen, strict=True):
        if row["first_other"] is not None:
            others[int(at)] = (row["first_other"], row["last_other"])
    return tuple(others)


def _fixed(reference: pa.Table | None, monitored: Monitored) -> dict[tuple[str | None, str], dict[str, Array]]:
    """Return the sums of a fixed reference by segment and feature; those of all rows under the segment `None`."""
    fixed: dict[tuple[str | None, str], dict[str, Array]] = {}
    if reference is None:
        return fixed
    bin_ = reference["bin"].to_numpy() + _SHIFT
    columns = {name: numbers(reference[name]) for name in _SUMS}
    features = reference["feature"].to_pylist()
    segments = reference["segment"].to_pylist() if monitored.has_segments else [None] * reference.num_rows
    for i, (feature, segment) in enumerate(zip(features, segments, strict=True)):
        for key in {(None, feature), (segment, feature)}:
            sums = fixed.setdefault(key, {name: np.zeros(monitored.binning.width) for name in _SUMS})
            for name in _SUMS:
                sums[name][bin_[i]] += columns[name][i]
    return fixed


def _compared(
    sums: Mapping[str, Array],
    fixed: Mapping[tuple[str | None, str], Mapping[str, Array]],
    segment: str | None,
    feature: str,
    monitored: Monitored,
) -> dict[str, Array]:
    reference = monitored.reference
    if not isinstance(reference, Fixed):
        return {name: _before(values, reference, monitored.window) for name, values in sums.items()}
    none = {name: np.zeros(monitored.binning.width) for name in _SUMS}
    of = fixed.get((segment, feature), none)
    return {name: np.broadcast_to(of[name], values.shape) for name, values in sums.items()}


def _before(values: Array, reference: Reference, window: timedelta) -> Array:
    """Return, for values per window (first axis), their sum over the windows that each is compared with."""
    if isinstance(reference, SameWeekday):
        total = np.zeros(values.shape)
        for weeks in range(1, reference.weeks + 1):
            shift = weeks * (WEEK // window)
            total[shift:] += values[:-shift]
        return total
    if isinstance(reference, Fixed):
        raise TypeError(reference.words)
    steps, ends = reference.length // window, np.arange(len(values))
    total = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, axis=0)])
    return np.asarray(total[ends] - total[np.maximum(ends - steps, 0)], np.float64)


def _measured(series: FeatureSeries, monitored: Monitored) -> Measures:
    """Return the distances of a series: nulls and NaN are bins of the index, and no part of ordered distances."""
    now, then = series.sums["rows"], series.reference["rows"]
    rows, reference_rows = now.sum(-1), then.sum(-1)
    nan = np.full(rows.shape, np.nan)
    ks = wasserstein = nan
    if series.feature.is_numerical:
        inner, before = now[:, _SHIFT:], then[:, _SHIFT:]
        ks = d.kolmogorov_smirnov(inner, before)
        means = [_means(sums)[:, _SHIFT:] for sums in (series.sums, series.reference)]
        moved, spread = d.wasserstein(inner, before, *means), _spread(series.reference)
        wasserstein = np.divide(moved, spread, out=nan.copy(), where=spread > 0)
    _, p = d.chi_square(now, then)
    used = np.maximum((then > 0).sum(-1), 2)
    return Measures(
        series=series,
        rows=rows,
        reference_rows=reference_rows,
        psi=d.psi(now, then),
        noise=d.psi_noise(now, then),
        ks=ks,
        jensen_shannon=d.jensen_shannon(now, then),
        wasserstein=wasserstein,
        p=p,
        null_share=d.shares(now)[:, NULL + _SHIFT],
        new_share=np.where(then == 0, d.shares(now), 0.0).sum(-1),
        needed=np.ceil(d.ROWS_PER_BIN * used / monitored.alarms.enter),
    )


def _means(sums: Mapping[str, Array]) -> Array:
    rows = sums["rows"]
    return np.divide(sums["total"], rows, out=np.zeros(rows.shape), where=rows > 0)


def _spread(sums: Mapping[str, Array]) -> Array:
    """Return the standard deviation of the numbers of a reference; 0 without any."""
    rows = sums["rows"][:, _SHIFT:].sum(-1)
    total, squares = sums["total"].sum(-1), sums["squares"].sum(-1)
    mean = np.divide(total, rows, out=np.zeros(rows.shape), where=rows > 0)
    square = np.divide(squares, rows, out=np.zeros(rows.shape), where=rows > 0)
    variance = square - mean**2
    return np.asarray(np.sqrt(np.where(variance > 1e-12 * np.abs(square), variance, 0.0)), np.float64)


def _grouped(measures: Sequence[Measures]) -> list[list[Measures]]:
    """Return the series of each model version or arm, whose tests are corrected together."""
    groups: dict[tuple[Any, ...], list[Measures]] = {}
    for each in measures:
        groups.setdefault(each.series.key, []).append(each)
    return list(groups.values())


def _judged(group: list[Measures], start: int, monitored: Monitored) -> list[dict[str, Any]]:
    """Return the rows of the series of one key."""
    rule = monitored.alarms
    group = [*group, *_weighted(group, rule)]
    rows, psi, p = (np.stack([getattr(m, name) for m in group], axis=1) for name in ("rows", "psi", "p"))
    enough = np.stack([np.minimum(m.rows, m.reference_rows) >= m.needed for m in group], axis=1)
    q = d.benjamini_hochberg(np.where(enough, p, np.nan))
    new = np.stack([m.new_share for m in group], axis=1)
    constant = np.stack([(m.series.reference["rows"] > 0).sum(-1) == 1 for m in group], axis=1)
    is_new = np.where(constant, new > 0, new > rule.new_values)
    is_significant = q < rule.significance
    high = enough & (is_new | ((psi >= rule.enter) & is_significant))
    low = enough & ~is_new & (psi < rule.leave)
    state, since = states(high, low, enough, rule)
    described = []
    for column, measure in enumerate(group):
        for window in range(len(measure.rows)):
            if measure.series.segment is not None and not rows[window, column]:
                continue
            name, reason = _words(measure, window, state[window, column], enough[window, column], monitored)
            began = since[window, column]
            first = measure.series.first
            described.append(
                {
                    "window_start": window_time(start, first + window, monitored.window),
                    **dict(zip(monitored.by, measure.series.key, strict=True)),
                    **_figures(measure, window, q[window, column]),
                    "state": name,
                    "since": window_time(start, first + int(began), monitored.window) if began >= 0 else None,
                    "reason": reason,
                }
            )
    return _with_suspicion(described, monitored)


def _weighted(group: list[Measures], rule: Alarms) -> list[Measures]:
    """Return the series of all features together, by their importances; none without these."""
    if not rule.weights:
        return []
    chosen = [m for m in group if m.series.segment is None]
    weight = np.array([rule.weights.get(m.series.feature.name, 0.0) for m in chosen])[:, None]
    measured = ~np.isnan(np.stack([m.psi for m in chosen]))

    def mean(name: str) -> Array:
        values = np.stack([getattr(m, name) for m in chosen])
        total = (weight * measured).sum(0)
        summed, none = (weight * np.where(measured, values, 0)).sum(0), np.full(total.shape, np.nan)
        return np.asarray(np.divide(summed, total, out=none, where=total > 0), np.float64)

    smallest = np.nanmin(np.stack([np.where(np.isnan(m.p), np.inf, m.p) for m in chosen]), axis=0)
    nan = np.full(smallest.shape, np.nan)
    every = replace(chosen[0].series, feature=Feature("", "", is_numerical=True), others=())
    return [
        replace(
            chosen[0],
            series=every,
            psi=mean("psi"),
            noise=mean("noise"),
            p=np.minimum(smallest * len(chosen), 1.0),
            ks=nan,
            jensen_shannon=nan,
            wasserstein=nan,
            null_share=nan,
            new_share=np.zeros(smallest.shape),
            needed=np.max(np.stack([m.needed for m in chosen]), axis=0),
        )
    ]


def _figures(measure: Measures, window: int, q: float) -> dict[str, Any]:
    numbers = {
        "psi": measure.psi[window],
        "noise": measure.noise[window],
        "ks": measure.ks[window],
        "jensen_shannon": measure.jensen_shannon[window],
        "wasserstein": measure.wasserstein[window],
        "p_value": q,
        "null_share": measure.null_share[window],
        "new_share": measure.new_share[window],
    }
    return {
        "segment": measure.series.segment,
        "feature": measure.series.feature.name or None,
        "rows": int(measure.rows[window]),
        "reference_rows": int(measure.reference_rows[window]),
        **{name: float(value) if np.isfinite(value) else None for name, value in numbers.items()},
    }


def _words(measure: Measures, window: int, state: int, enough: bool, monitored: Monitored) -> tuple[str, str]:  # noqa: FBT001 - one of the facts
    rows, reference, needed = (int(x[window]) for x in (measure.rows, measure.reference_rows, measure.needed))
    compared = monitored.reference.words
    if rows == 0:
        return NO_DATA, "no rows"
    if reference == 0:
        return NOT_JUDGED, f"{compared}: no rows"
    if reference < needed:
        return NOT_JUDGED, f"{compared}: {reference:,} rows, needs {needed:,}"
    if not enough:
        return NOT_JUDGED, f"{rows:,} rows, needs {needed:,}"
    name = STATES[state]
    if name == QUIET or not measure.series.feature.name:
        return name, "" if name == QUIET else f"mean index of all features, by weight: {measure.psi[window]:.2f}"
    return name, changed(_change(measure, window), compared)


def _change(measure: Measures, window: int) -> DistributionChange:
    series = measure.series
    before = {name: values[window] for name, values in series.reference.items()}
    now = {name: values[window] for name, values in series.sums.items()}

    def mean(sums: Mapping[str, Array]) -> float:
        rows = sums["rows"][_SHIFT:].sum()
        return float(sums["total"].sum() / rows) if series.feature.is_numerical and rows else float("nan")

    return DistributionChange(
        psi=float(measure.psi[window]),
        new_share=float(np.where(before["rows"] == 0, d.shares(now["rows"]), 0)[_SHIFT:].sum()),
        nulls=(float(d.shares(before["rows"])[NULL + _SHIFT]), float(measure.null_share[window])),
        means=(mean(before), mean(now)),
        others=_named(series, window, before["rows"], now["rows"]),
        is_numerical=series.feature.is_numerical,
    )


def _named(series: FeatureSeries, window: int, before: Array, now: Array) -> tuple[str, ...]:
    """Return some of the values that the reference does not have."""
    known = [
        value
        for value, old, new in zip(series.values, before[_SHIFT + 1 :], now[_SHIFT + 1 :], strict=False)
        if new and not old
    ]
    other = series.others[window] if before[_SHIFT] == 0 and now[_SHIFT] else None
    return tuple(dict.fromkeys((*known[:_NAMED], *(other or ()))))


def _values(bins: pa.Table, monitored: Monitored) -> dict[str, list[str]]:
    """Return the values of each categorical feature that have a bin of their own."""
    features = enumerate(monitored.binning.features)
    return {f.name: bins[f"values_{i}"][0].as_py() or [] for i, f in features if not f.is_numerical and bins.num_rows}


def _with_suspicion(rows: list[dict[str, Any]], monitored: Monitored) -> list[dict[str, Any]]:
    """Add to the alarm of a prediction that no feature drifts, if that is so."""
    if not monitored.prediction:
        return rows
    drifting = {
        r["window_start"]
        for r in rows
        if r["feature"] != monitored.prediction and r["state"] not in {QUIET, NOT_JUDGED}
    }
    for row in rows:
        if row["feature"] == monitored.prediction and row["state"] == ALARM and row["window_start"] not in drifting:
            row["reason"] += (
                "; no feature drifts: suspect code, the model version or features computed differently first"
            )
    return rows


def _undated(counts: pa.Table, monitored: Monitored) -> list[dict[str, Any]]:
    """Return a row that counts the rows without a time, if there are any."""
    undated = counts.filter(
        pc.and_(counts["window_start"].is_null(), pc.equal(counts["feature"], monitored.binning.features[0].name))
    )
    rows = pc.sum(undated["rows"]).as_py()
    return [{"rows": rows, "state": NOT_JUDGED, "reason": f"{rows:,} rows without a time"}] if rows else []
