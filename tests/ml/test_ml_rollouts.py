"""How often a rollout withdraws a version that does no harm, and one that does."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ml import outcome_metric
from ml.experiments.results import results
from ml.models.registry.roles import CHALLENGER, CHAMPION
from ml.models.rolling_out import harm_of
from tests.rigs.proofs import examples

STEPS, UNITS, ALPHA, LOOKS = (0.05, 0.25, 0.5), 1000, 0.05, 10
METRICS = (
    outcome_metric("errors", of="e", unit="u", time="t", better="lower", guardrail=0.2),
    outcome_metric("revenue", of="e", unit="u", time="t"),
)


def is_withdrawn(rng: np.random.Generator, effect: float) -> bool:
    """Live through a rollout that is looked at ten times in each step; `effect` changes both metrics for the worse."""
    for step in STEPS:
        units = int(UNITS / min(step, 1 - step))
        challenger = rng.random(units) < step
        errors = (rng.random(units) < 0.1 * (1 + effect * challenger)).astype(float)
        revenue = rng.exponential(10.0 * (1 - effect * challenger / 2))
        for seen in np.linspace(units / LOOKS, units, LOOKS).astype(int):
            rows = []
            for arm, mask in ((CHAMPION, ~challenger[:seen]), (CHALLENGER, challenger[:seen])):
                rows.append({"metric": "", "variant": arm, "units": int(mask.sum())})
                for each, values in zip(METRICS, (errors, revenue), strict=True):
                    y = values[:seen][mask]
                    sums = {"units": len(y), "y": y.sum(), "yy": (y * y).sum(), "x": 0.0, "xx": 0.0, "xy": 0.0}
                    rows.append({"metric": each.name, "variant": arm, **sums})
            schema = ["metric", "variant", "units", "y", "yy", "x", "xx", "xy"]
            table = pa.table({name: [row.get(name) for row in rows] for name in schema})
            variants = ((CHAMPION, 1 - step), (CHALLENGER, step))
            if harm_of(results(table, variants, METRICS, 2 * UNITS, ALPHA / len(STEPS)).to_pylist()):
                return True
    return False


@pytest.mark.parametrize(("effect", "least", "most"), [(0.0, 0.0, ALPHA), (1.0, 0.95, 1.0)])
def test_versions_are_withdrawn_for_harm_and_rarely_without(effect, least, most):
    rng, rollouts = np.random.default_rng(11), examples(60, 1000)
    withdrawn = sum(is_withdrawn(rng, effect) for _ in range(rollouts))
    assert least <= withdrawn / rollouts <= most, (withdrawn, rollouts)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_metric_that_is_no_number_is_harm(wrong):
    """A comparison with NaN is false: the version would be promoted."""
    sums = {"units": 500, "y": wrong, "yy": 1.0, "x": 0.0, "xx": 0.0, "xy": 0.0}
    rows = [
        {"metric": name, "variant": arm, **sums} for name in ("", "errors", "revenue") for arm in (CHAMPION, CHALLENGER)
    ]
    variants = ((CHAMPION, 0.5), (CHALLENGER, 0.5))
    found = results(pa.Table.from_pylist(rows), variants, METRICS, 2 * UNITS, ALPHA).to_pylist()
    assert harm_of(found) == "errors: a value is NaN or infinite"
