"""Bandits: weights follow the results, lose less than equal weights, and starve no variant; their results make no claims."""

from __future__ import annotations

import json
import math
import random
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.rankings import campaign
from cluster.cli.experiment import app
from ml import experiment, outcome_metric
from ml.experiments import Moments, live, live_experiment, thompson_weights
from ml.experiments.states import FOLDER, ExperimentStates
from pipeline.core.errors import DefinitionError
from pipeline.lake import Storage
from pipeline.project import load
from pipeline.runner import Runner
from tests.rigs.proofs import examples

SHOP = """\
from ml import experiment, outcome_metric
from pipeline import files, source

exposures = source(files("exposures.csv"), schema={"user_id": "bigint", "variant": "varchar", "at": "timestamptz"})
orders = source(files("orders.csv"), schema={"user_id": "bigint", "at": "timestamptz"})
checkout = experiment(
    variants={"control": 1, "new": 1}, exposures="exposures", unit="user_id", time="at", bandit="bought",
    metrics=[outcome_metric("bought", of="orders", per_unit="any", value="true", unit="user_id", time="at")],
)
"""
START = datetime(2026, 3, 1, tzinfo=UTC)


def condition(units, successes):
    return Moments(units, successes, successes)


def test_weights_are_the_probabilities_of_being_the_best():
    equal = thompson_weights({"a": condition(1000, 100), "b": condition(1000, 100)}, per_unit="any")
    assert equal == {"a": pytest.approx(0.5, abs=0.01), "b": pytest.approx(0.5, abs=0.01)}
    # the difference has a standard error of 1: P(b > a) = P(Z > -1) = 0.8413, and each variant has 5 % anyway
    spread = {"a": 0.0, "b": 1.0}
    arms = {name: Moments(200, 200 * mean, 200 * mean**2 + 199 * 100) for name, mean in spread.items()}
    weights = thompson_weights(arms)
    assert weights["b"] == pytest.approx(0.05 + 0.9 * 0.8413, abs=0.01)
    lower = thompson_weights(arms, is_higher_better=False)
    assert lower["a"] == pytest.approx(weights["b"], abs=0.01)
    assert thompson_weights(arms) == weights, "the same sums give the same weights"
    ratio = {
        name: Moments(200, 200 * mean, 200 * mean**2 + 199 * 100, 200, 200, 200 * mean) for name, mean in spread.items()
    }
    assert thompson_weights(ratio, per_unit="mean")["b"] == pytest.approx(weights["b"], abs=0.01)


@pytest.mark.parametrize("count", [2, 3, 7, 25])
def test_no_variant_is_starved(count):
    arms = {f"v{n}": condition(10_000, 5000 if n == 1 else 10) for n in range(count)}
    weights = thompson_weights(arms, per_unit="any")
    assert sum(weights.values()) == pytest.approx(1)
    assert max(weights, key=weights.get) == "v1"
    assert min(weights.values()) == pytest.approx(min(0.05, 0.5 / count), abs=0.001)


@pytest.mark.parametrize(
    ("arm", "per_unit"),
    [
        (condition(99, 50), "any"),
        (Moments(0, 0.0, 0.0), "sum"),
        (Moments(500, math.nan, 1.0), "sum"),
        (Moments(500, 1.0, math.inf), "sum"),
        (Moments(500, 0.0, 0.0), "mean"),
    ],
)
def test_too_little_is_known(arm, per_unit):
    assert thompson_weights({"a": arm, "b": Moments(500, 50, 50, 500, 500, 50)}, per_unit=per_unit) is None


def test_variants_without_variance_share_what_they_get():
    same = {name: Moments(500, 0.0, 0.0) for name in "ab"}
    assert thompson_weights(same) == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize(
    ("outcomes", "per_unit"), [([(0.1, 0), (0.1, 0), (0.14, 0)], "any"), ([(5, 10), (5.5, 10), (6.5, 10)], "sum")]
)
def test_a_bandit_loses_less_than_equal_weights(outcomes, per_unit):
    rng, means = np.random.default_rng(4), [mean for mean, _ in outcomes]
    runs = [campaign(rng, outcomes, per_unit) for _ in range(examples(2, 300))]
    equal = max(means) - np.mean(means)
    assert np.mean([regret for regret, _ in runs]) < 0.6 * equal
    assert min(shares.min() for _, shares in runs) >= 0.049
    best = int(np.argmax(means))
    assert np.mean([shares[-1].argmax() == best for _, shares in runs]) > 0.9


def test_variants_without_a_difference_stay_near_equal_shares_on_average():
    rng = np.random.default_rng(6)
    ends = [campaign(rng, [(0.1, 0), (0.1, 0)], "any", batches=10)[1][-1, 0] for _ in range(examples(6, 400))]
    assert np.mean(ends) == pytest.approx(0.5, abs=4 * 0.35 / math.sqrt(len(ends)))


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "FRESH_S", 0)
    (tmp_path / "headwater.toml").write_text('[project]\nname = "shop"\ndefinitions = "shop.py"\n')
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "orders.csv").write_text("user_id,at\n")
    (tmp_path / "exposures.csv").write_text("user_id,variant,at\n")
    return tmp_path


def expose(root, assigned, rates):
    """Write what units saw, and which of them bought something."""
    chance = random.Random(1)  # noqa: S311 - made-up users
    for unit, variant in assigned.items():
        with (root / "exposures.csv").open("a") as exposures, (root / "orders.csv").open("a") as orders:
            exposures.write(f"{unit},{variant},{START.isoformat()}\n")
            if chance.random() < rates[variant]:
                orders.write(f"{unit},{(START + timedelta(hours=1)).isoformat()}\n")


def run(root):
    steps = {step.name: (step.decision, step.reason) for step in Runner(load(root)).run().steps}
    return steps["checkout_weights"], steps["checkout_stop"]


def command(root, *words):
    answer = CliRunner().invoke(app, [*words, "--project", str(root)])
    assert answer.exit_code == 0, (answer.output, answer.exception)
    return answer.output


def test_runs_move_the_weights_and_units_keep_their_variant(shop):
    assert run(shop)[0] == ("skip", "the experiment does not run")
    command(shop, "start", "checkout")
    running = live_experiment("checkout", shop)
    before = {unit: running.assign(unit).variant for unit in range(600)}
    assert 250 < list(before.values()).count("new") < 350
    expose(shop, before, {"control": 0.1, "new": 0.4})
    weights, stop = run(shop)
    assert weights == ("accepted", "control 5.0 %, new 95.0 %")
    assert stop == ("accepted", "the experiment goes on: no harm")

    assert {running.assign(unit, shown=variant).variant == variant for unit, variant in before.items()} == {True}
    assert running.assign(1, shown="removed").variant in {"control", "new"}
    after = {unit: running.assign(unit).variant for unit in range(1000, 3000)}
    assert list(after.values()).count("new") / 2000 == pytest.approx(0.95, abs=0.02)
    assert command(shop, "variant", "checkout", "1001").strip() == after[1001]

    expose(shop, after, {"control": 0.1, "new": 0.4})
    assert run(shop)[1] == ("accepted", "the experiment goes on: no harm"), "a ratio that moves is not broken"
    status = json.loads(command(shop, "status", "checkout", "--json"))
    assert status["weights"] == {"control": 0.05, "new": 0.95}
    ratio, bought = status["results"]
    assert (ratio["decision"], ratio["p_value"], ratio["units"]) == ("undecided", None, 2600)
    assert bought["mean"] > bought["control_mean"]
    assert [bought[name] for name in ("low", "high", "p_value", "decision")] == [None, None, None, "undecided"]
    shown = command(shop, "status", "checkout")
    assert "weights: control 5.0 %, new 95.0 %" in shown
    assert "p-value" not in shown

    command(shop, "stop", "checkout", "--reason", "the campaign is over")
    assert run(shop)[0] == ("skip", "the experiment does not run")
    assert running.assign(1, shown="new").variant == "control"


def test_unknown_variants_and_numbers_that_are_none_are_broken(shop):
    text = SHOP.replace(
        'per_unit="any", value="true"', "value=\"case when user_id = 1 then 'nan' else '1' end::double\""
    )
    (shop / "shop.py").write_text(text)
    command(shop, "start", "checkout")
    expose(shop, {unit: ("control", "new")[unit % 2] for unit in range(300)}, {"control": 1, "new": 1})
    weights, stop = run(shop)
    assert weights[1].startswith("the weights stay: ")
    assert stop[0] == "refused"
    assert "broken: bought: a value is NaN or infinite" in stop[1]

    (shop / "shop.py").write_text(SHOP)
    run(shop)
    command(shop, "start", "checkout")
    expose(shop, {1000: "nwe"}, {"nwe": 0})
    assert "broken: the ratio of the variants: " in run(shop)[1][1]
    assert "unknown variant 'nwe'" in run(shop)[1][1]


def test_weights_of_other_variants_and_of_experiments_without_a_bandit_are_not_used(shop):
    states = ExperimentStates(Storage(load(shop).settings.lake))
    states.set_weights("checkout", {"control": 0.05, "newer": 0.95})
    command(shop, "start", "checkout")
    running = live_experiment("checkout", shop)
    assert {running.assign(unit).variant for unit in range(50)} == {"control", "new"}
    states.set_weights("checkout", {"control": 0.999, "new": 0.001})
    assert [running.assign(unit).variant for unit in range(50)].count("new") < 5
    (shop / "shop.py").write_text(SHOP.replace(' bandit="bought",', ""))
    fixed = live_experiment("checkout", shop)
    assert [fixed.assign(unit).variant for unit in range(50)].count("new") > 10


def test_a_run_that_sets_weights_does_not_start_an_experiment_that_was_stopped_meanwhile(shop):
    states = ExperimentStates(Storage(load(shop).settings.lake))
    states.start("checkout", "ready")
    states.stop("checkout", "by hand")
    states.set_weights("checkout", {"control": 0.5, "new": 0.5})
    assert states.state("checkout").status == "stopped"
    file = f"{FOLDER}checkout.weights.json"
    storage = Storage(load(shop).settings.lake)
    storage.write_text(file, storage.read_text(file).replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(Exception, match="the file of weights of experiment 'checkout' was written by a later version"):
        states.state_and_weights("checkout")


@pytest.mark.parametrize(
    ("bandit", "options", "problem"),
    [
        ("revenu", {}, "bandit= names no metric: 'revenu'; did you mean 'revenue'"),
        (
            "revenue",
            {"guardrail": 0.1},
            "metric 'revenue' cannot be a guardrail of a bandit.*remove guardrail= or bandit=",
        ),
    ],
)
def test_invalid_bandits(bandit, options, problem):
    measured = outcome_metric("revenue", of="orders", unit="u", time="t", **options)
    with pytest.raises(DefinitionError, match=f"(?s){problem}.*test_ml_bandits"):
        experiment(variants={"a": 1, "b": 1}, exposures="e", unit="u", time="t", metrics=[measured], bandit=bandit)
