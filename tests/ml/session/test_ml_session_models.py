"""Models in a session: a version, its predictions and explanations, for rows of every form."""

from __future__ import annotations

import pandas as pd
import polars as pl
import pytest

from ml.models.serving import load_champion
from pipeline import connect
from pipeline.core.errors import ModelError, RequestError

ROWS = [
    {"carrier": "B6", "hour": 8, "load": 0.9, "is_weekend": False, "seen_at": "2024-01-09T08:00"},
    {"carrier": "AA", "hour": 9, "load": None, "is_weekend": True, "seen_at": None},
]


@pytest.fixture(scope="module")
def session(trained):
    with connect(trained.root) as session:
        yield session


@pytest.fixture(scope="module")
def lateness(session):
    return session.model("lateness")


def test_predictions_equal_those_of_the_endpoint(trained, lateness):
    assert (lateness.name, lateness.version) == ("lateness", 1)
    assert lateness.metrics["auc"] > 0.6
    assert lateness.features["carrier"] == "text"
    served = load_champion(trained.store, "lateness").predict(ROWS)
    predicted = lateness.predict(ROWS).arrow().to_pylist()
    assert [row["probability"] for row in predicted] == [row["probability"] for row in served]
    assert repr(lateness).endswith("\nmodel lateness, version 1, champion")
    assert ">model lateness, version 1, champion</p>" in lateness._repr_html_()


def test_rows_of_every_form_are_predicted_alike(session, lateness):
    rows = session.sql("from trips order by trip_id limit 50")
    predicted = lateness.predict(rows).pandas()
    assert list(predicted.columns) == [*rows.columns, "predicted", "probability", "model_version"]
    assert set(predicted.model_version) == {1}
    features = [{name: row[name] for name in lateness.features} for row in rows.arrow().to_pylist()]
    for each in (rows.pandas(), rows.polars(), rows.arrow(), rows.relation(), features):
        assert lateness.predict(each).pandas().probability.equals(predicted.probability)


def test_other_columns_of_objects_are_kept(lateness):
    predicted = lateness.predict([{**row, "note": n} for n, row in enumerate(ROWS)])
    assert predicted.arrow()["note"].to_pylist() == [0, 1]


WRONG = {
    "missing feature": (lambda m: m.predict([{"carrier": "AA"}]), RequestError, "row 0 lacks 'hour', 'load', .*; pass null"),
    "missing column": (
        lambda m: m.predict(pd.DataFrame(ROWS).drop(columns="hour")), ModelError, "the feature 'hour' of model 'lateness' is not in the table to predict"
    ),
    "another type": (
        lambda m: m.predict(pl.DataFrame([{**ROWS[0], "hour": "8"}])), ModelError, "the feature 'hour' of model 'lateness' has another type than at training: got string|the feature 'hour' .* got large_string",
    ),
    "another value": (lambda m: m.predict([{**ROWS[0], "hour": "8"}]), RequestError, "row 0: 'hour' must be an integer or null: got '8'"),
    "a column of predictions": (lambda m: m.predict([{**ROWS[0], "probability": 1}]), RequestError, "the column 'probability' has the name of a column of predictions; rename it"),
    "no rows": (lambda m: m.predict(ROWS[0]), RequestError, "these are no rows: got dict"),
    "not explained": (lambda m: m.explain(ROWS), RequestError, "this model cannot explain its predictions: got Pipeline; only boosted trees can"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_rows_are_explained(lateness, case):
    call, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        call(lateness)


def test_unknown_models_and_versions(session):
    with pytest.raises(RequestError, match="no model 'latenes' is registered; did you mean 'lateness'"):
        session.model("latenes")
    with pytest.raises(RequestError, match="model 'lateness' has no version 7; its versions are 1"):
        session.model("lateness", 7)
