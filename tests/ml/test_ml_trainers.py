"""Boosted trees of both libraries: the same trees each time, from all kinds of features, and through their own format."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from ml import LightGBM, XGBoost
from ml.models.fitted import FittedModel
from ml.models.rows import ARROW, frame, typed
from ml.models.tasks import task_of
from ml.models.trainers import BoostedTrees, FitRequest
from ml.models.trainers.encoding import MOST_CATEGORIES, FeatureEncoding
from pipeline.core.errors import DefinitionError, ModelError, Place, StorageError
from tests.ml.rows import CLASSES, KINDS, labelled, stored
from tests.rigs.proofs import examples

LIBRARIES = [LightGBM, XGBoost]


def fit(trainer, task="binary", rows=None, **values):
    rows = labelled(task=task) if rows is None else rows
    return trainer.fit(FitRequest("m", rows, "y", task_of(task, CLASSES[task]), KINDS, values, Place("here.py", 1)))


def predicted(trees, task, rows):
    return trees.predict(rows.features) if task == "regression" else trees.predict_proba(rows.features)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("task", CLASSES)
def test_trees_learn_are_equal_each_time_and_survive_storage(library, task, tmp_path):
    trees = fit(library(rounds=20), task)
    assert fit(library(rounds=20), task).trees == trees.trees
    fresh = labelled(seed=1, task=task)
    predictions = predicted(trees, task, fresh)
    metrics = task_of(task, CLASSES[task]).measure(
        fresh.label.to_numpy(), predictions[:, 1] if task == "binary" else predictions
    )
    assert {"binary": metrics.get("auc", 0), "multiclass": metrics.get("accuracy", 0)}.get(
        task, metrics.get("r2", 0)
    ) > 0.7
    assert max(trees.importances, key=trees.importances.get) in {"x", "city"}
    assert sum(trees.importances.values()) == pytest.approx(1)
    trees.save(tmp_path)
    for again in (BoostedTrees.load(tmp_path), pickle.loads(pickle.dumps(trees))):  # noqa: S301 - our own
        assert np.array_equal(predicted(again, task, fresh), predictions)


@pytest.mark.parametrize("library", LIBRARIES)
def test_options_matter(library):
    plain = fit(library(rounds=10)).trees
    for other in (library(rounds=11), library(rounds=10, learning_rate=0.02), library(rounds=10, balanced=True)):
        assert fit(other).trees != plain
    assert fit(library(rounds=10), learning_rate=0.02).trees == fit(library(rounds=10, learning_rate=0.02)).trees
    assert fit(library(rounds=10), rounds=11).trees == fit(library(rounds=11)).trees
    assert len(fit(library(rounds=400, stop_after=5)).trees) < len(fit(library(rounds=400)).trees) / 2


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_values_may_change_from_stage_to_stage(library, task):
    """A list has a value for each stage, which goes on from the trees of the stage before: the same as fitting them one by one."""
    rows, rates = labelled(task=task), [0.3, 0.1, 0.02]
    at_once = fit(library(rounds=10), task, rows, learning_rate=rates, max_depth=3)
    one = None
    for rate, rounds in zip(rates, (3, 4, 3), strict=True):
        values = {"learning_rate": rate, "max_depth": 3, "rounds": rounds}
        kind = task_of(task, CLASSES[task])
        one = library(rounds=10).fit(FitRequest("m", rows, "y", kind, KINDS, values, Place("here.py", 1), start=one))
    assert one.trees == at_once.trees
    per_round = len(CLASSES[task]) if task == "multiclass" else 1
    assert _number_of_trees(at_once) == 10 * per_round
    backwards = fit(library(rounds=10), task, rows, learning_rate=rates[::-1], max_depth=3)
    assert backwards.trees != at_once.trees


def _number_of_trees(trees):
    if trees.library == "lightgbm":
        return trees.trees.decode().count("Tree=")
    return len(xgboost.Booster(model_file=bytearray(trees.trees)).get_dump())


def test_fingerprints_differ_where_trees_do():
    options = [{}, {"rounds": 5}, {"workers": 2}, {"stop_after": 3}, {"balanced": True}, {"learning_rate": 0.5}]
    prints = {library(**each).fingerprint for library in LIBRARIES for each in options}
    assert len(prints) == len(LIBRARIES) * len(options)
    assert LightGBM(learning_rate=0.5).fingerprint == LightGBM(learning_rate=0.5).fingerprint


def test_encoding_of_unknown_texts_nulls_and_times():
    rows = pd.DataFrame(
        {
            "x": [1.0, np.nan],
            "city": pd.Series(["Ulm", None], dtype="str"),
            "at": pd.to_datetime(["1970-01-02", None], utc=True),
            "noise": [0.0, 1.0],
        }
    )
    encoding = FeatureEncoding.learned(rows, KINDS)
    assert encoding.categories == {"city": ("Ulm",)}
    assert encoding.categorical == [1]
    other = rows.assign(city=pd.Series(["Bonn", "Ulm"], dtype="str"))
    for value, wanted in zip(
        encoding.matrix(other).tolist(), [[1, np.nan, 86400, 0], [np.nan, 0, np.nan, 1]], strict=True
    ):
        assert value == pytest.approx(wanted, nan_ok=True)


VALUES = {
    "x": st.none() | st.floats(),
    "city": st.none() | st.sampled_from(["Ulm", "Bonn", "", "Ülm"]),
    "at": st.none() | st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - UTC is added
    "noise": st.none() | st.booleans().map(float),
}


@settings(max_examples=examples(100, 2000), deadline=None)
@given(st.lists(st.fixed_dictionaries(VALUES), min_size=1, max_size=5))
def test_rows_have_the_same_encoding_as_arrow_and_as_pandas(rows):
    table = typed(pa.Table.from_pylist(rows, pa.schema({name: ARROW[kind] for name, kind in KINDS.items()})), KINDS)
    encoding = FeatureEncoding(KINDS, {"city": ("Bonn", "Ulm")})
    np.testing.assert_array_equal(encoding.matrix(table), encoding.matrix(frame(table, KINDS)))


def test_encoding_keeps_the_most_frequent_texts_in_any_order_of_rows():
    texts = [f"t{number}" for number in range(MOST_CATEGORIES + 10)] + ["t5"]
    rows = pd.DataFrame({"city": pd.Series(texts, dtype="str")})
    known = FeatureEncoding.learned(rows, {"city": "text"}).categories["city"]
    assert len(known) == MOST_CATEGORIES
    assert "t5" in known
    backwards = rows[::-1].reset_index(drop=True)
    assert FeatureEncoding.learned(backwards, {"city": "text"}).categories["city"] == known


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"rounds": 0}, "rounds= must be a whole number, at least 1: got 0"),
        ({"rounds": True}, "rounds= must be a whole number, at least 1: got True"),
        ({"workers": -1}, "workers= must be a whole number, at least 0: got -1"),
        ({"stop_after": 1.5}, r"stop_after= must be a whole number, at least 0: got 1\.5"),
        ({"learning_rate": None}, "learning_rate= must be a number, a text, a boolean or a list: got NoneType"),
    ],
)
def test_invalid_options_are_errors_of_the_definition(library, options, problem):
    with pytest.raises(DefinitionError, match=problem):
        library(**options)


def test_a_misspelt_parameter_is_an_error_and_not_ignored():
    with pytest.raises(
        ModelError, match=r"lightgbm has no parameter 'learnin_rate'; did you mean 'learning_rate'\?.*here\.py:1"
    ):
        fit(LightGBM(learnin_rate=5))
    assert fit(LightGBM(rounds=5, eta=0.02)).trees != fit(LightGBM(rounds=5)).trees  # another name of learning_rate
    with pytest.raises(DefinitionError, match="the number of trees has two names, rounds= and n_estimators="):
        LightGBM(n_estimators=20)


@pytest.mark.parametrize("library", LIBRARIES)
def test_seeds_have_several_names(library):
    options = (
        {"rounds": 10, "subsample": 0.5, "bagging_freq": 1} if library is LightGBM else {"rounds": 10, "subsample": 0.5}
    )
    trees = {
        fit(library(**options, **seed)).trees.partition(b"parameters:")[0]
        for seed in ({}, {"seed": 7}, {"random_state": 7})
    }
    assert len(trees) == 2


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("task", CLASSES)
def test_contributions_add_up_to_the_score(library, task):
    rows, trees = labelled(50, seed=3, task=task), fit(library(rounds=10), task)
    scores = trees.contributions(rows.features).sum(axis=-1)
    predictions = predicted(trees, task, rows)
    if task == "binary":
        assert 1 / (1 + np.exp(-scores)) == pytest.approx(predictions[:, 1], abs=1e-5)
    elif task == "multiclass":
        odds = np.exp(scores)
        assert odds / odds.sum(axis=1, keepdims=True) == pytest.approx(predictions, abs=1e-5)
    else:
        assert scores == pytest.approx(predictions, abs=1e-5)
    fitted = FittedModel(trees, task_of(task, CLASSES[task]), KINDS)
    explained = fitted.explanations(rows.features)
    assert [list(each.features) for each in explained] == [list(KINDS)] * 50
    sums = [each.base + sum(each.features.values()) for each in explained]
    chosen = fitted.predictions(rows.features).argmax(axis=1) if task == "multiclass" else np.zeros(50, dtype=int)
    of_rows = scores[range(50), chosen] if task == "multiclass" else scores
    assert sums == pytest.approx(of_rows, abs=1e-9)
    assert len({each.base for each in explained}) == len({*chosen.tolist()}), "all rows have the same base"


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_the_library_refuses_names_the_model_and_its_place(library):
    with pytest.raises(ModelError, match=r"model 'm' could not be trained: \w+: got .*here\.py:1"):
        fit(library(rounds=2, objective="nonsense"))


def test_damaged_trees_are_an_error(tmp_path):
    fit(LightGBM(rounds=2)).save(tmp_path)
    (tmp_path / "trees.json").write_text("{")
    with pytest.raises(StorageError, match="the boosted trees of a model are damaged"):
        BoostedTrees.load(tmp_path)


@pytest.mark.proof
@pytest.mark.parametrize("library", LIBRARIES)
def test_workers_of_ray_train_fit_together_all_rows_and_equal_trees_each_time(library, tmp_path):
    rows = stored(labelled(1001), tmp_path)
    trees = fit(library(rounds=20, workers=2, balanced=True), rows=rows)
    assert fit(library(rounds=20, workers=2, balanced=True), rows=rows).trees == trees.trees
    fresh = labelled(seed=1)
    auc = task_of("binary", (0, 1)).measure(fresh.label.to_numpy(), trees.predict_proba(fresh.features)[:, 1])["auc"]
    assert auc > 0.9
    if library is LightGBM:  # the first tree knows how many rows there were
        assert "internal_count=1001 " in trees.trees.decode()
    early = fit(library(rounds=400, workers=2, stop_after=5), rows=rows)
    assert _number_of_trees(early) < 200
