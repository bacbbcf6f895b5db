"""Means of units from mergeable sums, and the difference of two variants."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

SEVERAL, INCOMPLETE, EARLIER = "(several)", "(incomplete)", "(earlier)"
"""The names in the table of sums, beside those of metrics, for units that saw several variants, for exposures without a
unit, variant or time, and for exposures before the time from which they count."""
LEAST_UNITS = 100
"""The units of each variant from which on a mean is taken to be normal."""
_LEAST_SPREAD = 1e-12
"""The variance, as a share of the mean square, below which values are taken to be equal: it is what rounding leaves of none."""


@dataclass(frozen=True)
class Moments:
    """Sums over the units of a variant: of a metric `y` and of a covariate or denominator `x`."""

    units: int
    y: float
    yy: float
    x: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    @classmethod
    def of(cls, sums: Mapping[str, Any]) -> Self:
        """Return a row of the table of sums."""
        return cls(sums["units"], *(sums[name] or 0.0 for name in ("y", "yy", "x", "xx", "xy")))

    @property
    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return all(math.isfinite(value) for value in (self.y, self.yy, self.x, self.xx, self.xy))

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
    """The variance of the difference, which falls with the units; 0 if all values of both are equal."""
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
    variance = _variance(variant, control, slopes=(0.0, 0.0), pooled=0.0, sizes=(variant.units, control.units))
    return Difference(variant.mean - control.mean, variance, variant.units + control.units, control.mean)


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
    mean, base = (arm.mean - theta * (arm.x / arm.units - middle) for arm in (variant, control))
    sizes = (variant.units, control.units)
    variance = _variance(variant, control, slopes=(theta, theta), pooled=theta, sizes=sizes)
    return Difference(mean - base, variance, both.units, base)


def ratio_difference(variant: Moments, control: Moments) -> Difference:
    """Return the difference of the ratios of sums, `y` by `x`, by the delta method.

    It is for metrics of requests when units are users: the requests of a user are not independent.
    """
    value, base = (arm.y / arm.x if arm.x else math.nan for arm in (variant, control))
    both = variant + control
    pooled = both.y / both.x if both.x else math.nan
    sizes = [arm.x**2 / arm.units if arm.units else 0.0 for arm in (variant, control)]
    variance = _variance(variant, control, slopes=(value, base), pooled=pooled, sizes=(sizes[0], sizes[1]))
    return Difference(value - base, variance, both.units, base)


def _variance(
    variant: Moments, control: Moments, *, slopes: tuple[float, float], pooled: float, sizes: tuple[float, float]
) -> float:
    """Return the variance of a difference: the sum over both of the variance of `y - slope x` by their size.

    If the values of one are all equal, it shows no variance although it has some: none of 200 units with an error does not mean that the
    next one has none. Then the variance is at least that of units of one population, all those of both. Returns 0 if all
    values of both are equal, and NaN if it is unknown.
    """
    if not all(sizes):
        return math.nan
    spreads = [_spread(arm, slope) for arm, slope in zip((variant, control), slopes, strict=True)]
    variance = sum(spread / size for spread, size in zip(spreads, sizes, strict=True))
    if all(spreads):
        return variance
    return max(variance, _spread(variant + control, pooled) * sum(1 / size for size in sizes))


def _spread(units: Moments, slope: float) -> float:
    """Return the variance of `y - slope x` among units; 0 if it is what rounding leaves, NaN for fewer than two units."""
    found = (
        units.variance - 2 * slope * units.covariance + slope**2 * units.covariate_variance if slope else units.variance
    )
    least = _LEAST_SPREAD * (units.yy + slope**2 * units.xx) / max(units.units, 1)
    return 0.0 if found <= least else found
