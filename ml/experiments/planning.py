"""What an experiment can find, before it starts: the power of two variants of equal size, by the normal approximation."""

from __future__ import annotations

import math

from ml.experiments.moments import Difference
from ml.experiments.sequential import always_valid, mixture_for


def minimum_detectable_effect(
    units: int, deviation: float, *, alpha: float = 0.05, power: float = 0.8, sequential: bool = True
) -> float:
    """Return the least true difference of means that is found with this power by `units` units in each variant.

    `deviation` is the standard deviation of the metric among units, after CUPED if that is used. With `sequential`, the test is
    the confidence sequence looked at when all units are there; looks before that can only add to the power.
    """
    error = deviation * math.sqrt(2 / units)
    return (_critical(units, alpha, sequential=sequential) + _quantile(power)) * error


def power(effect: float, units: int, deviation: float, *, alpha: float = 0.05, sequential: bool = True) -> float:
    """Return the probability that a true difference is found by `units` units in each variant; see above."""
    error = deviation * math.sqrt(2 / units)
    critical, shift = _critical(units, alpha, sequential=sequential), abs(effect) / error
    return _normal(shift - critical) + _normal(-shift - critical)


def units_needed(
    effect: float, deviation: float, *, alpha: float = 0.05, power: float = 0.8, sequential: bool = True
) -> int:
    """Return the units that each variant needs to find a true difference with this power; see above."""
    # with the best mixture, the critical value does not depend on the number of units
    critical = _critical(1000, alpha, sequential=sequential)
    return math.ceil(2 * ((critical + _quantile(power)) * deviation / effect) ** 2)


def share_deviation(share: float) -> float:
    """Return the standard deviation of a metric that is 1 for this share of units, and 0 for the others."""
    return math.sqrt(share * (1 - share))


def _critical(units: int, alpha: float, *, sequential: bool) -> float:
    """Return the number of standard errors from which on a difference is found."""
    if not sequential:
        return _quantile(1 - alpha / 2)
    interval = always_valid(Difference(0.0, 1.0, 2 * units, 0.0), mixture_for(2 * units, alpha), alpha)
    return interval.high


def _quantile(share: float) -> float:
    from scipy.special import ndtri  # noqa: PLC0415 - importing SciPy takes a while

    return float(ndtri(share))


def _normal(value: float) -> float:
    return math.erfc(-value / math.sqrt(2)) / 2
