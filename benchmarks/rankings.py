"""Interleaving and bandits, by simulation: `python -m benchmarks.rankings [COUNT]`.

Searches have twelve items, of which six are shown. People look at each position with a probability that falls by 0.7, and click an
item with the probability that it is relevant. A ranking orders items by their relevance with noise.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from ml.experiments import (
    Moments,
    always_valid,
    always_valid_share,
    concentration_for,
    difference,
    interleave,
    mixture_for,
    thompson_weights,
)

ITEMS, SHOWN, LOOKS, ALPHA = 12, 6, 50, 0.05
EXAMINED = 0.7 ** np.arange(SHOWN)
"""The probability that somebody looks at a position."""
BETTER, EQUAL = {"old": 0.25, "new": 0.1}, {"old": 0.1, "new": 0.1}
"""The noise of both rankings."""


def main() -> None:
    """Print the figures as one JSON object."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    rng = np.random.default_rng(1)
    wrong = [looked(rng, run, 1000) for run in range(count)]
    clicks = statistics.median(units_by_clicks(rng, BETTER, 20_000) for _ in range(count))
    interleaved = statistics.median(units_interleaved(rng, BETTER, 5000, run) for run in range(count))
    means = [(0.1, 0.0), (0.1, 0.0), (0.14, 0.0)]
    regrets = [campaign(rng, means, "any")[0] for _ in range(count // 4)]
    figures = {
        "interleavings": count,
        "wrong_always_valid": sum(always for always, _ in wrong) / count,
        "wrong_fixed": sum(fixed for _, fixed in wrong) / count,
        "median_requests_by_clicks": clicks,
        "median_requests_interleaved": interleaved,
        "interleaved_to_clicks": round(interleaved / clicks, 3),
        "campaigns": len(regrets),
        "regret_of_the_bandit_to_equal_weights": round(statistics.fmean(regrets) / (0.14 - (0.1 + 0.1 + 0.14) / 3), 3),
    }
    print(json.dumps(figures, indent=2))


def preferred(rng: np.random.Generator, request: str, noises: Mapping[str, float]) -> int:
    """Return which ranking a request prefers: 1 for the new one, -1 for the old one, 0 for none."""
    relevance = rng.beta(1, 4, ITEMS)
    rankings: dict[str, list[int]] = {
        name: np.argsort(-(relevance + rng.normal(0, noise, ITEMS))).tolist() for name, noise in noises.items()
    }
    shown = interleave(rankings, request, length=SHOWN)
    chance = EXAMINED * relevance[[item for item, _ in shown]]
    clicked = rng.random(SHOWN) < chance
    credited = [team for (_, team), click in zip(shown, clicked, strict=True) if click]
    return int(np.sign(credited.count("new") - credited.count("old")))


def looked(rng: np.random.Generator, run: int, requests: int) -> tuple[bool, bool]:
    """Return whether equal rankings are ever called different: by the always-valid test, and by the usual one."""
    signs = np.array([preferred(rng, f"{run} {number}", EQUAL) for number in range(requests)])
    wins, losses = (signs > 0).cumsum(), (signs < 0).cumsum()
    concentration = concentration_for(requests // 2)
    looks = range(requests // LOOKS - 1, requests, requests // LOOKS)
    least = min(always_valid_share(int(wins[k]), int(losses[k]), concentration).p for k in looks)
    farthest = max(abs(wins[k] - losses[k]) / max(np.sqrt(wins[k] + losses[k]), 1) for k in looks)
    return least < ALPHA, bool(farthest > 1.96)  # noqa: PLR2004 - the quantile of a normal distribution for 5 %


def units_by_clicks(rng: np.random.Generator, noises: Mapping[str, float], most: int) -> int:
    """Return after how many requests, of which each sees one ranking, the mean of clicks differs."""
    arms = []
    for noise in noises.values():
        relevance = rng.beta(1, 4, (most // 2, ITEMS))
        order = np.argsort(-(relevance + rng.normal(0, noise, relevance.shape)), axis=1)[:, :SHOWN]
        chance = np.take_along_axis(relevance, order, axis=1) * EXAMINED
        arms.append((rng.random(chance.shape) < chance).sum(axis=1).astype(float))
    mixture = mixture_for(most // 4)
    for units in range(100, most // 2 + 1, 50):
        sums = [Moments(units, float(arm[:units].sum()), float((arm[:units] ** 2).sum())) for arm in arms]
        if always_valid(difference(*sums), mixture).p < ALPHA:
            return 2 * units
    return most


def units_interleaved(rng: np.random.Generator, noises: Mapping[str, float], most: int, run: int) -> int:
    """Return after how many requests the new ranking is found to be better; `most` if it is not, or the old one is."""
    concentration, wins, losses = concentration_for(500), 0, 0
    for number in range(most):
        sign = preferred(rng, f"{run} {number}", noises)
        wins, losses = wins + (sign > 0), losses + (sign < 0)
        if always_valid_share(wins, losses, concentration).p < ALPHA:
            return number + 1 if wins > losses else most
    return most


def campaign(
    rng: np.random.Generator, outcomes: Sequence[tuple[float, float]], per_unit: str, batches: int = 40
) -> tuple[float, np.ndarray]:
    """Return the mean regret of a unit under a bandit, and the shares of the variants after each batch of 300 units.

    `outcomes` are mean and standard deviation of each variant.
    """
    batch, sums = 300, [Moments(0, 0.0, 0.0) for _ in outcomes]
    means = np.array([mean for mean, _ in outcomes])
    shares, regret, seen = np.full(len(means), 1 / len(means)), 0.0, []
    for _ in range(batches):
        counts = rng.multinomial(batch, shares)
        for number, (mean, deviation) in enumerate(outcomes):
            n = int(counts[number])
            drawn = (rng.random(n) < mean).astype(float) if per_unit == "any" else rng.normal(mean, deviation, n)
            sums[number] += Moments(n, float(drawn.sum()), float((drawn**2).sum()))
        regret += float(counts @ (means.max() - means))
        weights = thompson_weights({str(k): arm for k, arm in enumerate(sums)}, per_unit=per_unit)
        shares = shares if weights is None else np.array(list(weights.values()))
        seen.append(shares)
    return regret / (batches * batch), np.array(seen)


if __name__ == "__main__":
    main()
