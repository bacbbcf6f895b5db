"""Tests that may be looked at any number of times: the probability of ever being wrong is bounded.

A confidence sequence is an interval that contains the true difference at all times at once with probability 1 - alpha. It
mixes the likelihood ratio over normal effects (Robbins 1970; Waudby-Smith et al. 2021 for its asymptotic form, which needs a few
hundred units), so it can be computed from the current sums alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ml.experiments.moments import Difference


@dataclass(frozen=True)
class Interval:
    """A confidence interval of a difference, and the p-value of no difference."""

    low: float
    high: float
    p: float


def mixture_for(units: int, alpha: float = 0.05) -> float:
    """Return the variance of the mixture for which the interval is shortest at this number of units (of both variants)."""
    return (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / units


def always_valid(difference: Difference, mixture: float, alpha: float = 0.05) -> Interval:
    """Return the interval of a confidence sequence, and the always-valid p-value, for a difference as it is now.

    Both are valid however often they are computed, and whenever one stops. They are infinite and 1 without variance.
    """
    n, variance = difference.units, difference.variance * difference.units
    if not variance > 0 or math.isinf(variance):
        return Interval(-math.inf, math.inf, 1.0)
    grown = n * mixture + 1
    radius = math.sqrt(variance * 2 * grown / (n * n * mixture) * math.log(math.sqrt(grown) / alpha))
    log_ratio = (n * difference.value) ** 2 * mixture / (2 * variance * grown) - math.log(grown) / 2
    return Interval(difference.value - radius, difference.value + radius, math.exp(-max(log_ratio, 0.0)))


def concentration_for(units: int, alpha: float = 0.05) -> float:
    """Return the concentration of the mixture for which the interval of a share near a half is shortest at this number of units."""
    return max(1 / mixture_for(units, alpha) - 1, 2.0)


def always_valid_share(successes: int, failures: int, concentration: float, alpha: float = 0.05) -> Interval:
    """Return the interval of a share, and the p-value that it is a half: the sign test, looked at any number of times.

    The likelihood ratio is mixed over shares by a symmetric beta distribution, so that it is exact for any number of units. The
    interval has all shares whose p-value is above `alpha`; it is from 0 to 1 without units.
    """
    prior = concentration / 2

    def log_beta(a: float, b: float) -> float:
        return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    mixed = log_beta(prior + successes, prior + failures) - log_beta(prior, prior)

    def log_p(share: float) -> float:
        return (
            (successes * math.log(share) if successes else 0.0)
            + (failures * math.log1p(-share) if failures else 0.0)
            - mixed
        )

    def end(outside: float, inside: float) -> float:
        """Return where the p-value falls below alpha, between a share that is not in the interval and one that is."""
        for _ in range(60):
            middle = (outside + inside) / 2
            if middle in {outside, inside}:
                break
            outside, inside = (middle, inside) if log_p(middle) < math.log(alpha) else (outside, middle)
        return outside

    seen = successes / (successes + failures) if successes + failures else 0.5
    low = end(0.0, seen) if successes else 0.0
    high = end(1.0, seen) if failures else 1.0
    return Interval(low, high, math.exp(min(log_p(0.5), 0.0)))


def fixed_horizon(difference: Difference, alpha: float = 0.05) -> Interval:
    """Return the usual interval and p-value, which are valid for one look at a time that was chosen before."""
    from scipy.special import ndtri  # noqa: PLC0415 - importing SciPy takes a while

    if not difference.variance > 0 or math.isinf(difference.variance):
        return Interval(-math.inf, math.inf, 1.0)
    error = math.sqrt(difference.variance)
    radius = float(ndtri(1 - alpha / 2)) * error
    p = math.erfc(abs(difference.value) / error / math.sqrt(2))
    return Interval(difference.value - radius, difference.value + radius, p)


def sequential_sample_ratio(
    counts: Mapping[str, int], weights: Mapping[str, float], concentration: float = 1000
) -> float:
    """Return the always-valid p-value that units were assigned by the weights (Lindon and Malek, 2022).

    It is the inverse Bayes factor of a Dirichlet prior around the weights, whose `concentration` says how small a deviation is
    expected. Below 0.001, the assignment or the log of exposures is broken, and no result of the experiment can be trusted.
    """
    total, weight = sum(counts.values()), sum(weights.values())
    log_factor = math.lgamma(concentration) - math.lgamma(concentration + total)
    for name, share in weights.items():
        prior, count = concentration * share / weight, counts.get(name, 0)
        log_factor += math.lgamma(prior + count) - math.lgamma(prior) - count * math.log(share / weight)
    return min(1.0, math.exp(-log_factor)) if log_factor > -700 else 1.0  # noqa: PLR2004 - exp would overflow
