"""Metrics from counts equal scikit-learn's on the rows, and are estimated before labels are known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics
from sklearn.isotonic import IsotonicRegression

from ml import alarms, performance
from ml.monitoring import estimates
from pipeline.core.errors import DefinitionError

START = datetime(2026, 1, 5)  # noqa: DTZ001 - naive, as in tables
DAY = timedelta(days=1)


def scored(rng, n, *, skill=1.0, calibration=1.0):
    """Return scores and labels; with `calibration` 1, a row with score p is positive with probability p."""
    chance = 1 / (1 + np.exp(-skill * rng.normal(-0.5, 1.5, n)))
    return chance**calibration, (rng.random(n) < chance).astype(float)


def table(days, **columns):
    """Return a table of predictions: `days` are pairs of scores and labels; a label of NaN is not known yet."""
    at = [START + i * DAY + timedelta(seconds=k) for i, (p, _) in enumerate(days) for k in range(len(p))]
    score, label = (np.concatenate([each[k] for each in days]) for k in (0, 1))
    labels = pa.array([None if np.isnan(y) else y for y in label], pa.float64())
    return pa.table({"at": pa.array(at, pa.timestamp("us")), "score": score, "label": labels, **columns})


def measured(rows, **options):
    monitored = performance(of="scored", time="at", prediction="score", label="label", **options).named("m")
    counts = monitored.companions[0].transform(scored=rows)
    return monitored.transform(counts).to_pylist()


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_metrics_equal_those_of_the_rows(rng):
    score, label = scored(rng, 5000)
    (found,) = measured(table([(score, label)]), at_least=0.6)
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(label, score), abs=2e-4)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(label, score >= 0.5))
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(label, score))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(label, score))
    assert found["calibration_error"] < 0.1
    assert (found["rows"], found["labelled"], found["state"]) == (5000, 5000, "quiet")

    truth, guess = rng.normal(0, 1, 500), rng.normal(0.2, 1, 500)
    (found,) = measured(table([(guess, truth)]), task="regression", at_most=5)
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(truth, guess))
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(truth, guess))
    assert found["bias"] == pytest.approx((guess - truth).mean())


def test_classes_are_right_or_wrong():
    at = pa.array([START] * 1000, pa.timestamp("us"))
    label = [None if i % 10 == 0 else "abc"[i % 3] for i in range(1000)]
    score = [None if i == 999 else "abc"[i % 3 if i % 4 else 0] for i in range(1000)]
    (found,) = measured(pa.table({"at": at, "score": score, "label": label}), task="multiclass", at_least=0.95)
    right = [x == y for x, y in zip(score[:999], label, strict=False) if y is not None]
    assert found["accuracy"] == pytest.approx(sum(right) / len(right))
    assert (found["rows"], found["invalid_rows"], found["labelled"]) == (999, 1, len(right))
    assert found["state"] == "suspected"


def test_the_calibration_is_the_isotonic_regression(rng):
    for _ in range(50):
        rows = rng.integers(0, 30, 20).astype(float)
        positives = rng.binomial(rows.astype(int), np.linspace(0.1, 0.9, 20)).astype(float)
        known = rows > 0
        fitted = IsotonicRegression().fit(np.flatnonzero(known), positives[known] / rows[known], rows[known])
        ours = estimates.calibrated(positives, rows - positives, np.linspace(0, 1, 20))
        assert ours[known] == pytest.approx(fitted.predict(np.flatnonzero(known)))
    assert estimates.calibrated(np.zeros(3), np.zeros(3), np.array([0.1, 0.5, 0.7])) == pytest.approx([0.1, 0.5, 0.7])


def test_the_error_of_an_area_is_its_spread(rng):
    areas = []
    for _ in range(300):
        score, label = scored(rng, 400)
        areas.append(metrics.roc_auc_score(label, score))
    positives = np.mean([scored(rng, 400)[1].sum() for _ in range(50)])
    error = estimates.auc_error(np.array(np.mean(areas)), np.array(positives), np.array(400 - positives))
    assert error == pytest.approx(np.std(areas), rel=0.2)


def test_performance_is_estimated_before_labels_are_known(rng):
    """A score that is not calibrated is calibrated by the mature windows before."""
    mature = [scored(rng, 20_000, calibration=2.0) for _ in range(3)]
    score, truth = scored(rng, 20_000, skill=0.4, calibration=2.0)
    unlabelled = (score, np.full(20_000, np.nan))
    partly = (score, np.where((truth == 1) & (rng.random(20_000) < 0.5), 1.0, np.nan))  # only positive labels so far
    found = measured(table([*mature, partly, unlabelled]), at_least=0.7)[-1]
    assert found["auc"] is None
    assert (found["state"], found["reason"]) == ("not judged", "0 % labelled, needs 80 %")
    assert found["expected_auc"] == pytest.approx(metrics.roc_auc_score(truth, score), abs=0.01)
    assert found["expected_accuracy"] == pytest.approx(metrics.accuracy_score(truth, score >= 0.5), abs=0.01)


def test_13_half_labelled_windows_are_never_judged(rng):
    """Labels of one class come first: a metric of them would be an alarm."""
    score, label = scored(rng, 4000)
    partly = np.where((label == 1) & (rng.random(4000) < 0.9) | (rng.random(4000) < 0.1), label, np.nan)
    found = measured(table([(score, label), (score, partly)]), metric="accuracy", at_least=0.6)
    assert [v["state"] for v in found] == ["quiet", "not judged"]
    assert found[1]["labelled_share"] == pytest.approx(np.isfinite(partly).mean())
    few = measured(table([(score[:100], label[:100])]), at_least=0.6)
    assert few[0]["reason"] == "100 labelled rows, needs 200"


def test_a_drop_is_an_alarm_if_it_is_certain_and_lasts(rng):
    good, bad = scored(rng, 4000), lambda: (rng.random(4000), rng.integers(0, 2, 4000).astype(float))
    found = measured(table([good, bad(), good, bad(), bad(), good, good]), at_least=0.7)
    states = [v["state"] for v in found]
    assert states == ["quiet", "suspected", "quiet", "alarm", "alarm", "alarm", "quiet"]
    assert found[4]["since"] == (START + 3 * DAY).replace(tzinfo=UTC)
    assert found[4]["reason"].startswith("auc 0.")
    # 0.01 below the limit is within the error of 250 rows
    few = [scored(rng, 250) for _ in range(4)]
    near = np.mean([metrics.roc_auc_score(y, p) for p, y in few]) + 0.01
    assert "alarm" not in {v["state"] for v in measured(table(few), at_least=near)}


def test_14_a_corrected_label_changes_the_window(rng):
    score, label = scored(rng, 2000)
    before = measured(table([(score, np.ones(2000))]), metric="accuracy", at_least=0.5)[0]
    after = measured(table([(score, label)]), metric="accuracy", at_least=0.5)[0]
    assert before["auc"] is None
    assert after["accuracy"] == pytest.approx(metrics.accuracy_score(label, score >= 0.5))


def test_versions_and_segments_are_apart_and_invalid_rows_are_counted(rng):
    score, label = scored(rng, 4000)
    score[:10], label[10:20] = np.nan, 7
    columns = {"version": pa.array(["1", "2"] * 2000), "shop": pa.array(["a", "b", "b", None] * 1000)}
    found = measured(table([(score, label)], **columns), at_least=0.5, by="version", segment="shop")
    assert {(v["version"], v["segment"]) for v in found} == {
        ("1", None), ("1", "a"), ("1", "b"), ("2", None), ("2", "b"), ("2", "(null)"),
    }  # fmt: skip
    whole = [v for v in found if v["segment"] is None]
    assert sum(v["rows"] + v["invalid_rows"] for v in whole) == 4000
    assert sum(v["invalid_rows"] for v in whole) == 20
    assert whole[0]["reason"] == "10 rows without a valid prediction"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"task": "ranking", "at_least": 0.5}, "unknown task 'ranking'"),
        ({"metric": "gini", "at_least": 0.5}, "unknown metric 'gini'"),
        ({"metric": "brier", "at_least": 0.5}, "needs at_most="),
        ({}, "needs at_least="),
        ({"at_least": 0.5, "maturity": 0}, "maturity="),
        ({"at_least": 0.5, "window": "0.1 seconds"}, "window="),
        ({"at_least": 0.5, "alarms": alarms(enter=0.3)}, r"performance\(…\) uses only windows=: got Alarms\(enter=0.3"),
    ],
)
def test_invalid_options(options, problem):
    with pytest.raises(DefinitionError, match=problem):
        performance(of="scored", time="at", prediction="score", label="label", **options)
