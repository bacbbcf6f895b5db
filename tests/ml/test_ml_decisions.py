"""From scores to decisions: calibration, thresholds by cost, segments, leaks and importances."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ml import LightGBM
from ml.models.calibration import Calibration, Costs, costs_of
from ml.models.evaluation import Evaluation, gate
from ml.models.fitted import FittedModel
from ml.models.holdout import Holdout
from ml.models.importance import permutation_importance
from ml.models.leakage import leaks
from ml.models.segments import segments_of
from ml.models.tasks import task_of
from ml.models.trainers import FitRequest
from pipeline.core.errors import DefinitionError, Place
from tests.ml.rows import CLASSES, KINDS, labelled

PLACE = Place("here.py", 1)
EVALUATION = Evaluation("y", Holdout(share=0.2), "auc", 0.5, segments=("city", "noise"))


def fitted(rows, task="binary"):
    request = FitRequest("m", rows, "y", task_of(task, CLASSES[task]), KINDS, {}, PLACE)
    return FittedModel(LightGBM(rounds=20).fit(request), request.task, KINDS)


@pytest.mark.parametrize("method", ["isotonic", "sigmoid"])
def test_calibrated_scores_are_probabilities(method):
    draw = np.random.default_rng(3)
    truth = draw.uniform(size=20_000)
    label = (draw.uniform(size=20_000) < truth).astype(int)
    scores = truth**3  # rises with the probability, and is far from it
    calibration = Calibration.fitted(method, label[:10_000], scores[:10_000])
    got = calibration(scores[10_000:])
    assert (np.diff(calibration(np.linspace(0, 1, 50))) >= 0).all()
    assert np.abs(got - truth[10_000:]).mean() < (0.02 if method == "isotonic" else 0.07)
    assert np.abs(scores[10_000:] - truth[10_000:]).mean() > 0.2


@pytest.mark.parametrize("seed", range(20))
def test_the_best_threshold_costs_no_more_than_any_other(seed):
    draw = np.random.default_rng(seed)
    rows = int(draw.integers(1, 60))
    label, scores = draw.integers(0, 2, rows), draw.choice(np.round(draw.uniform(size=8), 2), rows)
    costs = Costs(float(draw.uniform(0.1, 5)), float(draw.uniform(0.1, 5)))
    best = costs.best_threshold(label, scores)
    least = min(costs.of(label, scores > threshold) for threshold in [-1, *scores, *(scores - 1e-9), 2])
    assert costs.of(label, scores > best) == pytest.approx(least)


def test_everything_can_be_predicted_although_some_probabilities_are_0():
    label, scores = np.array([1, 0, 0, 0, 0, 1, 1, 0]), np.array([0, 0, 0, 0, 0, 0.6, 0.8, 0.9])
    costs = Costs(1, 1000)
    threshold = costs.best_threshold(label, scores)
    assert costs.of(label, scores > threshold) == 5 / 8


def test_the_threshold_of_exact_probabilities_follows_from_the_costs():
    assert Costs(1, 3).threshold == 0.25
    draw = np.random.default_rng(0)
    truth = draw.uniform(size=100_000)
    label = (draw.uniform(size=100_000) < truth).astype(int)
    assert Costs(1, 3).best_threshold(label, truth) == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(
    "costs",
    [
        {},
        {"false_positive": 1},
        {"false_positive": 1, "false_negative": 0},
        {"false_positive": 1, "false_negative": "2"},
        {"false_positive": 1, "false_negative": 2, "true_positive": 0},
        {"false_positive": float("inf"), "false_negative": 1},
    ],
)
def test_invalid_costs(costs):
    with pytest.raises(DefinitionError, match="costs= must give the cost of each kind of error, above 0"):
        costs_of(costs, PLACE)


def test_segments_show_where_a_model_is_worst():
    train, rows = labelled(2000), labelled(2000, seed=1)
    rows = replace(rows, label=rows.label.where(rows.features["city"] != "Köln", 1 - rows.label))  # wrong for Köln
    model = fitted(train)
    found = segments_of(model, rows, model.predictions(rows.features), EVALUATION)
    assert (found[0].name, found[0].metric < 0.3) == ("city=Köln", True)
    assert {each.value for each in found if each.column == "city"} == {"Köln", "Ulm", "a:b,c"}
    assert len([each for each in found if each.column == "noise"]) == 4  # quarters of a number
    assert sum(each.rows for each in found if each.column == "city") == 2000
    few = segments_of(model, labelled(200), model.predictions(labelled(200).features), EVALUATION)
    assert all(each.metric is None for each in few), "segments of fewer than 100 rows are not judged"


def test_a_segment_below_its_limit_refuses_the_model():
    evaluation = replace(EVALUATION, segment_at_least=0.6)
    figures = ({"auc": 0.8}, {"auc": 0.5})
    assert gate(evaluation, *figures, segments={"city=Ulm": 0.7}).accepted
    refused = gate(evaluation, *figures, segments={"city=Ulm": 0.7, "city=Köln": 0.55})
    assert (refused.accepted, refused.reason) == (False, "auc 0.8000 is 0.5500 for city=Köln, below 0.6")


@pytest.mark.parametrize("task", CLASSES)
def test_leaks_are_found_and_honest_features_are_not(task):
    rows = labelled(800, task=task)
    kinds = {**KINDS, "known": "text" if task == "multiclass" else "number", "later": "timestamp", "same": "text"}
    known = rows.label if task == "multiclass" else rows.label * 3.0 - 1
    features = rows.features.assign(
        known=known, later=rows.time + pd.Timedelta("1s"), same=pd.Series(["x"] * 800, dtype="str"), at=rows.time
    )
    found = leaks(replace(rows, features=features), kinds, task_of(task, CLASSES[task]), ())
    assert [sentence.partition("'")[2].partition("'")[0] for sentence in found] == ["known", "later"]
    assert "is later than the event time in 800 rows" in found[1]
    assert leaks(replace(rows, features=features), kinds, task_of(task, CLASSES[task]), ("known", "later")) == ()


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_a_value_that_is_there_because_of_the_label_is_a_leak(task):
    rows = labelled(800, task=task)
    codes = rows.label.map({"high": 0, "middle": 1, "low": 2}) if task == "multiclass" else rows.label
    refund = pd.Series(np.where(codes == codes.max(), 5.0, np.nan))
    noisy = codes * 100 + np.random.default_rng(0).normal(size=800)
    features = rows.features.assign(refund=refund, noisy=noisy, at=rows.time)
    kinds = {**KINDS, "noisy": "number", **({"refund": "number"} if task == "binary" else {})}
    found = leaks(replace(rows, features=features), kinds, task_of(task, CLASSES[task]), ())
    assert [each.partition("'")[2].partition("'")[0] for each in found] == list(kinds)[len(KINDS) :]


def test_a_rare_class_is_no_leak():
    rows = labelled(2000, task="multiclass")
    rare = rows.label.where(rows.label.index % 400 == 0, "low")  # one class is 99.7 % of the rows
    assert leaks(replace(rows, label=rare), KINDS, task_of("multiclass", CLASSES["multiclass"]), ("at",)) == ()


@pytest.mark.parametrize("task", CLASSES)
def test_importances_name_the_features_that_matter(task):
    model, rows = fitted(labelled(1500, task=task), task), labelled(1500, seed=1, task=task)
    metric = {"binary": "log_loss", "multiclass": "accuracy", "regression": "mae"}[task]
    found = permutation_importance(model, rows, replace(EVALUATION, metric=metric, task=task))
    assert set(list(found)[:2]) == {"x", "city"}
    assert found["x"] > 10 * abs(found["noise"])
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert permutation_importance(model, rows, replace(EVALUATION, metric=metric, task=task)) == found
