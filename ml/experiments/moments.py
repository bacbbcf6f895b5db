"""Means of units from mergeable sums, and the difference of two variants."""

from __future__ import annotations

import math
from dataclasses import dataclass

SEVERAL, INCOMPLETE = "(several)", "(incomplete)"
"""The names in the table of sums, beside those of metrics, for units that saw several variants, and for exposures without a
unit, variant or time."""


@dataclass(frozen=True)
class Moments:
    """Sums over the units of a variant: of a metric `y` and of a covariate or denominator `x`."""

    units: int
    y: float
    yy: float
    x: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def __add__(self, other: Moments) -> Moments:
        """Return the sums over the units of both."""
        return Moments(
            self.units + other.units,
            self.y + other.y,
            self.yy + other.yy,
            self.x + other.x,
            self.xx + other.xx,
            self.xy + other.xy,
        )

    @property
    def mean(self) -> float:
        """The mean of the metric; NaN without units."""
        return self.y / self.units if self.units else math.nan

    @property
    def variance(self) -> float:
        """The variance of the metric among units; NaN for fewer than two."""
        return max(self._covariance(self.yy, self.y, self.y), 0.0) if self.units > 1 else math.nan

    @property
    def covariance(self) -> float:
        """The covariance of metric and covariate."""
        return self._covariance(self.xy, self.x, self.y)

    @property
    def covariate_variance(self) -> float:
        """The variance of the covariate."""
        return max(self._covariance(self.xx, self.x, self.x), 0.0) if self.units > 1 else math.nan

    def _covariance(self, product: float, a: float, b: float) -> float:
        if self.units < 2:  # noqa: PLR2004 - a variance needs two
            return math.nan
        return (product - a * b / self.units) / (self.units - 1)


@dataclass(frozen=True)
class Difference:
    """The difference of a variant from the control."""

    value: float
    variance: float
    """The variance of the difference, which falls with the units."""
    units: int
    """The units of both."""
    control: float
    """The mean of the control."""

    @property
    def relative(self) -> float:
        """The difference divided by the control's mean; NaN if that is 0."""
        return self.value / self.control if self.control else math.nan


def difference(variant: Moments, control: Moments) -> Difference:
    """Return the difference of the means."""
    return Difference(
        variant.mean - control.mean,
        variant.variance / max(variant.units, 1) + control.variance / max(control.units, 1),
        variant.units + control.units,
        control.mean,
    )


def cuped(variant: Moments, control: Moments) -> Difference:
    """Return the difference of the means without what the covariate explains (Deng et al., 2013).

    The covariate must be known before the unit was exposed; then the difference that it estimates is the same, and its variance
    is smaller by the square of the correlation. Without variance of the covariate it is `difference`.
    """
    both = variant + control
    spread = both.covariate_variance
    if not spread > 0:
        return difference(variant, control)
    theta = both.covariance / spread
    middle = both.x / both.units

    def adjusted(arm: Moments) -> tuple[float, float]:
        mean = arm.mean - theta * (arm.x / arm.units - middle)
        variance = arm.variance - 2 * theta * arm.covariance + theta**2 * arm.covariate_variance
        return mean, max(variance, 0.0) / arm.units

    (mean, noise), (base, base_noise) = adjusted(variant), adjusted(control)
    return Difference(mean - base, noise + base_noise, both.units, base)


def ratio_difference(variant: Moments, control: Moments) -> Difference:
    """Return the difference of the ratios of sums, `y` by `x`, by the delta method.

    It is for metrics of requests when units are users: the requests of a user are not independent.
    """

    def ratio(arm: Moments) -> tuple[float, float]:
        if not arm.x or arm.units < 2:  # noqa: PLR2004 - a variance needs two
            return math.nan, math.nan
        value = arm.y / arm.x
        variance = arm.variance - 2 * value * arm.covariance + value**2 * arm.covariate_variance
        return value, max(variance, 0.0) * arm.units / arm.x**2

    (value, noise), (base, base_noise) = ratio(variant), ratio(control)
    return Difference(value - base, noise + base_noise, variant.units + control.units, base)
