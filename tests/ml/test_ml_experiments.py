"""Experiments: assignment is uniform and sticky, and error rates are as promised, shown by simulation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from ml.experiments import (
    Assignment,
    Difference,
    Moments,
    always_valid,
    cuped,
    difference,
    fixed_horizon,
    minimum_detectable_effect,
    mixture_for,
    power,
    ratio_difference,
    sequential_sample_ratio,
    share_deviation,
    units_needed,
)
from pipeline.core.errors import DefinitionError
from tests.rigs.proofs import PROOFS, examples

UNITS = range(20_000)
SIMULATIONS = examples(100, 1000)
BASE, USERS, LOOKS = 0.1, 10_000, 50


def variants(**options):
    assignment = Assignment("e", {"control": 1, "new": 1}, **options)
    return [assignment.variant(unit) for unit in UNITS]


def test_variants_have_their_weights_and_do_not_depend_on_other_experiments():
    three = Assignment("e", {"a": 1, "b": 2, "c": 1})
    drawn = [three.variant(unit) for unit in UNITS]
    shares = [drawn.count(name) / len(drawn) for name in "abc"]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.01)
    other = [Assignment("f", {"a": 1, "b": 2, "c": 1}).variant(unit) for unit in UNITS]
    table = [[sum(x == i and y == j for x, y in zip(drawn, other, strict=True)) for i in "abc"] for j in "abc"]
    assert stats.chi2_contingency(table).pvalue > 0.001


def test_variants_are_the_same_for_ever():
    """A changed hash would move all users of all running experiments."""
    assignment = Assignment("checkout", {"control": 1, "new": 1}, traffic=0.5, namespace="shop", holdout=0.1)
    assert [assignment.variant(f"user-{i}") for i in range(8)] == [
        None,
        None,
        None,
        None,
        "new",
        None,
        "new",
        "control",
    ]
    assert assignment.variant(7) == assignment.variant("7")


def test_nobody_moves_when_traffic_or_the_first_weight_grows():
    small, large = variants(traffic=0.1), variants(traffic=0.3)
    assert sum(v is not None for v in small) / len(small) == pytest.approx(0.1, abs=0.01)
    assert all(b == a for a, b in zip(small, large, strict=True) if a is not None)
    canary = [Assignment("c", {"new": w, "old": 1 - w}) for w in (0.05, 0.2)]
    before, after = ([each.variant(unit) for unit in UNITS] for each in canary)
    assert all(b == "new" for a, b in zip(before, after, strict=True) if a == "new")


def test_experiments_of_a_namespace_exclude_each_other_and_share_the_holdout():
    options = {"namespace": "shop", "holdout": 0.05}
    one = [Assignment("one", {"a": 1, "b": 1}, slots=(0, 0.5), **options).variant(unit) for unit in UNITS]
    two = [Assignment("two", {"a": 1, "b": 1}, slots=(0.5, 1), **options).variant(unit) for unit in UNITS]
    assert not any(x is not None and y is not None for x, y in zip(one, two, strict=True))
    assert sum(x is None and y is None for x, y in zip(one, two, strict=True)) / len(UNITS) == pytest.approx(
        0.05, abs=0.01
    )


def test_a_new_salt_divides_anew():
    same = sum(a == b for a, b in zip(variants(), variants(salt="2"), strict=True))
    assert same / len(UNITS) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"variants": {"a": 1}}, "two variants"),
        ({"variants": {"a": 1, "b": 0}}, "positive weights"),
        ({"traffic": 1.5}, "traffic=1.5"),
        ({"holdout": -1}, "holdout=-1"),
        ({"slots": (0.5, 0.5)}, "slots="),
    ],
)
def test_invalid_assignments(options, problem):
    with pytest.raises(DefinitionError, match=problem):
        Assignment("e", **{"variants": {"a": 1, "b": 1}, **options})


def moments(y, x=None):
    x = np.zeros(len(y)) if x is None else x
    return Moments(len(y), y.sum(), (y * y).sum(), x.sum(), (x * x).sum(), (x * y).sum())


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def test_moments_merge_and_equal_those_of_all_units(rng):
    y, x = rng.normal(5, 2, 1000), rng.normal(1, 1, 1000)
    merged = moments(y[:300], x[:300]) + moments(y[300:], x[300:])
    assert merged.mean == pytest.approx(y.mean())
    assert merged.variance == pytest.approx(y.var(ddof=1))
    assert merged.covariance == pytest.approx(np.cov(x, y)[0, 1])
    assert math.isnan(Moments(1, 1, 1).variance)
    assert math.isnan(Moments(0, 0, 0).mean)


def test_the_fixed_test_is_that_of_two_means(rng):
    a, b = rng.normal(0.1, 1, 2000), rng.normal(0, 1, 3000)
    interval = fixed_horizon(difference(moments(a), moments(b)))
    expected = stats.ttest_ind(a, b, equal_var=False)
    assert interval.p == pytest.approx(expected.pvalue, rel=0.02)
    assert (interval.low, interval.high) == pytest.approx(tuple(expected.confidence_interval()), rel=0.01)


def test_cuped_has_the_same_difference_and_less_variance(rng):
    x = rng.normal(0, 1, 40_000)
    y = 0.8 * x + 0.6 * rng.normal(0, 1, 40_000)
    y[:20_000] += 0.02
    new, old = moments(y[:20_000], x[:20_000]), moments(y[20_000:], x[20_000:])
    plain, adjusted = difference(new, old), cuped(new, old)
    assert adjusted.variance / plain.variance == pytest.approx(1 - 0.8**2, rel=0.05)
    assert abs(adjusted.value - 0.02) < 3 * math.sqrt(adjusted.variance)
    assert fixed_horizon(adjusted).p < fixed_horizon(plain).p
    before = moments(np.arange(100.0), np.arange(100.0)), moments(np.arange(50.0), np.arange(50.0))
    assert difference(*before).value == 25
    assert cuped(*before).value == pytest.approx(0, abs=1e-9)  # all of it was there before
    constant = moments(y[:10], np.ones(10))
    assert cuped(constant, constant) == difference(constant, constant)


def test_a_ratio_of_requests_has_the_spread_of_users(rng):
    """A user's requests are alike: the error by requests is too small."""
    values, errors = [], []
    for _ in range(300):
        sides = []
        for _ in range(2):
            requests = rng.poisson(5, 500) + 1
            late = rng.binomial(requests, rng.beta(2, 18, 500))
            sides.append(moments(late.astype(float), requests.astype(float)))
        found = ratio_difference(*sides)
        values.append(found.value)
        errors.append(math.sqrt(found.variance))
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.12)


def condition(units, count):
    return Moments(units, count, count)


def test_values_that_are_all_equal_are_the_worst_harm_and_no_lack_of_knowledge():
    for units, constant in ((100, 1.0), (2000, 0.1), (2000, 1e6)):
        moved = Moments(units, units * constant, units * constant**2)
        requests = Moments(
            units, 3 * units * constant, 9 * units * constant**2, 3 * units, 9 * units, 9 * units * constant
        )
        none = Moments(units, 0.0, 0.0), Moments(units, 0.0, 0.0, 3 * units, 9 * units, 0.0)
        habits = [replace(arm, x=units, xx=2 * units, xy=arm.y) for arm in (moved, none[0])]
        for found in (difference(moved, none[0]), ratio_difference(requests, none[1]), cuped(*habits)):
            interval = always_valid(found, mixture_for(2 * units), 0.001)
            assert found.value == pytest.approx(constant)
            assert 0 < interval.low < constant < interval.high < 3 * constant
        same = difference(moved, moved)
        assert (same.variance, always_valid(same, 1e-3).p) == (0.0, 1.0), "rounding is no knowledge"


@pytest.mark.parametrize(
    ("variant", "control"), [((100, 0), (10_000, 100)), ((100, 1), (10_000, 0)), ((100, 100), (10_000, 9_900))]
)
def test_units_that_are_all_equal_still_have_a_variance(variant, control):
    """None of 100 units with an error is no surprise if 1 % of the others have one."""
    found = difference(condition(*variant), condition(*control))
    assert abs(found.value) < 1.2 * math.sqrt(found.variance)


def test_a_rare_condition_without_effect_is_rarely_found_in_few_of_the_units(rng):
    """The first steps of a rollout: 2 % of the units, and an error of one in a thousand."""
    wrong = 0
    for _ in range(SIMULATIONS):
        few, many = (np.cumsum(rng.binomial(steps, 0.001, LOOKS)) for steps in (20, 980))
        ps = [
            always_valid(difference(condition(20 * n, float(a)), condition(980 * n, float(b))), mixture_for(50_000)).p
            for n, (a, b) in enumerate(zip(few, many, strict=True), 1)
            if n >= 5 and not a
        ]
        wrong += min(ps, default=1.0) < 0.05
    assert wrong / SIMULATIONS <= 0.05


def looked(rng, effect, users=USERS, looks=LOOKS):
    """Return the p-values of both tests at each look at two shares."""
    steps = users // looks
    arms = [np.cumsum(rng.binomial(steps, share, looks)) for share in (BASE + effect, BASE)]
    mixture = mixture_for(2 * users)
    always, once = [], []
    for look in range(looks):
        n = (look + 1) * steps
        found = difference(*(Moments(n, float(arm[look]), float(arm[look])) for arm in arms))
        always.append(always_valid(found, mixture).p)
        once.append(fixed_horizon(found).p)
    return min(always), min(once), always[-1]


def test_an_experiment_without_effect_that_is_looked_at_fifty_times_is_rarely_wrong(rng):
    runs = [looked(rng, 0) for _ in range(SIMULATIONS)]
    wrong, peeked = np.mean([always < 0.05 for always, _, _ in runs]), np.mean([once < 0.05 for _, once, _ in runs])
    assert wrong < (0.05 if PROOFS else 0.08)
    assert peeked > 0.2  # the usual test


def test_the_power_is_as_promised(rng):
    effect = minimum_detectable_effect(USERS, share_deviation(BASE + 0.01), power=0.8)
    found = np.mean([looked(rng, effect)[0] < 0.05 for _ in range(SIMULATIONS)])
    assert found >= 0.8 - 2 * math.sqrt(0.8 * 0.2 / SIMULATIONS)
    at_the_end = np.mean([looked(rng, effect)[2] < 0.05 for _ in range(SIMULATIONS)])
    assert at_the_end == pytest.approx(0.8, abs=3 * math.sqrt(0.8 * 0.2 / SIMULATIONS))


def test_plans_agree_with_each_other():
    for sequential in (True, False):
        units = units_needed(0.1, 1.0, power=0.9, sequential=sequential)
        assert minimum_detectable_effect(units, 1.0, power=0.9, sequential=sequential) == pytest.approx(0.1, rel=0.001)
        assert power(0.1, units, 1.0, sequential=sequential) == pytest.approx(0.9, abs=0.001)
    assert power(0, 1000, 1.0, sequential=False) == pytest.approx(0.05)
    assert units_needed(0.1, 1.0) > units_needed(0.1, 1.0, sequential=False)
    assert units_needed(0.02, share_deviation(0.1), sequential=False) == pytest.approx(3532, rel=0.01)


def test_the_interval_and_the_p_value_agree(rng):
    for _ in range(200):
        found = Difference(rng.normal(0, 1), 0.1, int(rng.integers(100, 10_000)), 1.0)
        interval = always_valid(found, mixture_for(1000))
        assert (interval.p < 0.05) == (not interval.low <= 0 <= interval.high)
    assert always_valid(Difference(1.0, 0.0, 10, 0.0), 0.1).p == 1
    assert fixed_horizon(Difference(math.nan, math.nan, 1, 0.0)).p == 1


def test_a_broken_ratio_is_found_and_a_right_one_is_not(rng):
    weights = {"a": 1, "b": 1}

    def looks(share, users=20_000, steps=50):
        counts = np.cumsum(rng.multinomial(users // steps, [share, 1 - share], steps), axis=0)
        return [{"a": int(a), "b": int(b)} for a, b in counts]

    right = [min(sequential_sample_ratio(c, weights) for c in looks(0.5)) for _ in range(SIMULATIONS)]
    assert np.mean([p < 0.001 for p in right]) <= 2 / SIMULATIONS + 0.001
    broken = [min(sequential_sample_ratio(c, weights) for c in looks(0.47)) for _ in range(SIMULATIONS)]
    assert np.mean([p < 0.001 for p in broken]) > 0.95
    assert sequential_sample_ratio({}, weights) == 1
    assert sequential_sample_ratio({"a": 100_000, "b": 0}, weights) == 0
