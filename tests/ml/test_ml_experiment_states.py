"""Experiments are started and stopped: by people, and by runs when they do harm."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from cluster.cli.experiment import app
from ml.experiments import Assigned, live, live_experiment
from ml.experiments.states import FOLDER, ExperimentStates
from pipeline.core.errors import RequestError, StorageError
from pipeline.lake import Storage
from pipeline.lake.holds import Hold, holds, place_hold
from pipeline.project import Workspace, load
from pipeline.project.holds import artifact_hold, release_holds
from pipeline.runner import Runner
from pipeline.runner.decide import RunOptions
from pipeline.runner.dry_run import plan_run

SHOP = """\
from ml import experiment, outcome_metric
from pipeline import files, source

exposures = source(files("exposures.csv"), schema={"user_id": "bigint", "variant": "varchar", "at": "timestamptz"})
failures = source(files("failures.csv"), schema={"user_id": "bigint", "at": "timestamptz"})
checkout = experiment(
    variants={"control": 1, "new": 1}, exposures="exposures", unit="user_id", time="at",
    metrics=[outcome_metric("failures", of="failures", per_unit="any", value="true", unit="user_id", time="at", better="lower", guardrail=0.2)],
)
"""
START = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "shop"\ndefinitions = "shop.py"\n')
    (tmp_path / "shop.py").write_text(SHOP)
    chance, rates = random.Random(1), {"control": 0.1, "new": 0.3}  # noqa: S311 - made-up users
    exposures, failures = ["user_id,variant,at"], ["user_id,at"]
    for user in range(2000):
        variant = ("control", "new")[user % 2]
        exposures.append(f"{user},{variant},{START.isoformat()}")
        if chance.random() < rates[variant]:
            failures.append(f"{user},{(START + timedelta(hours=1)).isoformat()}")
    (tmp_path / "exposures.csv").write_text("\n".join(exposures))
    (tmp_path / "failures.csv").write_text("\n".join(failures))
    return tmp_path


def stop_of(root):
    return next((step.decision, step.reason) for step in Runner(load(root)).run().steps if step.name == "checkout_stop")


def command(root, *words, code=0):
    answer = CliRunner().invoke(app, [*words, "--project", str(root)])
    assert answer.exit_code == code, (answer.output, answer.exception)
    return answer


def test_a_dry_run_says_what_is_decided(shop):
    """`checkout_stop` computes nothing: that an input changes is only when it decides."""
    planned = {step.definition.name: step.decision.reason for step in plan_run(Workspace(load(shop)), RunOptions())}
    assert planned["checkout_stop"] == "looks whether checkout does harm: 'checkout' would change"


def test_a_run_stops_an_experiment_that_does_harm(shop, monkeypatch):
    monkeypatch.setattr(live, "FRESH_S", 0)
    running = live_experiment("checkout", shop)
    with_failures = (shop / "failures.csv").read_text()
    (shop / "failures.csv").write_text("user_id,at\n")
    decision, reason = stop_of(shop)
    assert (decision, reason) == ("skip", "the experiment was not started: headwater experiment start checkout")
    assert {running.assign(unit) for unit in range(50)} == {Assigned("control", takes_part=False)}

    (shop / "failures.csv").write_text(with_failures)
    assert "'checkout' runs since" in command(shop, "start", "checkout", "--reason", "ready").output
    assert {running.assign(unit) for unit in range(50)} == {
        Assigned(name, takes_part=True) for name in ("control", "new")
    }
    decision, reason = stop_of(shop)
    assert decision == "refused"
    assert reason.startswith("the experiment is stopped, all units get the control: harm: failures: +")
    assert {running.assign(unit) for unit in range(50)} == {Assigned("control", takes_part=False)}
    assert stop_of(shop)[1].startswith("stopped: harm: failures: +"), "it is not stopped again"

    status = json.loads(command(shop, "status", "checkout", "--json").output)
    assert (status["state"]["status"], status["must_stop"]) == ("stopped", True)
    assert "stopped since" in command(shop, "status", "checkout").output
    command(shop, "stop", "checkout", "--variant", "new", "--reason", "all the same")
    assert running.assign(1) == Assigned("new", takes_part=False)


def test_an_experiment_that_did_harm_is_started_again_without_its_old_exposures(shop):
    """Otherwise the next run would stop it at once, for what is mended meanwhile."""
    command(shop, "start", "checkout")
    assert stop_of(shop)[0] == "refused"
    refused = command(shop, "start", "checkout", code=1).exception
    assert "experiment 'checkout' would be stopped by the next run: got harm: failures: +" in str(refused)
    assert "let since= of checkout be a time after that" in str(refused)
    assert ExperimentStates(Storage(load(shop).settings.lake)).state("checkout").status == "stopped"

    (shop / "shop.py").write_text(SHOP.replace('time="at",\n', 'time="at", since="2026-03-02",\n', 1))
    later = (START + timedelta(days=2)).isoformat()
    with (shop / "exposures.csv").open("a") as file:
        file.writelines(f"\n{user},{('new', 'control')[user % 2]},{later}" for user in range(2000))
    assert stop_of(shop)[1].startswith("stopped: harm: failures: +")
    command(shop, "start", "checkout")
    assert stop_of(shop) == ("accepted", "the experiment goes on: no harm")
    status = json.loads(command(shop, "status", "checkout", "--json").output)
    reason = "control 1,000; new 1,000; 2,000 exposures before since= do not count"
    assert (status["results"][0]["reason"], status["results"][1]["mean"]) == (reason, 0)


def test_runs_that_stop_nothing_do_not_keep_an_experiment_from_starting(shop):
    (shop / "shop.py").write_text(SHOP.replace('time="at",\n', 'time="at", stops=False,\n', 1))
    Runner(load(shop)).run()
    assert json.loads(command(shop, "status", "checkout", "--json").output)["must_stop"]
    command(shop, "start", "checkout")


def test_commands_show_what_the_live_process_gives(shop, monkeypatch):
    monkeypatch.setattr(live, "FRESH_S", 0)
    running = live_experiment("checkout", shop)

    def shown():
        states = [row["state"] for row in json.loads(command(shop, "ls", "--json").output)]
        for unit in range(4):
            found = json.loads(command(shop, "variant", "checkout", str(unit), "--json").output)
            given = running.assign(unit)
            assert found == {"unit": str(unit), "variant": given.variant, "takes_part": given.takes_part}
        return states[0], command(shop, "variant", "checkout", "8").output.strip()

    assert shown() == ("not started", "control (not started)")
    command(shop, "start", "checkout")
    state, variant = shown()
    assert (state.split(" 2")[0], variant) == ("running since", "new")
    command(shop, "stop", "checkout")
    state, variant = shown()
    assert state.endswith(", all units get control")
    assert variant == f"control ({state})"
    command(shop, "stop", "checkout", "--variant", "new")
    assert shown()[1].startswith("new (stopped since ")
    assert "all units get new" in command(shop, "ls").output


def test_a_variant_that_was_renamed_after_the_stop_is_not_given(shop):
    command(shop, "stop", "checkout", "--variant", "new")
    (shop / "shop.py").write_text(SHOP.replace('"new"', '"newer"'))
    assert live_experiment("checkout", shop).assign(1) == Assigned("control", takes_part=False)
    assert command(shop, "variant", "checkout", "1").output.startswith("control (stopped since ")


def test_what_is_no_unit_takes_no_part(shop):
    command(shop, "start", "checkout")
    running = live_experiment("checkout", shop)
    assert {running.assign(unit) for unit in (None, float("nan"))} == {Assigned("control", takes_part=False)}
    with pytest.raises(RequestError, match=r"a unit is not valid text: got '\\ud800'"):
        running.assign("\ud800")


def test_an_experiment_without_harm_goes_on(shop):
    (shop / "failures.csv").write_text("user_id,at\n")
    command(shop, "start", "checkout")
    assert stop_of(shop) == ("accepted", "the experiment goes on: no harm")


def test_units_that_do_not_take_part_get_the_control(shop):
    (shop / "shop.py").write_text(SHOP.replace('time="at",\n', 'time="at", traffic=0.2,\n', 1))
    command(shop, "start", "checkout")
    running = live_experiment("checkout", shop)
    assigned = [running.assign(unit) for unit in range(1000)]
    assert 150 < sum(each.takes_part for each in assigned) < 250
    assert {each.variant for each in assigned if not each.takes_part} == {"control"}


def test_a_state_that_cannot_be_read_keeps_the_last_one(shop, monkeypatch):
    monkeypatch.setattr(live, "FRESH_S", 0)
    command(shop, "start", "checkout")
    running = live_experiment("checkout", shop)
    before = running.assign(1)
    storage, file = Storage(load(shop).settings.lake), f"{FOLDER}checkout.json"
    storage.write_text(file, storage.read_text(file).replace('"format_version": 1', '"format_version": 9'))
    assert running.assign(1) == before
    with pytest.raises(StorageError, match="the state of experiment 'checkout' was written by a later version"):
        live_experiment("checkout", shop).assign(1)


def test_wrong_names_are_errors(shop):
    with pytest.raises(RequestError, match="'chekout' is not an experiment; did you mean 'checkout'"):
        live_experiment("chekout", shop)
    for words, problem in (
        (["start", "chekout"], "did you mean 'checkout'"),
        (["stop", "checkout", "--variant", "newer"], "has no variant 'newer'; did you mean 'new'"),
        (["start", "checkout", "--reason", " "], "--reason is empty"),
        (["stop", "checkout", "--reason", ""], "--reason is empty"),
    ):
        assert problem in str(command(shop, *words, code=1).exception)
    assert ExperimentStates(Storage(str(shop))).state("checkout") is None


def test_an_experiment_does_not_release_what_models_hold(shop):
    """It has no versions, so it cannot tell which are registered."""
    Runner(load(shop)).run()
    workspace = Workspace(load(shop))
    storage = workspace.table("exposures").storage
    place_hold(storage, Hold(artifact_hold("fraud", "1"), 0, "model fraud 1"))
    release_holds(workspace, "exposures")
    assert [hold.reason for hold in holds(storage)] == ["model fraud 1"]
