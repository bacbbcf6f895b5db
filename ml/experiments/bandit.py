"""Bandits: weights that follow the results, so that more units get the variant that seems best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml.experiments.moments import LEAST_UNITS, Moments
from pipeline.core.definitions import Artifact, BuildContext, Verdict
from pipeline.core.fingerprint import fingerprint
from pipeline.kernel.sql_text import literal, quoted

if TYPE_CHECKING:
    import numpy as np

    from ml.experiments.definition import OutcomeMetric

LEAST_SHARE = 0.05
"""The share of units that each variant gets whatever its results, so that one that was unlucky is not lost."""
_DRAWS, _SEED = 20_000, 0


def thompson_weights(
    arms: Mapping[str, Moments], *, per_unit: str = "sum", is_higher_better: bool = True
) -> dict[str, float] | None:
    """Return the share of units that each variant gets next: the probability that it is the best (Thompson, 1933).

    With `per_unit="any"`, where the metric of a unit is a condition, the share of units with it has a beta distribution, after a
    uniform one before the first unit. Otherwise the mean, or with `mean` the ratio of both sums, has a normal distribution with its
    standard error. Each variant gets at least 5 % (with more than ten variants, half of its equal share). The same sums give the
    same shares, in thousandths, whose sum is 1.

    Returns `None` if a variant has fewer than 100 units, or if a sum is not finite.
    """
    import numpy as np  # noqa: PLC0415 - needed only when weights are computed

    if any(arm.units < LEAST_UNITS or not arm.is_finite for arm in arms.values()):
        return None
    rng = np.random.default_rng(_SEED)
    draws = [_draws(rng, arm, per_unit) for arm in arms.values()]
    if any(drawn is None for drawn in draws):
        return None
    values = np.column_stack([drawn for drawn in draws if drawn is not None])
    is_best = values == (values.max if is_higher_better else values.min)(axis=1, keepdims=True)
    # equal values, as of two variants without any variance, share a draw
    best = (is_best / is_best.sum(axis=1, keepdims=True)).mean(axis=0)
    least = min(LEAST_SHARE, 0.5 / len(arms))
    shares = [round(float(least + (1 - len(arms) * least) * share), 3) for share in best]
    largest = int(np.argmax(shares))
    shares[largest] = round(1 - sum(share for number, share in enumerate(shares) if number != largest), 3)
    return dict(zip(arms, shares, strict=True))


def _draws(rng: np.random.Generator, arm: Moments, per_unit: str) -> np.ndarray[Any, Any] | None:
    if per_unit == "any":
        return rng.beta(1 + arm.y, 1 + arm.units - arm.y, _DRAWS)
    value, variance = arm.mean, arm.variance / arm.units
    if per_unit == "mean":
        if not arm.x:
            return None
        value = arm.y / arm.x
        spread = arm.variance - 2 * value * arm.covariance + value**2 * arm.covariate_variance
        variance = max(spread, 0.0) * arm.units / arm.x**2
    return rng.normal(value, math.sqrt(variance), _DRAWS)


@dataclass(frozen=True, kw_only=True)
class ExperimentWeights(Artifact):
    """Sets the weights of a bandit in each run while it runs; it belongs to the experiment."""

    experiment: str
    variants: tuple[str, ...]
    metric: OutcomeMetric

    @property
    def kind(self) -> str:
        """`experiment weights`."""
        return "experiment weights"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The sums."""
        return (f"{self.experiment}_sums",)

    @property
    def selected_with(self) -> str:
        """The experiment."""
        return self.experiment

    @property
    def decides(self) -> str:
        """The weights, by new results."""
        return f"gives units to the variants of {self.experiment}"

    @property
    def fingerprint(self) -> str:
        """Changes with the variants and the metric."""
        return fingerprint("experiment weights", self.experiment, repr((self.variants, self.metric)))

    def verdict(self, context: BuildContext) -> Verdict | None:
        """Return a verdict if the experiment does not run."""
        from ml.experiments.states import ExperimentStates  # noqa: PLC0415 - reads the lake

        state = ExperimentStates(context.lake).state(self.experiment)
        if state is not None and state.status == "running":
            return None
        return Verdict(accepted=True, reason="the experiment does not run")

    def build(self, context: BuildContext) -> Verdict:
        """Set the weights; they stay as they are while a variant has too few units."""
        from ml.experiments.states import ExperimentStates  # noqa: PLC0415 - reads the lake

        columns = "variant, units, y, yy, x, xx, xy"
        name = literal(self.metric.name)
        sums = context.query(f"select {columns} from {quoted(self.inputs[0])} where metric = {name}").to_pylist()
        known = {row["variant"]: Moments.of(row) for row in sums}
        arms = {variant: known.get(variant, Moments(0, 0.0, 0.0)) for variant in self.variants}
        better = self.metric.is_higher_better
        weights = thompson_weights(arms, per_unit=self.metric.per_unit, is_higher_better=better)
        if weights is None:
            reason = f"the weights stay: a variant has fewer than {LEAST_UNITS} units, or a value is not finite"
            return Verdict(accepted=True, reason=reason)
        ExperimentStates(context.lake).set_weights(self.experiment, weights)
        return Verdict(accepted=True, reason=weights_text(weights), metrics=weights)

    def registered(self, store: str, name: str) -> None:
        """It has no versions."""


def weights_text(weights: Mapping[str, float]) -> str:
    """Return weights for readers."""
    return ", ".join(f"{variant} {100 * weight:.1f} %" for variant, weight in weights.items())
