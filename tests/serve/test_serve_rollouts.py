"""A new version of a model takes over in steps, by what the served units did, and is withdrawn if it does harm."""

from __future__ import annotations

import csv
import random
import re
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from ml import model, outcome_metric, rollout
from ml.models import rolling_out
from ml.models.registry.model_store import ModelStore
from ml.models.registry.registry import ROLLOUT, Registry
from ml.models.registry.rollouts import Rollouts
from ml.models.registry.versions import ModelVersions
from ml.models.serving import Predictor
from pipeline.core.errors import DefinitionError, ModelError, StorageError
from pipeline.project import Workspace, load
from pipeline.runner.decide import RunOptions
from pipeline.runner.dry_run import plan_run
from serve.predictions import log as prediction_log
from serve.predictions import models
from tests.serve.test_serve_models import BAR, TOML, drinks
from tests.serve.test_serve_roles import run, versions

OPTIONS = """unit="guest", rollout=rollout("served", [
    outcome_metric("regrets", of="regrets", value="regretted::int", per_unit="mean", unit="guest", time="at", better="lower", guardrail=0.5),
], steps=(0.2, 0.5), every="0 s", units=100SHADOW)"""
REGRETS = outcome_metric("regrets", of="regrets", value="1", unit="guest", time="at")
NIGHTS = ("monday", "tuesday", "wednesday")
ROLLED_OUT = (
    BAR.replace("min_rows=50)\ndef mood", f"min_rows=50, {OPTIONS})\ndef mood").replace(
        "from ml import model, training_set",
        "from ml import outcome_metric, model, prediction_log, rollout, training_set",
    )
    + """
served = prediction_log("mood", "served")
regrets = source(files(Path(__file__).parent / "regrets/*.csv", required=False), schema={
    "guest": "bigint", "at": "timestamptz", "regretted": "boolean",
})
"""
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A project with a champion, and a version that waits for its rollout."""
    root = tmp_path_factory.mktemp("bar")
    (root / "headwater.toml").write_text(TOML)
    (root / "drinks.csv").write_text(drinks())
    define(root, "1.0")
    assert decision_of(run(root)) == ("skip", "no version of mood waits"), "the first version is the champion at once"
    define(root, "0.01")
    return root


def define(root, scale, shadow=""):
    (root / "bar.py").write_text(ROLLED_OUT.replace("SCALE", scale).replace("SHADOW", shadow))


@pytest.fixture
def bar(tmp_path, trained, at, monkeypatch):
    """A copy of the project, in which servers and rollouts see at once what has changed."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(models, "FRESH_S", 0.0)
    monkeypatch.setattr(prediction_log, "EVERY_S", 0.05)
    monkeypatch.setattr(rolling_out, "_SETTLES", timedelta())
    return at(tmp_path)


def decision_of(record):
    return next((step.decision, step.reason) for step in record.steps if step.name == "mood_rollout")


def serve(bar, rates, night, guests=600):
    """Serve guests, of which a share by version regrets it; return the versions with the number of their guests."""
    names = [10_000 * NIGHTS.index(night) + number for number in range(guests)]
    chance, counts = random.Random(1), {"1": 0, "2": 0}  # noqa: S311 - made-up guests
    folder = bar.root / "regrets"
    folder.mkdir(exist_ok=True)
    with bar.client() as client:
        answer = versions(client, names)
    used = answer.get("versions", [answer["version"]] * guests)
    with (folder / f"{night}.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["guest", "at", "regretted"])
        for name, version in zip(names, used, strict=True):
            counts[version] += 1
            rows.writerow([name, datetime.now(UTC).isoformat(), chance.random() < rates[version]])
    return counts


def roles_of(bar):
    roles = Registry(bar.project().settings.models).roles("mood")
    return {**roles.versions, "traffic": roles.traffic}


def decisions_of(bar):
    return [each.decision for each in Rollouts(bar.project().settings.models).decisions("mood")]


def test_a_version_without_harm_becomes_the_champion_step_by_step(bar):
    record = run(bar.root)
    assert next(step.reason for step in record.steps if step.name == "mood").endswith("it waits for its rollout")
    assert decision_of(record) == ("accepted", "version 2 predicts 20 % of the units: begins")
    assert roles_of(bar) == {"champion": "1", "challenger": "2", "traffic": 0.2}
    planned = plan_run(Workspace(load(bar.root)), RunOptions())
    assert {each.definition.name: each.decision.reason for each in planned}["mood_rollout"] == (
        "decides about the rollout of mood"
    )
    decision, reason = decision_of(run(bar.root))
    assert decision == "accepted"
    assert reason.startswith("version 2 predicts 20 % of the units: 0 units of each version, no harm in ")
    assert reason.endswith(", needs 100")
    counts = serve(bar, {"1": 0.2, "2": 0.2}, "monday")
    assert 90 <= counts["2"] <= 150
    assert decision_of(run(bar.root))[1].startswith(
        f"version 2 predicts 50 % of the units: {counts['2']} units of each"
    )
    assert roles_of(bar)["traffic"] == 0.5
    assert decision_of(run(bar.root))[1].startswith("version 2 predicts 50 % of the units: 0 units"), (
        "each step has its own units"
    )
    serve(bar, {"1": 0.2, "2": 0.2}, "tuesday")
    assert decision_of(run(bar.root))[1].startswith("version 2 is the champion: ")
    assert roles_of(bar) == {"champion": "2", "traffic": 0}
    assert decisions_of(bar) == ["is the champion", "predicts 50%", "predicts 20%"]
    last = run(bar.root)
    assert decision_of(last) == ("skip", "no version of mood waits")
    assert {step.decision for step in last.steps} == {"skip", "refused"}
    assert serve(bar, {"2": 0}, "wednesday", 10) == {"1": 0, "2": 10}


def test_a_version_that_does_harm_is_withdrawn_and_not_trained_again(bar):
    run(bar.root)
    serve(bar, {"1": 0.1, "2": 0.9}, "monday")
    decision, reason = decision_of(run(bar.root))
    assert decision == "refused"
    assert reason.startswith("version 2 is withdrawn: regrets: +")
    assert roles_of(bar) == {"champion": "1", "traffic": 0}
    again = run(bar.root)
    assert decision_of(again) == ("skip", "no version of mood waits")
    assert next(step.reason for step in again.steps if step.name == "mood").startswith(
        "version 2 withdrawn: rollout: regrets: +"
    )
    assert serve(bar, {"1": 0}, "tuesday", 10) == {"1": 10, "2": 0}


def test_a_version_that_fails_is_withdrawn_because_its_units_are_missing(bar, monkeypatch):
    run(bar.root)
    real = Predictor.predict

    def predict(self, rows):
        if self.version == "2":
            raise ModelError("the estimator returns NaN")
        return real(self, rows)

    monkeypatch.setattr(Predictor, "predict", predict)
    assert serve(bar, {"1": 0.1}, "monday")["2"] == 0
    decision, reason = decision_of(run(bar.root))
    assert decision == "refused"
    assert reason == ("version 2 is withdrawn: the units are not divided as they should be: champion 600; challenger 0")


def test_a_shadow_comes_before_the_first_step_and_says_how_often_it_differs(bar):
    define(bar.root, "0.01", ', shadow="0 s"')
    assert decision_of(run(bar.root))[1] == "version 2 is a shadow: begins"
    assert roles_of(bar) == {"champion": "1", "shadow": "2", "traffic": 0}
    serve(bar, {"1": 0}, "monday", 120)
    decision = decision_of(run(bar.root))[1]
    assert decision.startswith("version 2 predicts 20 % of the units: 120 rows mirrored, of which ")
    assert roles_of(bar) == {"champion": "1", "challenger": "2", "traffic": 0.2}, "it is no shadow any more"


def test_people_pause_and_end_a_rollout_and_a_killed_step_is_taken_again(bar):
    run(bar.root)
    store = ModelVersions(bar.project().settings.models)
    store.freeze("mood", "audit")
    paused = "version 2 predicts 20 % of the units: paused, because mood is frozen: audit"
    assert decision_of(run(bar.root)) == ("accepted", paused)
    store.unfreeze("mood")
    store.promote("mood", 2, "challenger", traffic=0.7)
    assert decision_of(run(bar.root))[1].startswith("version 2 predicts 20 % of the units: begins again")
    assert roles_of(bar)["traffic"] == 0.2
    store.release("mood", 2, "challenger")
    assert decision_of(run(bar.root))[1].startswith("version 2 predicts 20 % of the units: begins again")
    assert roles_of(bar)["challenger"] == "2"
    store.withdraw("mood", 2, "no")
    assert decision_of(run(bar.root)) == ("accepted", "the rollout of version 2 has ended: withdrawn: no")
    assert decisions_of(bar)[0] == "is not rolled out any more"
    assert roles_of(bar) == {"champion": "1", "traffic": 0}


def test_a_person_who_promotes_a_version_ends_its_rollout(bar):
    run(bar.root)
    store = ModelVersions(bar.project().settings.models)
    store.promote("mood", 2)
    assert decision_of(run(bar.root)) == ("accepted", "the rollout of version 2 has ended: version 2 is the champion")
    assert roles_of(bar) == {"champion": "2", "traffic": 0}
    assert decision_of(run(bar.root))[0] == "skip"


def test_a_metric_that_cannot_be_computed_is_an_error_and_changes_nothing(bar):
    text = (bar.root / "bar.py").read_text()
    (bar.root / "bar.py").write_text(text.replace("regretted::int", "regretted::varchar::double"))
    run(bar.root)
    serve(bar, {"1": 1, "2": 1}, "monday", 100)
    with pytest.raises(ModelError, match=r"the metrics of the rollout of 'mood' cannot be computed: got .*bar\.py:16"):
        run(bar.root)
    assert roles_of(bar) == {"champion": "1", "challenger": "2", "traffic": 0.2}


def test_people_who_choose_another_challenger_keep_it(bar):
    """The version is not rolled out again, and one that waits lets an experiment of others end first."""
    store = ModelVersions(bar.project().settings.models)
    define(bar.root, "0.02")
    waits = run(bar.root)
    assert decision_of(waits)[1] == "version 2 predicts 20 % of the units: begins"
    define(bar.root, "0.03")
    run(bar.root)
    store.promote("mood", 3, "challenger", traffic=0.5)
    decision = decision_of(run(bar.root))
    assert decision == ("accepted", "the rollout of version 2 has ended: version 3 is the challenger")
    assert roles_of(bar) == {"champion": "1", "challenger": "3", "traffic": 0.5}
    assert store.require("mood", 2).state == "not rolled out: version 3 is the challenger"
    define(bar.root, "0.04")
    assert decision_of(run(bar.root)) == ("accepted", "version 4 waits, because version 3 is the challenger")
    assert store.require("mood", 3).state == "", "of versions that wait, the newest does"
    store.release("mood", 3, "challenger")
    assert decision_of(run(bar.root))[1] == "version 4 predicts 20 % of the units: begins"


def test_a_model_without_its_rollout_ends_it(bar):
    run(bar.root)
    text = (bar.root / "bar.py").read_text()
    (bar.root / "bar.py").write_text(re.sub(r", rollout=rollout.*?units=100\)", "", text, flags=re.DOTALL))
    record = run(bar.root)
    assert next(step.decision for step in record.steps if step.name == "mood") == "accepted"
    assert roles_of(bar) == {"champion": "3", "traffic": 0}
    assert decisions_of(bar)[0] == "is not rolled out any more"


def test_harm_ends_a_rollout_that_is_paused(bar):
    run(bar.root)
    ModelVersions(bar.project().settings.models).freeze("mood", "audit")
    serve(bar, {"1": 0.1, "2": 0.9}, "monday")
    assert decision_of(run(bar.root))[0] == "refused"
    assert roles_of(bar) == {"champion": "1", "traffic": 0}


def test_a_shadow_that_predicts_nothing_is_withdrawn(bar, monkeypatch):
    define(bar.root, "0.01", ', shadow="0 s"')
    run(bar.root)
    real = Predictor.predict

    def predict(self, rows):
        if self.version == "2":
            raise ModelError("the estimator returns NaN")
        return real(self, rows)

    monkeypatch.setattr(Predictor, "predict", predict)
    serve(bar, {"1": 0}, "monday", 120)
    reason = "version 2 is withdrawn: as a shadow, it predicted none of 120 rows"
    assert decision_of(run(bar.root)) == ("refused", reason)


def test_outcomes_of_nobody_do_not_count_as_no_harm(bar):
    run(bar.root)
    serve(bar, {"1": 0.1, "2": 0.9}, "monday")
    file = bar.root / "regrets" / "monday.csv"
    rows = file.read_text().splitlines()
    file.write_text("\n".join([rows[0], *(f"77{row}" for row in rows[1:])]))
    decision, reason = decision_of(run(bar.root))
    assert decision == "accepted"
    assert reason.endswith(
        "but none of 600 rows of 'regrets' since then is of a unit that was predicted: compare 'guest' with the log"
    )
    assert roles_of(bar)["traffic"] == 0.2


def test_any_share_is_stored_exactly(bar):
    store = ModelVersions(bar.project().settings.models)
    run(bar.root)
    for share in (1 / 3, 0.1 + 0.2, 1e-7):
        store.promote("mood", 2, "challenger", traffic=share)
        assert roles_of(bar)["traffic"] == share


def test_what_is_under_way_must_be_readable(bar):
    run(bar.root)
    ModelStore(bar.project().settings.models).client().set_registered_model_tag("mood", ROLLOUT, "{}")
    with pytest.raises(StorageError, match=r"the tag 'headwater\.rollout' of a model cannot be read: got {}"):
        Rollouts(bar.project().settings.models).progress("mood")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": []}, r"a rollout needs metrics: got \[\]; pass \[outcome_metric"),
        ({"steps": ()}, "steps= of a rollout are not growing shares"),
        ({"steps": (0.5, 0.2)}, r"growing shares: got \(0\.5, 0\.2\)"),
        ({"steps": (0.5, 1)}, "growing shares"),
        ({"units": 99}, "units= of a rollout must be a whole number, at least 100: fewer show nothing: got 99"),
        ({"units": "1000"}, "units= of a rollout must be a whole number"),
        ({"metrics": REGRETS}, "a rollout needs metrics: got OutcomeMetric"),
        ({"metrics": ["regrets"]}, "a rollout needs metrics: got "),
        ({"metrics": [REGRETS, REGRETS]}, "two metrics of the rollout are named 'regrets'; rename one"),
        ({"steps": 0.5}, r"growing shares: got 0\.5"),
        ({"steps": ("5%",)}, "growing shares"),
        ({"every": 1}, "every= of a rollout is not a duration: got 1; pass a text"),
        ({"alpha": 1.5}, r"alpha= of a rollout must be between 0 and 1: got 1\.5"),
        ({"every": "soon"}, "every= is not a duration"),
    ],
)
def test_invalid_options_are_errors(options, message):
    with pytest.raises(DefinitionError, match=message):
        rollout(**{"log": "served", "metrics": [REGRETS], **options})


def test_a_model_with_a_rollout_has_units_and_no_other_approval():
    given = {"label": "happy", "holdout": 0.2, "at_least": 0.5, "rollout": rollout("served", [REGRETS])}
    with pytest.raises(DefinitionError, match=r"a rollout needs to know whose rows .*; pass unit="):
        model(**given)
    with pytest.raises(DefinitionError, match="a rollout decides which version is the champion, and so does a person"):
        model(**given, unit="guest", approval="manual")


def test_the_log_must_be_that_of_the_model(bar):
    define(bar.root, "1.0")
    text = (bar.root / "bar.py").read_text()
    (bar.root / "bar.py").write_text(text.replace('prediction_log("mood"', 'prediction_log("genius"'))
    with pytest.raises(
        DefinitionError,
        match="the rollout of 'mood' needs the log of its predictions, and 'served' is not that: got the log of 'genius'",
    ):
        load(bar.root)
    (bar.root / "bar.py").write_text(text.replace("regretted::int", "regretful::int"))
    with pytest.raises(DefinitionError, match="table 'regrets' has no column 'regretful'; did you mean 'regretted'"):
        load(bar.root)
    (bar.root / "bar.py").write_text(text.replace('rollout("served"', 'rollout("regrets"'))
    with pytest.raises(DefinitionError, match="'regrets' is not that: got a source"):
        load(bar.root)
