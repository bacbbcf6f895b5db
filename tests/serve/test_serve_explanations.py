"""Explanations of predictions over HTTP."""

from __future__ import annotations

import math

import pytest

from pipeline.project import load
from pipeline.runner import Runner
from tests.serve.test_serve_models import TOML, drinks

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
mood = model("drinks", LightGBM(rounds=5), label="happy", split_at="2026-01-02", at_least=0.5, min_rows=50)
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
        answer = client.post("/models/mood/predict", json={"rows": rows, "explain": True}).json()
        described = client.get("/openapi.json").json()["components"]["schemas"]["Predictions"]["properties"]
    for prediction, explained in zip(answer["predictions"], answer["explanations"], strict=True):
        assert set(explained) == {"base", "features"} == set(described["explanations"]["items"]["properties"])
        assert set(explained["features"]) == {"glasses", "strength", "kind"}
        score = explained["base"] + sum(explained["features"].values())
        assert 1 / (1 + math.exp(-score)) == pytest.approx(prediction["probability"], abs=1e-6)
    assert len({each["base"] for each in answer["explanations"]}) == 1
    assert len({each["features"]["glasses"] for each in answer["explanations"]}) > 1
