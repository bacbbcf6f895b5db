"""Distances from counts equal SciPy's on the values themselves, where these are the bins."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from ml.monitoring import divergence as d

SIZES = ((1, 1), (7, 400), (5_000, 5_000))


@pytest.fixture(params=range(20))
def samples(request):
    """Two samples of integers, whose values are the bins; with ties, and with values that only one has."""
    rng = np.random.default_rng(request.param)
    n, m = SIZES[request.param % len(SIZES)]
    return rng.binomial(9, rng.random(), n), rng.binomial(9, rng.random(), m)


def counts(values):
    return np.bincount(values, minlength=10).astype(float)


def test_they_equal_scipy(samples):
    a, b = samples
    p, q, places = counts(a), counts(b), np.arange(10.0)
    assert d.kolmogorov_smirnov(p, q) == pytest.approx(stats.ks_2samp(a, b).statistic)
    assert d.jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q, base=2), abs=1e-7)
    assert d.wasserstein(p, q, places, places) == pytest.approx(stats.wasserstein_distance(a, b))
    used = (p + q) > 0
    statistic, value = d.chi_square(p, q)
    if used.sum() > 1:
        expected = stats.chi2_contingency(np.stack([p, q])[:, used], correction=False)
        assert statistic == pytest.approx(expected.statistic)
        assert value == pytest.approx(expected.pvalue)
    else:
        assert (statistic, value) == (0, 1)


def test_means_of_bins_make_the_wasserstein_distance_exact_for_shifts():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 50_000), rng.normal(0.3, 1, 50_000)
    edges = np.quantile(a, np.arange(1, 20) / 20)

    def binned(values):
        place = np.digitize(values, edges)
        rows = np.bincount(place, minlength=20)
        return rows.astype(float), np.bincount(place, values, 20) / np.maximum(rows, 1)

    (p, p_means), (q, q_means) = binned(a), binned(b)
    assert d.wasserstein(p, q, p_means, q_means) == pytest.approx(stats.wasserstein_distance(a, b), rel=0.01)
    assert abs(d.kolmogorov_smirnov(p, q) - stats.ks_2samp(a, b).statistic) < 0.05


def test_psi_is_the_formula_and_finite_for_empty_bins():
    p, q = np.array([50.0, 50.0]), np.array([90.0, 10.0])
    assert d.psi(p, q) == pytest.approx((0.5 - 0.9) * np.log(0.5 / 0.9) + (0.5 - 0.1) * np.log(5))
    assert d.psi(np.array([0.0, 5.0]), np.array([5.0, 0.0])) == pytest.approx(2 * (1 - d.FLOOR) * np.log(1 / d.FLOOR))
    assert d.psi(q, q) == 0


def test_the_noise_of_psi_is_its_mean_without_a_difference():
    rng = np.random.default_rng(2)
    p, q = rng.multinomial(5_000, [0.1] * 10, 2_000), rng.multinomial(20_000, [0.1] * 10, 2_000)
    assert d.psi(p, q).mean() == pytest.approx(d.psi_noise(p, q).mean(), rel=0.05)


def test_corrected_p_values_equal_scipy_and_ignore_what_was_not_tested():
    rng = np.random.default_rng(3)
    for _ in range(50):
        p = rng.random(12) ** 3
        assert d.benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p))
        with_gaps = np.insert(p, [0, 5, 12], np.nan)
        expected = np.insert(stats.false_discovery_control(p), [0, 5, 12], np.nan)
        assert d.benjamini_hochberg(with_gaps) == pytest.approx(expected, nan_ok=True)
    assert np.isnan(d.benjamini_hochberg(np.array([np.nan]))).all()


def test_without_rows_nothing_is_measured():
    none, some = np.zeros(3), np.ones(3)
    for measure in (d.psi, d.kolmogorov_smirnov, d.jensen_shannon):
        assert np.isnan(measure(none, some))
        assert np.isnan(measure(some, none))
    assert np.isnan(d.chi_square(none, some)[1])
    assert np.isnan(d.psi_noise(none, some))


def test_leading_axes_are_windows():
    rng = np.random.default_rng(4)
    p, q = rng.integers(0, 50, (6, 4, 10)).astype(float), rng.integers(1, 50, 10).astype(float)
    means = np.sort(rng.random(10))
    for measure in (d.psi, d.kolmogorov_smirnov, d.jensen_shannon, lambda a, b: d.wasserstein(a, b, means, means)):
        whole = measure(p, q)
        assert whole.shape == (6, 4)
        assert whole[2, 3] == pytest.approx(measure(p[2, 3], q))
