from __future__ import annotations

import json
import math
import sqlite3
import time
import warnings
from datetime import timedelta
from pathlib import Path

import pytest

from ml.models.serving import Predictor
from pipeline.core.errors import StorageError
from pipeline.project.project import load
from pipeline.runner.runner import Runner
from serve.deployment.check import check
from serve.http_errors import RowsError
from serve.predictions.models import FRESH_S, ServedModels, request_of
from tests.rigs.in_process_server import served

TOML = '[project]\nname = "bar"\ndefinitions = "bar.py"\n'
BAR = """\
from pathlib import Path

from ml import model, training_set
from pipeline import files, source

raw_drinks = source(files(Path(__file__).parent / "drinks.csv"), schema={
    "drink_id": "bigint", "poured_at": "timestamptz", "glasses": "integer", "strength": "double", "kind": "varchar",
    "happy": "boolean",
})
drinks = training_set(
    "select drink_id, poured_at, glasses, strength, kind, happy from raw_drinks",
    key="drink_id", event_time="poured_at",
)


@model(label="happy", split_at="2026-01-02", at_least=0.6, min_rows=50)
def mood(drinks):
    "How likely a guest is happy."
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    happy = drinks.pop("happy")
    numbers = FunctionTransformer(lambda rows: rows[["glasses", "strength"]].fillna(0))
    return make_pipeline(numbers, LogisticRegression(C=SCALE)).fit(drinks, happy)


@model(label="happy", split_at="2026-01-02", at_least=0.999, min_rows=50)
def genius(drinks):
    "Never good enough."
    from sklearn.dummy import DummyClassifier

    return DummyClassifier().fit(drinks, drinks.pop("happy"))
"""
PATH = "/v1/models/mood/predict"
ROW = {"glasses": 1, "strength": 0.5, "kind": "beer"}


def drinks() -> str:
    lines = ["drink_id,poured_at,glasses,strength,kind,happy"]
    for n in range(400):
        glasses, strength = n % 5, (n * 7 % 11) / 10
        happy = glasses + strength > 2.2 + 0.9 * math.sin(n)
        lines.append(f"{n},2026-01-0{1 + n // 200}T{n % 24:02}:00:00Z,{glasses},{strength},beer,{str(happy).lower()}")
    return "\n".join(lines) + "\n"


def train(root: Path, scale: float) -> None:
    (root / "bar.py").write_text(BAR.replace("SCALE", str(scale)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of MLflow and scikit-learn; in tests/ml, warnings are errors
        Runner(load(root)).run()


@pytest.fixture(scope="module")
def bar(tmp_path_factory, at):
    """A project with a champion and a rejected model."""
    root = tmp_path_factory.mktemp("bar")
    (root / "headwater.toml").write_text(TOML)
    (root / "drinks.csv").write_text(drinks())
    train(root, 1.0)
    return at(root)


@pytest.fixture(scope="module")
def client(bar):
    with bar.client() as client:
        yield client


def champions(bar, clock) -> ServedModels:
    settings, graph = bar.project().settings, bar.project().graph
    return ServedModels(settings.models, [graph["mood"], graph["genius"]], clock)


def test_rows_get_a_probability_and_a_label(client):
    answer = client.post(PATH, json={"rows": [ROW, ROW | {"glasses": 4}, ROW | {"strength": None}]})
    assert answer.status_code == 200, answer.text
    assert answer.json() | {"predictions": None} == {"model": "mood", "version": "1", "predictions": None}
    low, high, unknown = answer.json()["predictions"]
    assert 0 <= low["probability"] < 0.5 < high["probability"] <= 1
    assert (low["label"], high["label"]) == (False, True)
    assert unknown["probability"] < low["probability"]


def test_only_boosted_trees_explain_their_predictions(client):
    answer = client.post(PATH, json={"rows": [ROW], "explain": True})
    assert (answer.status_code, answer.json()["detail"]) == (422, "this model cannot explain its predictions")
    assert client.post(PATH, json={"rows": [ROW], "explain": 1}).status_code == 422


def test_no_rows_give_no_predictions(client):
    assert client.post(PATH, json={"rows": []}).json()["predictions"] == []


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        (b"", 422, "the body is not JSON"),
        (b"\xff\xfe", 422, "the body is not JSON"),
        (b"[" * 100_000, 422, "the body is not JSON"),
        (b"[]", 422, "the body is not an object with the key 'rows'"),
        (b'{"rows": {}}', 422, "the body is not an object with the key 'rows'"),
        (b'{"rows": [], "version": 1}', 422, "the body is not an object with the key 'rows'"),
        (b'{"rows": [1]}', 422, "row 0 is not an object"),
        (json.dumps({"rows": [ROW, {"glasses": 1}]}).encode(), 422, "row 1 lacks 'strength', 'kind'"),
        (json.dumps({"rows": [ROW | {"glases": 1}]}).encode(), 422, "row 0 has an unknown feature 'glases'"),
        (json.dumps({"rows": [ROW | {"glasses": "four"}]}).encode(), 422, "row 0: 'glasses' must be an integer"),
        (json.dumps({"rows": [ROW | {"strength": math.nan}]}).encode(), 422, "row 0: 'strength' must be a number"),
        (json.dumps({"rows": [ROW | {"strength": 10**400}]}).encode(), 422, "row 0: 'strength' must be a number"),
        (json.dumps({"rows": [ROW] * 10_001}).encode(), 413, "a request may have at most 10000 rows"),
        (b" " * (9 << 20), 413, "the body is longer than 8388608 bytes"),
    ],
)
def test_invalid_body_is_rejected(client, body, status, problem):
    answer = client.post(PATH, content=body)
    assert answer.status_code == status, answer.text
    assert problem in answer.json()["detail"]


def test_number_with_too_many_digits_is_rejected(client):
    answer = client.post(PATH, content=b'{"rows": [{"glasses": ' + b"9" * 10_000 + b"}]}")
    assert answer.status_code == 422


def test_a_model_that_is_not_defined(client):
    answer = client.post("/v1/models/mod/predict", json={"rows": []})
    assert (answer.status_code, answer.json()["do"]) == (404, "did you mean 'mood'?")


def test_a_model_without_champion(client):
    answer = client.post("/v1/models/genius/predict", json={"rows": []})
    assert (answer.status_code, answer.json()["detail"]) == (409, "model 'genius' has no champion yet")


def test_health_lists_the_champions(client):
    answer = client.get("/health").json()
    assert (answer["status"], answer["models"]) == ("ok", {"mood": "1", "genius": None})


def test_openapi_lists_the_features(client):
    paths = client.get("/openapi.json").json()["paths"]
    content = paths[PATH]["post"]["requestBody"]["content"]["application/json"]
    row = content["schema"]["properties"]["rows"]["items"]
    assert row["properties"] == {
        "glasses": {"type": ["integer", "null"]},
        "strength": {"type": ["number", "null"]},
        "kind": {"type": ["string", "null"]},
    }
    assert client.post(PATH, json=content["example"]).status_code == 200, "the example is a valid request"


def test_new_champion_is_used_after_a_delay(tmp_path, at):
    (tmp_path / "headwater.toml").write_text(TOML)
    (tmp_path / "drinks.csv").write_text(drinks())
    train(tmp_path, 1.0)
    now = [0.0]
    models = champions(at(tmp_path), lambda: now[0])
    first = models.predictor("mood")
    train(tmp_path, 0.5)
    assert models.predictor("mood") is first, "the store is not queried again yet"
    now[0] = FRESH_S + 0.1
    assert models.predictor("mood").version == "2"
    now[0] *= 2
    assert models.predictor("mood") is models.predictor("mood"), (
        "the store is queried again, but the model is not reloaded"
    )


def test_loaded_champion_predicts_without_its_store(tmp_path, bar):
    now = [0.0]
    store = tmp_path / "store.db"
    source = sqlite3.connect(bar.root / ".headwater" / "mlflow.db")
    copy = sqlite3.connect(store)
    source.backup(copy)
    source.close()
    copy.close()
    models = ServedModels(f"sqlite:///{store}", [bar.project().graph["mood"]], lambda: now[0])
    first = models.predictor("mood")
    store.write_bytes(b"not a database" * 1000)
    now[0] = FRESH_S + 0.1
    assert models.predictor("mood") is first
    with pytest.raises(StorageError, match="cannot be used"):
        ServedModels(f"sqlite:///{store}", [bar.project().graph["mood"]]).predictor("mood")


def test_failed_model_store_degrades_health_and_tables_are_still_served(bar, tmp_path, monkeypatch):
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"not a database" * 1000)
    monkeypatch.setenv("HEADWATER_MODELS", f"sqlite:///{broken}")
    with bar.client() as client:
        health = client.get("/health")
        predicted = client.post(PATH, json={"rows": []})
        read = client.get("/v1/tables/drinks?limit=1")
        described = client.get("/openapi.json")
    assert (health.status_code, health.json()["status"]) == (200, "degraded")
    assert "model store" in health.json()["reasons"][0]
    assert (predicted.status_code, read.status_code, described.status_code) == (503, 200, 200)


def test_check_predicts_existing_rows(bar):
    with served(bar.project()) as url:
        answers = check(f"{url}/", bar.project())
    assert [(a.method, a.path, a.is_good) for a in answers] == [
        ("GET", "/health", True),
        ("GET", "/v1/tables/drinks?limit=3", True),
        ("POST", "/v1/graphql", True),
        ("GET", "/v1/odata/drinks?$top=3", True),
        ("POST", PATH, True),
    ]
    assert len(json.loads(answers[-1].body)["predictions"]) == 2
    assert all(a.ms > 0 for a in answers)


def test_rows_of_a_body_are_objects():
    assert request_of(b'{"rows": [{"a": null}]}').rows == [{"a": None}]
    assert request_of(b'{"rows": [], "return_features": true}').return_features
    with pytest.raises(RowsError, match="row 1 is not an object: got 'null'"):
        request_of(b'{"rows": [{}, null]}')


def test_predictions_as_a_field_of_graphql(client, monkeypatch):
    def asked(document, headers=None, **variables):
        return client.post("/v1/graphql", json={"query": document, "variables": variables}, headers=headers).json()

    document = "query($rows: [JSON!]!) { predict_mood(rows: $rows) { model version predictions { label p: probability __typename } } }"
    rest = client.post(PATH, json={"rows": [ROW, ROW]}).json()
    found = asked(document, rows=[ROW, ROW])["data"]["predict_mood"]
    assert (found["model"], found["version"]) == (rest["model"], rest["version"])
    assert found["predictions"] == [
        {"label": each["label"], "p": each["probability"], "__typename": "Prediction"} for each in rest["predictions"]
    ]
    inline = asked(
        '{ predict_mood(rows: [{glasses: 1, strength: 0.5, kind: "beer"}]) { predictions { probability } } }'
    )
    assert inline["data"]["predict_mood"]["predictions"][0]["probability"] == rest["predictions"][0]["probability"]
    wrong = asked(document, rows=[1])["errors"][0]
    assert (wrong["message"], wrong["extensions"]["code"]) == ("row 0 is not an object", "UNPROCESSABLE_ENTITY")
    none = asked("{ predict_genius(rows: [{}]) { version } }")
    assert (none["data"], none["errors"][0]["extensions"]["code"]) == ({"predict_genius": None}, "CONFLICT")
    with monkeypatch.context() as patched:
        runner = next(r for r in client.app.routes if getattr(r, "path", "") == "/v1/graphql").endpoint.__self__.runner
        patched.setattr(runner, "_patience", timedelta(milliseconds=50))
        real = Predictor.predict
        patched.setattr(Predictor, "predict", lambda self, rows: [time.sleep(0.5), real(self, rows)][1])
        late = asked(document, rows=[ROW])["errors"][0]
        assert (late["message"], late["extensions"]["got"]) == ("the request exceeds a limit", "more than 0.05 s")
    anonymous = asked(document, {"Authorization": ""}, rows=[ROW])
    assert "data" not in anonymous
