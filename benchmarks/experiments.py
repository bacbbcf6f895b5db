"""Error rates and power of experiments, by simulation: `python -m benchmarks.experiments [COUNT]`.

Each experiment compares two shares of 10,000 users a variant, of 10 % in the control, and is looked at fifty times. `fixed` is the
usual test with p < 0.05 at each look, `always_valid` that of `ml.experiments`.
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass

import numpy as np

from ml.experiments import (
    Moments,
    always_valid,
    difference,
    fixed_horizon,
    minimum_detectable_effect,
    mixture_for,
    sequential_sample_ratio,
    share_deviation,
)

BASE, USERS, LOOKS, ALPHA, BROKEN = 0.1, 10_000, 50, 0.05, 0.001


@dataclass(frozen=True)
class Looks:
    """The first look of an experiment at which each test found a difference; `None` if none did."""

    always: int | None
    fixed: int | None


def main() -> None:
    """Print the shares as one JSON object."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    rng = np.random.default_rng(1)
    effect = minimum_detectable_effect(USERS, share_deviation(BASE))
    same = [_looked(rng, 0) for _ in range(count)]
    other = [_looked(rng, effect) for _ in range(count)]
    stops = [look.always for look in other if look.always is not None]
    ratios = [_least_ratio(rng) for _ in range(count)]
    figures = {
        "experiments": count,
        "wrong_always_valid": _share([look.always is not None for look in same]),
        "wrong_fixed": _share([look.fixed is not None for look in same]),
        "effect": round(effect, 4),
        "found_always_valid": _share([look.always is not None for look in other]),
        "median_users_at_the_stop": statistics.median(stops) * USERS // LOOKS,
        "right_ratio_called_broken": _share([p < BROKEN for p in ratios]),
    }
    print(json.dumps(figures, indent=2))


def _looked(rng: np.random.Generator, effect: float) -> Looks:
    steps, mixture = USERS // LOOKS, mixture_for(2 * USERS)
    arms = [np.cumsum(rng.binomial(steps, share, LOOKS)) for share in (BASE + effect, BASE)]
    always: int | None = None
    fixed: int | None = None
    for look in range(1, LOOKS + 1):
        found = difference(*(Moments(look * steps, float(arm[look - 1]), float(arm[look - 1])) for arm in arms))
        if always is None and always_valid(found, mixture).p < ALPHA:
            always = look
        if fixed is None and fixed_horizon(found).p < ALPHA:
            fixed = look
    return Looks(always, fixed)


def _least_ratio(rng: np.random.Generator) -> float:
    counts = np.cumsum(rng.multinomial(2 * USERS // LOOKS, [0.5, 0.5], LOOKS), axis=0)
    weights = {"control": 1.0, "new": 1.0}
    return min(sequential_sample_ratio({"control": int(a), "new": int(b)}, weights) for a, b in counts)


def _share(flags: list[bool]) -> float:
    return round(sum(flags) / len(flags), 4)


if __name__ == "__main__":
    main()
