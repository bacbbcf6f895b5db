"""Several versions of a model in one server: challengers by unit, shadows beside the answers, and the log of predictions."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from ml.models.registry.registry import Registry
from ml.models.registry.versions import ModelVersions
from ml.models.serving import Predictor
from pipeline.core.errors import ModelError, SettingsError, StorageError
from pipeline.project import Workspace, load
from pipeline.runner.runner import Runner
from serve.predictions import log as prediction_log
from serve.predictions import models
from serve.predictions.log import LogWriter, ServedPrediction
from serve.predictions.log_owner import LogOwner
from tests.serve.test_serve_models import BAR, PATH, TOML, drinks

LOGGED = (
    BAR.replace("min_rows=50)\ndef mood", 'min_rows=50, unit="guest")\ndef mood').replace(
        "from ml import model, training_set", "from ml import model, prediction_log, training_set"
    )
    + '\nserved = prediction_log("mood", "served")\n'
)
OWNER = LogOwner("bar", "dev", "mood")
ROW = {"glasses": 2, "strength": 0.5, "kind": "beer"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A project with two versions of a model."""
    root = tmp_path_factory.mktemp("bar")
    (root / "headwater.toml").write_text(TOML)
    (root / "drinks.csv").write_text(drinks())
    for scale in ("1.0", "0.01"):
        (root / "bar.py").write_text(LOGGED.replace("SCALE", scale))
        run(root)
    return root


@pytest.fixture
def bar(tmp_path, trained, at, monkeypatch):
    """A copy of the project, in which servers see at once which version has which role."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(models, "FRESH_S", 0.0)
    monkeypatch.setattr(prediction_log, "EVERY_S", 0.05)
    return at(tmp_path)


def run(root):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of MLflow and scikit-learn; in tests/ml, warnings are errors
        return Runner(load(root)).run()


def store_of(bar):
    return ModelVersions(bar.project().settings.models)


def versions(client, guests):
    answer = client.post(PATH, json={"rows": [ROW | {"guest": guest} for guest in guests]})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_challenger_predicts_its_share_of_the_units_and_they_stay_with_it(bar):
    store = store_of(bar)
    guests = [f"guest {number}" for number in range(500)]
    with bar.client() as client:
        assert "versions" not in versions(client, guests)
        store.promote("mood", 1, "challenger", traffic=0.2)
        few = dict(zip(guests, versions(client, guests)["versions"], strict=True))
        assert 70 <= Counter(few.values())["1"] <= 130
        alone = {guest: versions(client, [guest])["versions"][0] for guest in guests[:20]}
        assert alone == {guest: few[guest] for guest in guests[:20]}, "a unit has one version, whatever the request"
        store.promote("mood", 1, "challenger", traffic=0.6)
        more = dict(zip(guests, versions(client, guests)["versions"], strict=True))
        assert 250 <= Counter(more.values())["1"] <= 350
        assert all(more[guest] == "1" for guest in guests if few[guest] == "1"), (
            "nobody moves back when the share grows"
        )
        answer = versions(client, guests)
        by_version = {
            v: {p["probability"] for p, w in zip(answer["predictions"], answer["versions"], strict=True) if v == w}
            for v in ("1", "2")
        }
        assert all(len(each) == 1 for each in by_version.values())
        assert by_version["1"] != by_version["2"]
        store.promote("mood", 1)
        assert "versions" not in versions(client, guests), "the challenger is the champion now"


def test_a_challenger_that_fails_is_replaced_by_the_champion(bar, monkeypatch):
    store_of(bar).promote("mood", 1, "challenger", traffic=1.0)
    real = Predictor.predict

    def predict(self, rows):
        if self.version == "1":
            raise ModelError("the estimator returns NaN")
        return real(self, rows)

    monkeypatch.setattr(Predictor, "predict", predict)
    with bar.client() as client:
        assert versions(client, ["a", "b"])["versions"] == ["2", "2"]


ODD = """
class Odd:
    "Good in training; later it returns NaN for some rows and raises for others."

    def fit(self, rows, happy):
        from sklearn.linear_model import LogisticRegression

        self.kinds, self.inner = {*rows["kind"]}, LogisticRegression().fit(rows[["glasses"]].fillna(0), happy)
        return self

    def predict_proba(self, rows):
        if not self.kinds.issuperset(rows["kind"]):
            raise ValueError("Found unknown categories in column 0")
        1 / (rows["glasses"] != 13).astype(int).to_numpy().min().item()
        return self.inner.predict_proba(rows[["glasses"]].fillna(0)) / (1 if (rows["glasses"] < 100).all() else float("nan"))
"""


def mood_of(body):
    """The project with another function of the model."""
    start = LOGGED[
        LOGGED.index("    from sklearn.linear_model") : LOGGED.index(
            '@model(label="happy", split_at="2026-01-02", at_least=0.999'
        )
    ]
    return LOGGED.replace(start, f"    {body}\n\n\n")


def test_the_champion_answers_what_its_challenger_cannot(bar):
    """NaN, an exception, and an unknown category, of an estimator that was accepted; the next rows are the challenger's again."""
    text = mood_of("return Odd().fit(drinks, drinks.pop('happy'))")
    (bar.root / "bar.py").write_text(text.replace("\n\n@model", f"{ODD}\n\n@model", 1))
    run(bar.root)
    store_of(bar).promote("mood", 2)
    store_of(bar).promote("mood", 3, "challenger", traffic=1.0)
    wrong = {"NaN": {"glasses": 101}, "raises": {"glasses": 13}, "unknown category": {"kind": "cider"}}
    with bar.client() as client:
        for case, change in wrong.items():
            answer = client.post(PATH, json={"rows": [ROW | change | {"guest": "eve"}]})
            assert (answer.status_code, answer.json()["versions"]) == (200, ["2"]), case
            assert versions(client, ["eve"])["versions"] == ["3"], case
        refused = client.post(PATH, json={"rows": [ROW | {"guest": "eve", "glasses": "two"}]})
        assert refused.status_code == 422, "a feature of another type"
        assert "'glasses' must be an integer" in refused.text
        assert versions(client, ["eve"])["versions"] == ["3"]


NAN = "return type('Never', (), {'predict_proba': lambda self, rows: [[float('nan')] * 2] * len(rows)})()"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("raise ZeroDivisionError('no rows')", "ZeroDivisionError"),
        ("raise MemoryError", "MemoryError"),
        (NAN, "must return two probabilities per row: got values outside 0 to 1"),
    ],
)
def test_the_champion_is_served_after_a_training_that_fails(bar, body, problem):
    (bar.root / "bar.py").write_text(mood_of(body))
    with pytest.raises(ModelError, match=problem):
        run(bar.root)
    with bar.client() as client:
        answer = client.post(PATH, json={"rows": [ROW | {"guest": "eve"}]})
    assert (answer.status_code, answer.json()["version"]) == (200, "2")


def test_what_was_served_becomes_a_table(bar):
    store = store_of(bar)
    store.promote("mood", 1, "shadow")
    with bar.client() as client:
        answer = client.post(PATH, json={"rows": [ROW | {"guest": "eve"}]}, headers={"X-Request-Id": "r1"}).json()
        other = versions(client, ["adam", "eve"])
    assert other["request_id"] != answer["request_id"]
    run(bar.root)
    rows = (
        Workspace(load(bar.root)).query("select * from served order by client_request_id is null, row, arm").to_pylist()
    )
    facts = [(row["unit"], row["arm"], row["model_version"]) for row in rows]
    assert facts == [
        ("eve", "champion", 2),
        ("eve", "shadow", 1),
        ("adam", "champion", 2),
        ("adam", "shadow", 1),
        ("eve", "champion", 2),
        ("eve", "shadow", 1),
    ]
    assert rows[0]["probability"] == answer["predictions"][0]["probability"] != rows[1]["probability"]
    assert (rows[0]["predicted"], rows[0]["features"]) == (
        str(answer["predictions"][0]["label"]).lower(),
        '{"glasses": 2, "strength": 0.5, "kind": "beer"}',
    )
    assert [row["client_request_id"] for row in rows] == ["r1"] * 2 + [None] * 4
    assert {row["request_id"] for row in rows} == {answer["request_id"], other["request_id"]}
    assert all(row["latency_ms"] > 0 for row in rows)
    assert not list((bar.root / "served").glob(".*")), "no unfinished files are left"
    assert {step.decision for step in run(bar.root).steps if step.name == "served"} == {"skip"}


def test_a_log_that_cannot_be_written_loses_rows_and_no_answers(bar):
    (bar.root / "served").write_text("a file where the folder would be")
    with bar.client() as client:
        versions(client, ["a"])
        predictions = client.app.state.backend.predictions
        until = time.monotonic() + 10
        while not predictions.dropped and time.monotonic() < until:
            time.sleep(0.02)
        assert predictions.dropped == 1
        versions(client, ["b"])


def logged(prediction):
    now = prediction_log.datetime.now(prediction_log.UTC)
    return ServedPrediction("r", "", 0, now, "champion", "1", None, prediction, {}, 2.0, {}, {})


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ({"probability": 0.75, "label": True}, ("true", 0.75, None)),
        ({"label": "b", "probabilities": {"a": 0.25, "b": 0.75}}, ("b", 0.75, None)),
        ({"value": 1.5}, ("1.5", None, None)),
        ({"score": 1.75}, ("1.75", None, 1.75)),
        ({"score": 0.75, "label": False}, ("false", None, 0.75)),
    ],
)
def test_a_score_is_no_probability_in_the_log(tmp_path, prediction, expected):
    """Also of earlier files, which have no column for it."""
    writer = LogWriter("log", tmp_path, OWNER, every_s=60)
    writer.add([logged(prediction)])
    writer.close()
    (file,) = (tmp_path / "log").glob("*.parquet")
    earlier = prediction_log.pa.parquet.read_table(file).drop_columns("score")
    earlier = earlier.set_column(0, "request_id", [["earlier"]])
    prediction_log.pa.parquet.write_table(earlier, tmp_path / "log" / "earlier.parquet")
    (tmp_path / "headwater.toml").write_text(TOML)
    (tmp_path / "bar.py").write_text('from ml import prediction_log\n\nserved = prediction_log("mood", "log")\n')
    run(tmp_path)
    query = "select predicted, probability, score from served order by request_id"
    rows = [tuple(row.values()) for row in Workspace(load(tmp_path)).query(query).to_pylist()]
    assert rows == [(*expected[:2], None), expected]


@pytest.mark.parametrize("folder", ["log", "memory://headwater-logs/mood"])
def test_a_log_is_of_one_model_in_one_environment(tmp_path, folder):
    writer = LogWriter(folder, tmp_path, OWNER, every_s=60)
    late = LogWriter(folder, tmp_path, replace(OWNER, environment="prod"), every_s=60)
    writer.add([logged({"value": 1.5})] * 2)
    writer.close()
    for other in (replace(OWNER, environment="prod"), replace(OWNER, model="tips"), replace(OWNER, project="pub")):
        with pytest.raises(
            SettingsError,
            match=r"cannot be logged in .*: got the log of model 'mood' of project 'bar', environment 'dev'",
        ):
            LogWriter(folder, tmp_path, other)
    late.add([logged({"value": 2.5})] * 3)  # both were started before there was a row
    late.close()
    assert (writer.dropped, late.dropped) == (0, 3)
    again = LogWriter(folder, tmp_path, OWNER, every_s=60)
    again.add([logged({"value": 3.5})])
    again.close()
    filesystem, path = prediction_log.fsspec.core.url_to_fs(folder if "://" in folder else str(tmp_path / folder))
    assert len(filesystem.glob(f"{path}/*.parquet")) == 2


def test_rows_beyond_the_limit_are_dropped_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_log, "MOST_WAITING", 5)
    writer = LogWriter("log", tmp_path, OWNER, every_s=60)
    row = logged({"value": 1.5})
    writer.add([row] * 8)
    assert writer.dropped == 3
    writer.close()
    assert (
        sum(prediction_log.pa.parquet.read_table(file).num_rows for file in (tmp_path / "log").glob("*.parquet")) == 5
    )


def test_a_challenger_without_a_feature_of_the_champion_predicts(bar, monkeypatch):
    store_of(bar).promote("mood", 1, "challenger", traffic=1.0)
    real = Registry.load

    def load_version(self, name, number):
        version = real(self, name, number)
        kinds = {k: v for k, v in version.fitted.kinds.items() if number != "1" or k != "kind"}
        return replace(version, fitted=replace(version.fitted, kinds=kinds))

    monkeypatch.setattr(Registry, "load", load_version)
    with bar.client() as client:
        assert versions(client, ["a"])["versions"] == ["1"]
        wrong = client.post(PATH, json={"rows": [ROW | {"guest": "a", "glases": 1}]})
        assert (wrong.status_code, "unknown feature 'glases'" in wrong.text) == (422, True)


def test_a_challenger_that_cannot_be_loaded_is_tried_again(bar, monkeypatch):
    store_of(bar).promote("mood", 1, "challenger", traffic=1.0)
    real, failures = Registry.load, ["1", "1"]

    def load_version(self, name, number):
        if number in failures:
            failures.remove(number)
            raise StorageError("the store does not answer")
        return real(self, name, number)

    monkeypatch.setattr(Registry, "load", load_version)
    with bar.client() as client:
        served = [versions(client, ["a"]).get("versions", ["2"])[0] for _ in range(4)]
    assert served[-1] == "1"


@pytest.mark.parametrize("row", [{"guest": "HALF"}, {"guest": "a", "kind": "HALF"}])
def test_halves_of_characters_are_refused(bar, row):
    body = json.dumps({"rows": [ROW | row]}).replace("HALF", "\\ud800")
    with bar.client() as client:
        assert client.post(PATH, content=body).status_code == 422


@pytest.mark.parametrize("unit", [True, ["a"], {"a": 1}, float("inf")])
def test_what_is_no_unit_is_refused(bar, unit):
    with bar.client() as client:
        answer = client.post(PATH, content=json.dumps({"rows": [ROW, ROW | {"guest": unit}]}))
    assert (answer.status_code, answer.json()["detail"]) == (422, "row 1: 'guest' must be a text, a number or null")


def test_null_and_nan_are_no_units_and_what_is_refused_is_not_logged(bar):
    """A request that is refused is no exposure."""
    with bar.client() as client:
        body = {"rows": [ROW | {"guest": "eve"}], "explain": True}
        assert client.post(PATH, json=body).status_code == 422, "the model cannot explain"
        rows = [ROW | {"guest": guest} for guest in (None, float("nan"), 7, "7")]
        assert client.post(PATH, content=json.dumps({"rows": rows})).status_code == 200
    run(bar.root)
    logged = Workspace(load(bar.root)).query("select unit from served order by row").to_pylist()
    assert [row["unit"] for row in logged] == [None, None, "7", "7"]


def test_a_prediction_that_takes_too_long_is_an_error(bar, monkeypatch):
    real = Predictor.predict
    monkeypatch.setattr(Predictor, "predict", lambda self, rows: [time.sleep(1.5), real(self, rows)][1])
    with bar.client(patience=timedelta(seconds=0.3)) as client:
        begun = time.monotonic()
        answer = client.post(PATH, json={"rows": [ROW]})
        assert time.monotonic() - begun < 1.2
        assert answer.status_code == 503
        assert answer.json() == {
            **answer.json(),
            "detail": "the prediction takes too long",
            "got": "more than 0.3 s",
            "do": "send fewer rows, or try later",
        }
