"""Metrics of a binary model from counts per bin of its score, and their expected values before labels are known.

The last axis of every array is the bins of the score, from 0 to 1, all of one width. Results are NaN without rows.

Expected values follow the confidence-based estimation of NannyML (CBPE): if scores are calibrated, a row with score p is
positive with probability p. They hold as long as the relation of features and label stays as it was: a drift of features is
visible in them, a drift of the concept is not.
"""

from __future__ import annotations

import numpy as np

from ml.monitoring.divergence import Array


def auc(positives: Array, negatives: Array) -> Array:
    """Return the area under the ROC curve; rows of one bin count half, as ties do."""
    below = np.cumsum(negatives, axis=-1) - negatives
    pairs = positives.sum(-1) * negatives.sum(-1)
    return _ratio((positives * (below + negatives / 2)).sum(-1), pairs)


def auc_error(area: Array, positives: Array, negatives: Array) -> Array:
    """Return the standard error of an area by Hanley and McNeil (1982), for numbers of positive and negative rows."""
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (positives - 1) * (first - area**2) + (negatives - 1) * (second - area**2)
    return np.asarray(np.sqrt(np.maximum(_ratio(spread, positives * negatives), 0)), np.float64)


def accuracy(positives: Array, negatives: Array, threshold: float) -> Array:
    """Return the share of rows that are predicted rightly, if bins from the threshold on are predicted to be positive."""
    from_here = _places(positives) > threshold
    right = np.where(from_here, positives, negatives).sum(-1)
    return _ratio(right, (positives + negatives).sum(-1))


def share_error(share: Array, rows: Array) -> Array:
    """Return the standard error of a share of rows."""
    return np.asarray(np.sqrt(_ratio(share * (1 - share), rows)), np.float64)


def calibrated(positives: Array, negatives: Array, scores: Array) -> Array:
    """Return the share of positive rows of each bin: its own, made to rise with the score, and the score where it has none.

    It is the isotonic regression by pooling adjacent violators; bins without labelled rows get values between their neighbours.
    """
    rows = positives + negatives
    known = np.flatnonzero(rows > 0)
    if not len(known):
        return np.asarray(scores, np.float64)
    pools: list[tuple[float, float, int]] = []
    for bin_ in known:
        mean, weight, count = positives[bin_] / rows[bin_], float(rows[bin_]), 1
        while pools and pools[-1][0] >= mean:
            other, more, bins = pools.pop()
            mean, weight, count = (mean * weight + other * more) / (weight + more), weight + more, count + bins
        pools.append((mean, weight, count))
    values = np.repeat([mean for mean, _, _ in pools], [count for _, _, count in pools])
    return np.asarray(np.interp(np.arange(len(scores)), known, values), np.float64)


def expected(rows: Array, probabilities: Array) -> tuple[Array, Array]:
    """Return the positive and the negative rows of each bin to expect, if a row of a bin is positive with its probability."""
    return rows * probabilities, rows * (1 - probabilities)


def calibration_error(positives: Array, rows: Array, score_sums: Array) -> Array:
    """Return the mean difference of the mean score and the share of positive rows over bins, weighted by rows."""
    difference = np.abs(_ratio(positives, rows) - _ratio(score_sums, rows))
    return _ratio(np.where(rows > 0, difference * rows, 0.0).sum(-1), rows.sum(-1))


def _places(values: Array) -> Array:
    """Return the middle of each bin."""
    bins = values.shape[-1]
    return np.asarray((np.arange(bins) + 0.5) / bins, np.float64)


def _ratio(above: Array, below: Array) -> Array:
    none = np.full(np.broadcast_shapes(np.shape(above), np.shape(below)), np.nan)
    return np.asarray(np.divide(above, below, out=none, where=np.asarray(below) > 0), np.float64)
