"""Predictions of champions for plain rows."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

import pytest

from ml.models import load_champion
from pipeline.core.errors import ModelError, RequestError, StorageError

ROW = {"carrier": "B6", "hour": 8, "load": 0.9, "is_weekend": False, "seen_at": "2024-01-08T10:00:00Z"}


@pytest.fixture(scope="module")
def predictor(trained):
    return load_champion(trained.store, "lateness")


def test_predictor_has_name_version_and_inputs(predictor):
    assert (predictor.name, predictor.version) == ("lateness", "1")
    assert list(predictor.inputs.items()) == [
        ("carrier", "text"),
        ("hour", "integer"),
        ("load", "number"),
        ("is_weekend", "boolean"),
        ("seen_at", "timestamp"),
    ]


def test_probabilities_are_in_row_order(predictor):
    full, empty = predictor.predict([ROW, {**ROW, "load": 0.1}])

    assert 1 > full["probability"] > 0.5 > empty["probability"] > 0
    assert (full["label"], empty["label"]) == (True, False)
    assert predictor.predict([{**ROW, "load": 0.1}]) == [pytest.approx(empty)]
    assert predictor.predict([]) == []


def test_the_order_of_a_rows_keys_does_not_matter(predictor):
    assert predictor.predict([dict(reversed(ROW.items()))]) == predictor.predict([ROW])


@pytest.mark.parametrize("name", ROW)
def test_every_feature_may_be_null(predictor, name):
    (prediction,) = predictor.predict([{**ROW, name: None}])

    assert 0 < prediction["probability"] < 1


@pytest.mark.parametrize(
    "change",
    [
        {"hour": 8.0},
        {"load": 1},
        {"carrier": "never seen"},
        {"seen_at": "2024-01-08"},
        {"seen_at": datetime(2024, 1, 8, tzinfo=UTC)},
        {"seen_at": datetime(2024, 1, 8)},  # noqa: DTZ001 - taken as UTC
    ],
)
def test_equivalent_values_are_accepted(predictor, change):
    assert 0 < predictor.predict([{**ROW, **change}])[0]["probability"] < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hour": 8.5}, r"row 1: 'hour' must be an integer or null: got 8.5"),
        ({"hour": "8"}, r"row 1: 'hour' must be an integer or null: got '8'"),
        ({"hour": True}, r"row 1: 'hour' must be an integer or null: got True"),
        ({"load": "full"}, r"row 1: 'load' must be a number or null: got 'full'"),
        ({"load": float("nan")}, r"row 1: 'load' must be a number or null: got nan"),
        ({"load": 10**400}, r"row 1: 'load' must be a number or null: got 1000"),
        ({"is_weekend": 1}, r"row 1: 'is_weekend' must be true or false or null: got 1"),
        ({"carrier": 6}, r"row 1: 'carrier' must be text or null: got 6"),
        ({"seen_at": "noon"}, r"row 1: 'seen_at' must be an ISO 8601 time or null: got 'noon'"),
        ({"seen_at": 12}, r"row 1: 'seen_at' must be an ISO 8601 time or null: got 12"),
        ({"carier": "B6"}, r"row 1 has an unknown feature 'carier'; did you mean 'carrier'\?"),
    ],
)
def test_invalid_row_is_reported_with_its_feature(predictor, change, message):
    with pytest.raises(RequestError, match=message):
        predictor.predict([ROW, {**ROW, **change}])


def test_missing_feature_is_reported(predictor):
    row = {name: value for name, value in ROW.items() if name not in {"hour", "load"}}

    with pytest.raises(RequestError, match="row 0 lacks 'hour', 'load'; pass null for unknown values"):
        predictor.predict([row])


def test_missing_champion_is_an_error_with_advice(trained, tmp_path):
    message = r"model 'other' has no champion yet; train one: headwater run --select \+other"
    with pytest.raises(ModelError, match=message):
        load_champion(trained.store, "other")
    with pytest.raises(ModelError, match=message):
        load_champion(f"sqlite:///{tmp_path}/new/mlflow.db", "other")


def test_champion_with_missing_files_is_a_storage_error(project):
    project.run()
    for file in (project.root / ".headwater" / "mlflow").rglob("model.skops"):
        file.unlink()

    with pytest.raises(StorageError, match=r"the files of model lateness 1 are not those that were registered"):
        load_champion(project.store, "lateness")


OWN_CLASS = '''
class Threshold:
    """Late when it is full: a classifier of the project's own."""
    def fit(self, rows, label):
        self.full = rows["load"].mean()
        return self
    def predict_proba(self, rows):
        import numpy as np
        late = np.where(rows["load"] > self.full, 0.8, 0.2)
        return np.column_stack([1 - late, late])

@model(label="late", split_at="2024-01-08", at_least=0.6, baseline="carrier", min_rows=100)
def lateness(trips):
    return Threshold().fit(trips, trips["late"])
'''


def test_estimator_class_of_the_project_is_served_without_its_code(project):
    project.define(OWN_CLASS)
    project.run()
    (project.root / "trips_project.py").unlink()
    code = f"from ml.models import load_champion; print(load_champion({project.store!r}, 'lateness').predict([{ROW}]))"

    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=project.root.anchor
    )

    assert (process.stdout, process.stderr) == ("[{'probability': 0.8, 'label': True}]\n", "")
