"""The tasks of models: labels, metrics, baselines and predictions, alone and in a project."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn import metrics

from ml import LightGBM, model
from ml.models import load_champion
from ml.models.tasks import TASKS, task_of
from pipeline.core.errors import DefinitionError, ModelError

REGRESSION, THREE = task_of("regression"), task_of("multiclass", ("a", "b", "c"))


def column(*values, kind=None):
    return pa.chunked_array([pa.array(values, kind)])


def test_metrics_of_numbers_are_those_of_scikit_learn():
    rng = np.random.default_rng(1)
    label, predicted = rng.normal(size=50), rng.normal(size=50)
    found = REGRESSION.measure(label, predicted)
    assert found == pytest.approx(
        {
            "mae": metrics.mean_absolute_error(label, predicted),
            "rmse": math.sqrt(metrics.mean_squared_error(label, predicted)),
            "r2": metrics.r2_score(label, predicted),
            "median_absolute_error": metrics.median_absolute_error(label, predicted),
        }
    )
    assert REGRESSION.measure(np.ones(3), np.ones(3))["r2"] == 0  # nothing to explain


def test_metrics_of_classes_are_those_of_scikit_learn():
    rng = np.random.default_rng(2)
    label = rng.choice(np.array(["a", "b", "c"], dtype=object), 60)
    predicted = rng.dirichlet([1, 1, 1], 60)
    chosen = np.array(["a", "b", "c"])[predicted.argmax(axis=1)]
    assert THREE.measure(label, predicted) == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(label.astype(str), chosen),
            "balanced_accuracy": metrics.balanced_accuracy_score(label.astype(str), chosen),
            "f1_macro": metrics.f1_score(label.astype(str), chosen, average="macro"),
            "log_loss": metrics.log_loss(label.astype(str), predicted, labels=["a", "b", "c"]),
        }
    )


def test_a_class_that_did_not_occur_in_training_counts_as_wrong():
    found = THREE.measure(np.array(["a", "new"], dtype=object), np.array([[1.0, 0, 0], [1.0, 0, 0]]))
    assert (found["accuracy"], found["balanced_accuracy"]) == (0.5, 0.5)
    assert found["log_loss"] > 300


def test_the_baseline_of_classes_is_their_share():
    train = pd.DataFrame({"x": ["p", "p", "q", "q"]})
    found = THREE.baseline(train, pd.Series(["a", "b", "c", "c"]), pd.DataFrame({"x": ["p", "q", "r"]}), ("x",))
    assert found.tolist() == [[0.5, 0.5, 0], [0, 0, 1], [0.25, 0.25, 0.5]]


def test_the_order_of_an_estimators_classes_does_not_matter():
    class Backwards:
        classes_ = np.array(["c", "b", "a"])

        def predict_proba(self, rows):
            return np.array([[0.7, 0.2, 0.1]] * len(rows))

    found = THREE.predictions(Backwards(), pd.DataFrame({"x": [1]}))
    assert THREE.answers(found) == [{"label": "c", "probabilities": {"a": 0.1, "b": 0.2, "c": 0.7}}]
    assert REGRESSION.answers(np.array([1.5])) == [{"value": 1.5}]


@pytest.mark.parametrize(
    ("task", "values", "message"),
    [
        ("regression", column("1", "2"), r"the label 'y' is not a number: got string; convert it"),
        ("regression", column(1.0, float("nan"), float("inf")), r"values that are not finite: got 2 rows"),
        ("multiclass", column(1.5, 2.5), r"the label 'y' is not a class: got double"),
        ("multiclass", column(*range(1001)), r"more than 1000 classes: got 1001; group rare classes"),
        ("binary", column(0, 2), r"neither a boolean nor 0 and 1: got 0 to 2; use a condition, or task="),
    ],
)
def test_labels_that_a_task_cannot_predict(task, values, message):
    with pytest.raises(ModelError, match=message):
        task_of(task).label(values, "y", None)


def test_nulls_and_decimals_are_labels():
    assert REGRESSION.label(
        pa.chunked_array([pa.array([None, "1.50"]).cast(pa.decimal128(5, 2))]), "y", None
    ).to_pylist() == [
        None,
        1.5,
    ]


class Fixed:
    """An estimator that answers every row with the same."""

    def __init__(self, answer, classes=()):
        self.answer, self.classes_ = answer, np.array(list(classes))

    def predict(self, rows):
        return [self.answer] * len(rows)

    predict_proba = predict


@pytest.mark.parametrize(
    ("task", "estimator", "message"),
    [
        (REGRESSION, Fixed(math.nan), "a number per row: got 2 values that are not finite; return a fitted regressor"),
        (REGRESSION, Fixed([1, 2]), r"a number per row: got an array of shape \(2, 2\)"),
        (REGRESSION, Fixed("many"), "the estimator cannot predict these rows: ValueError"),
        (THREE, Fixed([0.5, 0.5], "ab"), "not those of the training rows: got 'a', 'b'; fit it to the label as it is"),
        (THREE, Fixed([0.5, 0.5], "abc"), r"must return 3 probabilities per row: got an array of shape \(2, 2\)"),
        (THREE, Fixed([math.nan, 0, 1], "abc"), "must return 3 probabilities per row"),
    ],
)
def test_predictions_that_are_none(task, estimator, message):
    with pytest.raises(ModelError, match=message):
        task.predictions(estimator, pd.DataFrame({"x": [1, 2]}))


REGRESSOR = """
@model(label="load", task="regression", split_at="2024-01-08", at_least=0.3, baseline="carrier", min_rows=100)
def fullness(trips):
    from sklearn.dummy import DummyRegressor
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.impute import SimpleImputer

    load = trips.pop("load")
    return make_pipeline(make_column_transformer((SimpleImputer(), ["hour", "is_weekend", "late"])), LinearRegression()).fit(
        trips, load
    )
"""
CLASSIFIER = """
@model(label="carrier", task="multiclass", split_at="2024-01-08", at_least=0.2, min_rows=100)
def airline(trips):
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.impute import SimpleImputer

    carrier = trips.pop("carrier")
    columns = make_column_transformer((SimpleImputer(), ["hour", "load", "late"]))
    return make_pipeline(columns, LogisticRegression(max_iter=1000)).fit(trips, carrier)
"""
ROW = {"carrier": "B6", "hour": 8, "load": 0.9, "is_weekend": False, "seen_at": None, "late": True}


def test_a_regression_is_trained_judged_and_predicts_numbers(project):
    project.define(REGRESSOR)
    step = project.run()
    assert step.decision == "accepted", step.verdict.reason
    assert step.verdict.reason.startswith("mae 0.2")
    assert {"r2", "baseline_mae", "holdout_mean"} <= set(step.verdict.metrics)
    predictor = load_champion(project.store, "fullness")
    rows = [{name: value for name, value in {**ROW, "late": late}.items() if name != "load"} for late in (True, False)]
    late, punctual = (prediction["value"] for prediction in predictor.predict(rows))
    assert 0 < punctual < late < 1


def test_classes_are_trained_judged_and_predicted_by_name(project):
    project.define(CLASSIFIER)
    step = project.run()
    assert step.decision == "accepted", step.verdict.reason
    predictor = load_champion(project.store, "airline")
    (prediction,) = predictor.predict([{name: value for name, value in ROW.items() if name != "carrier"}])
    assert list(prediction["probabilities"]) == ["AA", "B6", "UA"]
    assert prediction["label"] == max(prediction["probabilities"], key=prediction["probabilities"].get)
    assert project.run().decision == "skip"


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        (
            'task="regression"',
            'task="regresion"',
            DefinitionError,
            "unknown task 'regresion'; did you mean 'regression'",
        ),
        ("at_least", 'metric="auc", at_least', DefinitionError, "unknown metric 'auc' of a regression task"),
        ("LinearRegression()", "'passthrough'", ModelError, "did not return a regressor: got Pipeline.*has predict"),
    ],
)
def test_a_model_that_does_not_fit_its_task(project, old, new, error, message):
    project.define(REGRESSOR, **{old: new})
    with pytest.raises(error, match=message):
        project.run()


def test_every_task_has_a_default_metric():
    assert {name: task_of(name).metric for name in TASKS} == {
        "binary": "auc",
        "multiclass": "accuracy",
        "regression": "mae",
        "forecasting": "mae",
        "ranking": "ndcg",
        "anomaly": "average_precision",
    }


RANKING, FORECASTING, ANOMALY = task_of("ranking"), task_of("forecasting"), task_of("anomaly", (0, 1))


@pytest.mark.parametrize("seed", range(10))
def test_a_ranking_is_measured_within_its_groups(seed):
    draw = np.random.default_rng(seed)
    groups, label, scores = draw.integers(0, 8, 100), draw.integers(0, 4, 100), draw.normal(size=100)
    found = RANKING.measure(label, scores, groups=groups)
    relevant = [label[groups == g] for g in range(8)]
    own = [scores[groups == g] for g in range(8)]
    known = [(r, s) for r, s in zip(relevant, own, strict=True) if len(r) > 1 and r.max() > 0]
    wanted = np.mean([ndcg(r, s) for r, s in known])
    assert found["ndcg"] == pytest.approx(wanted)
    first = [1 / (1 + np.flatnonzero(r[np.argsort(-s)] > 0)[0]) for r, s in known]
    assert found["mrr"] == pytest.approx(np.mean(first))
    assert RANKING.measure(label, label.astype(float), groups=groups)["ndcg"] == 1
    assert RANKING.measure(np.zeros(3, int), np.zeros(3), groups=np.zeros(3)) == {"ndcg": 0, "mrr": 0, "precision": 0}


@pytest.mark.parametrize("seed", range(10))
def test_rows_of_equal_scores_count_as_the_mean_of_their_orders(seed):
    draw = np.random.default_rng(seed)
    label, scores = draw.integers(0, 3, 30), draw.integers(0, 4, 30).astype(float)
    found = RANKING.measure(label, scores, groups=np.zeros(30))
    orders = [RANKING.measure(label, scores + 1e-6 * draw.permutation(30), groups=np.zeros(30)) for _ in range(1500)]
    for name, value in found.items():
        assert value == pytest.approx(np.mean([each[name] for each in orders]), abs=0.03), name
    assert found["ndcg"] == pytest.approx(metrics.ndcg_score([label], [scores], k=10))
    backwards = RANKING.measure(label[::-1], scores[::-1], groups=np.zeros(30))
    assert backwards == pytest.approx(found), "the order of the rows does not matter"


def ndcg(relevance, scores):
    """The definition, with relevances as gains."""
    order = np.argsort(-scores)[:10]
    best = np.sort(relevance)[::-1][:10]
    discount = 1 / np.log2(np.arange(2, 12))
    return (relevance[order] * discount[: len(order)]).sum() / (best * discount[: len(best)]).sum()


def test_a_forecast_is_compared_with_the_last_known_value():
    label = np.array([10.0, 0.0, 30.0])
    found = FORECASTING.measure(label, np.array([12.0, 0.0, 24.0]))
    assert set(found) == set(FORECASTING.metrics)
    assert found["mae"] == pytest.approx(8 / 3)
    assert found["smape"] == pytest.approx((2 * 2 / 22 + 0 + 2 * 6 / 54) / 3)
    assert found["bias"] == pytest.approx(4 / 3)
    rows = pd.DataFrame({"before": [9.0, None, 28.0]})
    assert list(FORECASTING.baseline(rows, pd.Series([1.0, 3.0]), rows, ("before",))) == [9, 2, 28]
    assert list(FORECASTING.baseline(rows, pd.Series([1.0, 3.0]), rows, ())) == [2, 2, 2]


class _Far:
    def score_samples(self, rows):
        return -np.abs(rows["x"].to_numpy())


def test_an_anomaly_is_unlike_other_rows():
    rows = pd.DataFrame({"x": [0.1, -9.0, 0.2, 8.0, 0.3]})
    scores = ANOMALY.predictions(_Far(), rows)
    assert scores.tolist() == [0.1, 9.0, 0.2, 8.0, 0.3]
    label = np.array([0, 1, 0, 1, 0])
    threshold = ANOMALY.threshold(label, scores)
    assert 0.3 < threshold < 8
    found = ANOMALY.measure(label, scores, threshold)
    assert set(found) == set(ANOMALY.metrics)
    assert found["auc"] == found["f1"] == 1
    assert ANOMALY.answers(scores[:2], threshold) == [{"score": 0.1, "label": False}, {"score": 9.0, "label": True}]
    assert ANOMALY.columns(scores, threshold)["predicted"].to_pylist() == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (pa.chunked_array([[0.5]]), "the label 'y' is no relevance: got double"),
        (pa.chunked_array([[-1, 3]]), "has relevances outside 0 to 30: got -1 to 3"),
        (pa.chunked_array([[0, 31]]), "has relevances outside 0 to 30: got 0 to 31"),
    ],
)
def test_labels_that_are_no_relevance(column, problem):
    with pytest.raises(ModelError, match=problem):
        RANKING.label(column, "y", None)
    assert RANKING.label(pa.chunked_array([[True, False]]), "y", None).to_pylist() == [1, 0]


MORE_TASKS = """
from ml import LightGBM, XGBoost

rides = training_set(
    "select trip_id, started_at, started_at::date as day, hour, load, late from raw_trips where load is not null",
    key="trip_id", event_time="started_at",
)


@model(label="load", task="forecasting", holdout=0.2, at_least=0.3, baseline="hour", exclude=["day", "late"], min_rows=100)
def forecast(rides):
    from sklearn.dummy import DummyRegressor

    return DummyRegressor().fit(rides, rides.pop("load"))


@model(label="late", task="anomaly", holdout=0.2, at_least=0.3, exclude="day", min_rows=100)
def odd(rides):
    from sklearn.ensemble import IsolationForest

    return IsolationForest(n_estimators=20, random_state=0).fit(rides.drop(columns="late"))


order = model(
    "rides", TRAINER, task="ranking", label="late", split_by="day", holdout=0.3, at_least=0.1, min_rows=100,
)
"""


@pytest.mark.parametrize("trainer", ["LightGBM(rounds=20)", "XGBoost(rounds=20)"])
def test_models_of_other_tasks_are_trained(project, trainer):
    project.define(MORE_TASKS.replace("TRAINER", trainer))
    steps = {step.name: step for step in project.runner().run().steps}
    order = steps["order"].verdict
    assert order.accepted, order.reason
    assert order.metrics["ndcg"] > order.metrics["baseline_ndcg"]
    assert steps["forecast"].decision == "accepted", steps["forecast"].reason
    assert {"smape", "baseline_smape"} <= set(steps["forecast"].verdict.metrics)
    assert 0 <= steps["odd"].verdict.metrics["average_precision"] <= 1
    champion = load_champion(project.store, "order")
    assert [set(each.features) for each in champion.explain([{"hour": 8, "load": 0.1}])] == [{"hour", "load"}]
    scores = [each["score"] for each in champion.predict([{"hour": 8, "load": load} for load in (0.1, 0.9)])]
    assert scores[0] < scores[1]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"task": "ranking", "holdout": 0.2}, "a ranking has no groups; pass split_by="),
        ({"task": "forecasting", "split_by": "x"}, "a forecast is of later rows"),
        ({"task": "forecasting", "holdout": 0.2, "baseline": ("x", "z")}, "its baseline is one column"),
        ({"task": "anomaly", "holdout": 0.2}, "LightGBM does not fit anomaly tasks"),
        ({"task": "regression", "holdout": 0.2, "calibrate": "isotonic"}, "calibrate= is for binary tasks"),
        ({"holdout": 0.2, "metric": "cost"}, "the metric is the cost, but errors have no costs"),
        ({"holdout": 0.2, "segment_at_least": 0.5}, "segment_at_least= needs segments"),
        ({"holdout": 0.2, "calibrate": "platt"}, "unknown calibration 'platt'"),
        ({"holdout": 0.2, "approval": "never"}, "unknown approval 'never'"),
        ({"holdout": 0.2, "at_least": "0.7"}, "at_least= must be a number: got '0.7'"),
        ({"holdout": 0.2, "at_least": float("nan")}, "at_least= must be a number: got nan"),
        ({"holdout": 0.2, "min_rows": 0}, "min_rows= must be a whole number, at least 1: got 0"),
        ({"holdout": 0.2, "retrain": "7 days"}, r"retrain= is not what retrain\(…\) returns: got '7 days'"),
        ({"holdout": 0.2, "tuning": {"a": 1}}, r"tuning= is not what tune\(…\) returns"),
        ({"holdout": 0.2, "baseline": ["x", "x"]}, "baseline= names a column twice: got x, x"),
        ({"holdout": 0.2, "segments": "y"}, "the label is no segment"),
    ],
)
def test_options_that_do_not_fit_the_task(options, problem):
    with pytest.raises(DefinitionError, match=problem):
        model("rows", LightGBM(), **{"label": "y", "at_least": 0.5, **options})
