"""Distances between two distributions, from counts per bin.

All functions take arrays whose last axis is the bins, in the same order on both sides, and return an array without it;
leading axes are broadcast. Counts are not negative. Results are NaN where one side has no rows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
FLOOR = 1e-4
"""The least share of a bin in the population stability index, so that an empty bin leaves it finite."""
ROWS_PER_BIN = 10
"""Per bin, and divided by the threshold: the rows from which an index is compared with a threshold."""


def psi(current: Array, reference: Array) -> Array:
    """Return the population stability index, the sum of (p - q) ln(p / q) over shares of at least `FLOOR`."""
    p, q = np.maximum(shares(current), FLOOR), np.maximum(shares(reference), FLOOR)
    return _sum((p - q) * np.log(p / q))


def psi_noise(current: Array, reference: Array) -> Array:
    """Return the expected index of two samples of one distribution: about (bins - 1)(1/n + 1/m), for bins with rows."""
    bins = _sum((current + reference > 0).astype(np.float64))
    return np.maximum(bins - 1, 0) * (_inverse(_sum(current)) + _inverse(_sum(reference)))


def kolmogorov_smirnov(current: Array, reference: Array) -> Array:
    """Return the greatest difference of the cumulative shares. It is at most the share of one bin below that of all values."""
    difference: Array = np.abs(np.cumsum(shares(current), axis=-1) - np.cumsum(shares(reference), axis=-1))
    return np.asarray(difference.max(axis=-1), np.float64)


def jensen_shannon(current: Array, reference: Array) -> Array:
    """Return the Jensen-Shannon distance with logarithms of base 2: 0 for equal shares, 1 if no bin has rows of both."""
    p, q = shares(current), shares(reference)
    middle = (p + q) / 2
    divergence = _sum(_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    return np.asarray(np.sqrt(np.maximum(divergence / math.log(2), 0)), np.float64)


def wasserstein(current: Array, reference: Array, current_means: Array, reference_means: Array) -> Array:
    """Return the distance that values must be moved on average, if each bin's rows are at its mean."""
    places = np.concatenate(np.broadcast_arrays(current_means, reference_means), axis=-1)
    weights = np.concatenate(np.broadcast_arrays(shares(current), -shares(reference)), axis=-1)
    places = np.where(weights == 0, -np.inf, places)  # an empty bin has no mean
    order = np.argsort(places, axis=-1, kind="stable")
    places, weights = np.take_along_axis(places, order, -1), np.take_along_axis(weights, order, -1)
    first = np.min(np.where(np.isfinite(places), places, np.inf), axis=-1, keepdims=True)
    places = np.where(np.isfinite(places), places, first)
    steps = np.diff(places, axis=-1)
    return _sum(np.abs(np.cumsum(weights, axis=-1)[..., :-1]) * steps)


def chi_square(current: Array, reference: Array) -> tuple[Array, Array]:
    """Return the statistic of Pearson's test that both have the same shares, and its p-value.

    The degrees of freedom are the bins with rows, minus one; with one bin the statistic is 0 and the p-value 1.
    """
    from scipy.special import chdtrc  # noqa: PLC0415 - importing SciPy takes a while, and definitions import this module

    n, m = _sum(current)[..., None], _sum(reference)[..., None]
    both = current + reference
    with np.errstate(invalid="ignore", divide="ignore"):
        terms = (np.sqrt(m / n) * current - np.sqrt(n / m) * reference) ** 2 / both
    statistic = _sum(np.where((both == 0) & (n * m > 0), 0.0, terms))
    freedom = _sum((both > 0).astype(np.float64)) - 1
    p = np.where(freedom > 0, chdtrc(np.maximum(freedom, 1), statistic), np.where(np.isnan(statistic), np.nan, 1.0))
    return statistic, np.asarray(p, np.float64)


def benjamini_hochberg(p: Array) -> Array:
    """Return p-values adjusted over the last axis, so that of those below a level at most this share are false.

    NaN stands for no test, and stays.
    """
    order = np.argsort(p, axis=-1, kind="stable")  # NaN last
    ordered = np.take_along_axis(p, order, -1)
    tests = _sum((~np.isnan(p)).astype(np.float64))[..., None]
    scaled = ordered * tests / np.arange(1, p.shape[-1] + 1)
    scaled = np.where(np.isnan(scaled), np.inf, scaled)
    least = np.minimum.accumulate(scaled[..., ::-1], axis=-1)[..., ::-1]
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(least, 1.0), -1)
    return np.asarray(np.where(np.isnan(p), np.nan, adjusted), np.float64)


def shares(counts: Array) -> Array:
    """Return counts divided by their sum over the last axis; NaN without rows."""
    total = _sum(counts)[..., None]
    return np.asarray(np.divide(counts, total, out=np.full(np.shape(counts), np.nan), where=total > 0), np.float64)


def _relative_entropy(p: Array, q: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(p == 0, 0.0, p * np.log(p / q)), np.float64)


def _sum(values: Any) -> Array:
    return np.asarray(np.sum(values, axis=-1), np.float64)


def _inverse(values: Array) -> Array:
    return np.asarray(np.divide(1.0, values, out=np.full(np.shape(values), np.nan), where=values > 0), np.float64)
