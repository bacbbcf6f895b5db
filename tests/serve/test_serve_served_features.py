"""Features that were looked up for requests are those that training would have, or it is said how they differ."""

from __future__ import annotations

import shutil

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cluster.cli.features import app
from ml.models.served_features import verify_served
from pipeline.core.errors import RequestError
from pipeline.project import Workspace, load
from pipeline.runner.decide import RunOptions
from pipeline.runner.runner import Runner
from serve.features import lookup as features
from serve.predictions import log as prediction_log
from tests.serve.test_serve_features import PATH, SHOP, TOML, orders, run

LOGGED = SHOP.replace("ONLINE", "True").replace(
    "on_demand, training_set", "on_demand, prediction_log, training_set"
) + ('\nserved = prediction_log("returns", "served")\n')


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("shop")
    (root / "headwater.toml").write_text(TOML)
    (root / "orders").mkdir()
    (root / "orders" / "1.csv").write_text(orders())
    (root / "shop.py").write_text(LOGGED)
    run(root)
    return root


@pytest.fixture
def shop(tmp_path, trained, at, monkeypatch):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(prediction_log, "EVERY_S", 0.05)
    return at(tmp_path)


def ask(shop, *rows):
    with shop.client() as client:
        answer = client.post(PATH, json={"rows": list(rows)})
    assert answer.status_code == 200, answer.text


def found(shop, sample=1000):
    Runner(load(shop.root), RunOptions(select=("served",))).run()
    [comparison] = verify_served(Workspace(load(shop.root)), "served", sample)
    return comparison


def test_features_of_requests_are_those_of_the_join(shop):
    ask(shop, *({"payer": buyer, "amount": 20} for buyer in range(9)))
    ask(
        shop,
        {"payer": 3, "amount": 20, "orders": 1, "mean_amount": 2.5, "ratio": 8},
        {"payer": 3, "amount": 20, "orders": 77},
    )
    comparison = found(shop)
    assert (comparison.view, comparison.requests, comparison.holds) == ("buyers", 10, True), comparison
    assert found(shop, sample=4).requests <= 4


def test_rows_that_were_known_and_not_shown_are_late(shop):
    """The view has newer rows than the server saw: they were not loaded into the store."""
    ask(shop, {"payer": 3, "amount": 20}, {"payer": 4, "amount": 20})
    (shop.root / "orders" / "2.csv").write_text("id,buyer,at,amount,returned\n900,3,2026-02-01T00:00:00,50,true\n")
    run(shop.root)
    comparison = found(shop)
    assert (comparison.requests, dict(comparison.causes)) == (2, {"late": 1})
    [example] = comparison.examples
    assert example.cause == "late"
    assert example.offline["orders"] == example.online["orders"] + 1
    assert example.entity["payer"] == 3


def test_other_values_of_the_same_row_are_found(shop, monkeypatch):
    real = features._plain  # noqa: SLF001 - how a value is written
    monkeypatch.setattr(features, "_plain", lambda value: value * 1.5 if isinstance(value, float) else real(value))
    ask(shop, {"payer": 3, "amount": 20})
    comparison = found(shop)
    assert dict(comparison.causes) == {"value": 1}
    [example] = comparison.examples
    assert example.online["mean_amount"] == pytest.approx(example.offline["mean_amount"] * 1.5)
    command = CliRunner().invoke(app, ["verify", "--served", "served", "--project", str(shop.root)])
    assert command.exit_code == 3
    assert "✗ buyers: 1 request, 1 value" in command.output


def test_a_log_of_an_earlier_version_can_still_be_read(shop):
    ask(shop, {"payer": 3, "amount": 20})
    [file] = (shop.root / "served").glob("*.parquet")
    pq.write_table(pq.read_table(file).drop_columns(["looked_up"]), file)
    assert found(shop).requests == 0


def test_only_logs_of_models_with_views_can_be_compared(shop):
    workspace = Workspace(load(shop.root))
    with pytest.raises(RequestError, match="'serve' is not a log of served predictions; did you mean 'served'"):
        verify_served(workspace, "serve", 10)
    (shop.root / "shop.py").write_text(LOGGED.replace("online=True", "online=False"))
    with pytest.raises(RequestError, match="model 'returns' looks up no features"):
        verify_served(Workspace(load(shop.root)), "served", 10)
