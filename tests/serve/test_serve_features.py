"""Predictions by entity: features are looked up online, and are those that the training set would have."""

from __future__ import annotations

import warnings

import pytest

from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner.runner import Runner
from serve.deployment.check import check
from tests.rigs.in_process_server import served

TOML = '[project]\nname = "shop"\ndefinitions = "shop.py"\n'
SHOP = """\
from pathlib import Path

from ml import feature_service, feature_view, features, model, on_demand, training_set
from pipeline import files, source

raw_orders = source(files(Path(__file__).parent / "orders" / "*.csv"), schema={
    "id": "bigint", "buyer": "bigint", "at": "timestamp", "amount": "decimal(9,2)", "returned": "boolean",
})
buyers = feature_view(
    "select buyer, at, count(*) over w as orders, avg(amount) over w as mean_amount from raw_orders "
    "window w as (partition by buyer order by at)",
    entity="buyer", event_time="at", online=ONLINE,
)
examples = training_set(
    "select id, id % 7 as payer, at, amount, returned from raw_orders", key=["id", "payer"], event_time="at",
    features=feature_service(
        features("buyers", on={"buyer": "payer"}, strict=True),
        on_demand("amount / nullif(mean_amount, 0) as ratio"),
    ),
)


@model(label="returned", split_at="2026-01-10", at_least=0.1, min_rows=50, leaks=["amount", "ratio"])
def returns(examples):
    "How likely an order is returned."
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    returned = examples.pop("returned")
    return make_pipeline(SimpleImputer(), LogisticRegression()).fit(examples, returned)
"""
PATH = "/v1/models/returns/predict"


def orders() -> str:
    lines = ["id,buyer,at,amount,returned"]
    for n in range(400):
        amount = 5 + (n * 37 % 100) / 4
        day, hour = 1 + n // 24, n % 24
        lines.append(f"{n},{n % 7},2026-01-{day:02}T{hour:02}:00:00,{amount},{str(amount > 17).lower()}")
    return "\n".join(lines) + "\n"


def define(root, online="True", **changes):
    text = SHOP.replace("ONLINE", online)
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (root / "shop.py").write_text(text)


def run(root):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of MLflow and scikit-learn; in tests/ml, warnings are errors
        steps = Runner(load(root)).run().steps
    assert [step.decision for step in steps if step.name == "returns"] == ["accepted"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory, at):
    root = tmp_path_factory.mktemp("shop")
    (root / "headwater.toml").write_text(TOML)
    (root / "orders").mkdir()
    (root / "orders" / "1.csv").write_text(orders())
    define(root)
    run(root)
    return at(root)


@pytest.fixture(scope="module")
def client(shop):
    with shop.client() as client:
        yield client


def predict(client, *rows, **options):
    return client.post(PATH, json={"rows": list(rows), **options})


def test_features_are_looked_up_by_entity_and_computed(client, shop):
    answer = predict(client, {"payer": 3, "amount": 20}, {"payer": 99, "amount": 20.5}, return_features=True).json()
    query = 'select orders, mean_amount, "at" from buyers where buyer = 3 order by "at" desc limit 1'
    [newest] = Workspace(shop.project()).query(query).to_pylist()
    time = newest["at"].isoformat() + "+00:00"
    assert answer["features"][0] == {
        "orders": {"value": newest["orders"], "event_time": time},
        "mean_amount": {"value": newest["mean_amount"], "event_time": time},
        "ratio": {"value": pytest.approx(20 / newest["mean_amount"])},
    }
    nothing = {"value": None, "event_time": None}
    assert answer["features"][1] == {"orders": nothing, "mean_amount": nothing, "ratio": {"value": None}}
    values = {name: found["value"] for name, found in answer["features"][0].items()}
    by_value = predict(client, {"amount": 20, **values}).json()
    assert by_value["predictions"] == answer["predictions"][:1]
    assert "features" not in by_value


def test_given_values_win_and_others_are_computed_from_them(client):
    given = {"payer": 3, "amount": 20, "mean_amount": 40}
    (found,) = predict(client, given, return_features=True).json()["features"]
    assert found["ratio"] == {"value": 0.5}
    assert set(found) == {"orders", "ratio"}
    rows = [given, {"payer": None, "amount": 20}, {"amount": 1, "orders": 1, "mean_amount": None, "ratio": None}]
    answer = predict(client, *rows, return_features=True)
    assert answer.status_code == 200, answer.text
    assert [set(each) for each in answer.json()["features"]] == [
        {"orders", "ratio"},
        {"orders", "mean_amount", "ratio"},
        set(),
    ]


@pytest.mark.parametrize(
    ("row", "problem", "do"),
    [
        (
            {"amount": 1},
            "row 0 lacks 'mean_amount', 'orders', 'ratio'",
            "pass 'payer', from which features are looked up",
        ),
        ({"payer": 3}, "row 0 lacks 'mean_amount', 'orders', 'ratio'", "pass 'amount'"),
        ({"payer": 3, "amount": 1, "oders": 2}, "row 0 has an unknown feature 'oders'", "did you mean 'orders'"),
        ({"payer": "x", "amount": 1}, "'payer' is not of the type of the entity of 'buyers'", "pass int64"),
        ({"payer": 3, "amount": "much"}, "an on-demand feature cannot be computed", None),
        ({"payer": 3, "amount": 1, "mean_amount": "x"}, "a value of 'mean_amount' is not of its type, double", None),
    ],
)
def test_rows_that_do_not_suffice_are_rejected(client, row, problem, do):
    answer = predict(client, row)
    assert answer.status_code == 422, answer.text
    error = answer.json()
    assert problem in error["detail"]
    assert do is None or do in error["do"]


def test_openapi_says_what_is_looked_up(client):
    body = client.get("/openapi.json").json()["paths"][PATH]["post"]["requestBody"]["content"]["application/json"]
    row = body["schema"]["properties"]["rows"]["items"]
    assert sorted(row["required"]) == ["amount", "payer"]
    assert row["properties"]["ratio"] == {
        "type": ["number", "null"],
        "description": "looked up or computed if it is not given",
    }
    assert client.post(PATH, json=body["example"]).status_code == 200


def test_the_check_of_an_endpoint_predicts_by_entity(shop):
    with served(shop.project()) as url:
        answers = check(f"{url}/", shop.project())
    assert (answers[-1].path, answers[-1].status) == (PATH, 200), answers


def test_return_features_is_a_boolean(client):
    answer = predict(client, {"payer": 3, "amount": 1}, return_features=1)
    assert (answer.status_code, answer.json()["detail"]) == (422, "'return_features' must be true or false")


def test_a_model_of_other_views_is_refused_until_it_is_trained_again(tmp_path, at):
    (tmp_path / "headwater.toml").write_text(TOML)
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders" / "1.csv").write_text(orders())
    define(tmp_path)
    run(tmp_path)
    define(tmp_path, **{'entity="buyer", ': 'entity="buyer", ttl="9 days", '})
    with at(tmp_path).client() as client:
        refused = predict(client, {"payer": 3, "amount": 1})
        by_value = predict(client, {"amount": 1, "orders": 1, "mean_amount": 1, "ratio": 1})
    assert (refused.status_code, by_value.status_code) == (409, 200)
    assert "was trained on feature view 'buyers' of another definition" in refused.json()["detail"]

    run(tmp_path)
    (tmp_path / ".headwater" / "features.db").unlink()
    with at(tmp_path).client() as client:
        missing = predict(client, {"payer": 3, "amount": 1})
    assert missing.status_code == 503
    assert missing.json()["do"] == "run `headwater features materialize buyers`"


def test_an_online_store_that_cannot_be_read_degrades_health(shop, monkeypatch):
    with shop.client() as client:
        assert client.get("/health").json()["status"] == "ok"
    monkeypatch.setenv("HEADWATER_ONLINE", "redis://127.0.0.1:1/0")
    with shop.client() as client:
        health = client.get("/health").json()
        answer = predict(client, {"payer": 3, "amount": 1})
    assert (health["status"], "the online store does not answer" in health["reasons"][-1]) == ("degraded", True)
    assert (answer.status_code, answer.json()["detail"]) == (503, "the online store does not answer")


def test_features_of_views_that_are_not_online_are_part_of_the_request(tmp_path, at):
    (tmp_path / "headwater.toml").write_text(TOML)
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders" / "1.csv").write_text(orders())
    define(tmp_path, online="False")
    run(tmp_path)
    with at(tmp_path).client() as client:
        answer = predict(client, {"amount": 1})
    assert (answer.status_code, answer.json()["detail"]) == (
        422,
        "row 0 lacks 'orders', 'mean_amount', 'ratio'",
    )
