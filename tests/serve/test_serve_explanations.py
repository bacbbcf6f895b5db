"""Explanations of predictions over HTTP."""

from __future__ import annotations

import math
import shutil
import warnings

import pytest

from ml.models.registry.versions import ModelVersions
from pipeline import connect
from pipeline.project import load
from pipeline.runner import Runner
from tests.serve.test_serve_models import PATH, TOML, drinks

BAR = """\
from pathlib import Path

from ml import LightGBM, model, training_set
from pipeline import files, source

raw_drinks = source(files(Path(__file__).parent / "drinks.csv"), schema={
    "drink_id": "bigint", "poured_at": "timestamptz", "glasses": "integer", "strength": "double", "kind": "varchar",
    "happy": "boolean",
})
drinks = training_set(
    "select drink_id, poured_at, glasses, strength, kind, happy from raw_drinks", key="drink_id", event_time="poured_at",
)
mood = model("drinks", LightGBM(rounds=5), label="happy", split_at="2026-01-02", at_least=0.5, min_rows=50, unit="guest")
"""
UNEXPLAINED = """\
@model(label="happy", split_at="2026-01-02", at_least=0.5, min_rows=50, unit="guest")
def mood(drinks):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    happy = drinks.pop("happy")
    numbers = FunctionTransformer(lambda rows: rows[["glasses", "strength"]].fillna(0))
    return make_pipeline(numbers, LogisticRegression()).fit(drinks, happy)
"""


@pytest.fixture(scope="module")
def bar(tmp_path_factory, at):
    root = tmp_path_factory.mktemp("bar")
    (root / "headwater.toml").write_text(TOML)
    (root / "drinks.csv").write_text(drinks())
    (root / "bar.py").write_text(BAR)
    Runner(load(root)).run()
    return at(root)


def test_the_base_and_what_features_add_are_the_score(bar):
    rows = [{"glasses": glasses, "strength": 0.5, "kind": "beer"} for glasses in (0, 2, 4)]
    with bar.client() as client:
        answer = client.post(PATH, json={"rows": rows, "explain": True}).json()
        described = client.get("/openapi.json").json()["components"]["schemas"]["Predictions"]["properties"]
    for prediction, explained in zip(answer["predictions"], answer["explanations"], strict=True):
        assert set(explained) == {"base", "features"} == set(described["explanations"]["items"]["properties"])
        assert set(explained["features"]) == {"glasses", "strength", "kind"}
        score = explained["base"] + sum(explained["features"].values())
        assert 1 / (1 + math.exp(-score)) == pytest.approx(prediction["probability"], abs=1e-6)
    assert len({each["base"] for each in answer["explanations"]}) == 1
    assert len({each["features"]["glasses"] for each in answer["explanations"]}) > 1


def test_a_session_explains_as_the_endpoint_does(bar):
    rows = [{"glasses": glasses, "strength": 0.5, "kind": "beer"} for glasses in (0, 4)]
    with bar.client() as client, connect(bar.project().settings.root) as session:
        served = client.post(PATH, json={"rows": rows, "explain": True}).json()["explanations"]
        explained = session.model("mood").explain(rows).arrow().to_pylist()
    assert explained == [{"_base": each["base"], **each["features"]} for each in served]


@pytest.fixture
def challenged(bar, tmp_path, at):
    """A server whose champion can explain its predictions, and whose challenger cannot."""
    root = shutil.copytree(bar.project().settings.root, tmp_path / "bar")
    (root / "bar.py").write_text(BAR[: BAR.index("mood = ")].replace("LightGBM, ", "") + UNEXPLAINED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of MLflow and scikit-learn
        Runner(load(root)).run()
    store = ModelVersions(load(root).settings.models)
    store.promote("mood", 1, "champion")
    store.promote("mood", 2, "challenger", traffic=0.9)
    return at(root)


def test_the_champion_explains_what_its_challenger_cannot(challenged):
    rows = [{"glasses": number % 5, "strength": 0.5, "kind": "beer", "guest": number} for number in range(50)]
    with challenged.client() as client:
        plain = client.post(PATH, json={"rows": rows}).json()
        explained = client.post(PATH, json={"rows": rows, "explain": True})
    assert {"1", "2"} == set(plain["versions"])
    assert explained.status_code == 200, explained.text
    answer = explained.json()
    assert set(answer["versions"]) == {"1"}, "a prediction and its explanation are of one version"
    for prediction, each in zip(answer["predictions"], answer["explanations"], strict=True):
        score = each["base"] + sum(each["features"].values())
        assert 1 / (1 + math.exp(-score)) == pytest.approx(prediction["probability"], abs=1e-6)
