"""Hyperparameters are tuned on Ray Tune: the winner is the best of what was tried, and no trial sees the holdout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta

import pytest
import ray
from sklearn.linear_model import LogisticRegression

from ml import LightGBM, XGBoost, choice, integers, loguniform, model, tune, uniform
from ml.models.registry.registry import VALUES
from ml.models.registry.versions import ModelVersions
from ml.models.reproduction import reproduce
from ml.models.rows import TrainTestSplit
from ml.models.tasks import task_of
from ml.models.trainers import FitRequest
from ml.models.tuning.definition import Choice, Range, Tuning
from ml.models.tuning.search import search as search_of
from pipeline.core.errors import DefinitionError, ModelError
from pipeline.project import Workspace, load
from tests.ml.rows import KINDS, labelled


def parts(rows=1500):
    train = labelled(rows)
    return TrainTestSplit(train, labelled(300, seed=9), KINDS, task_of("binary", (0, 1)), rows, 0, 0)


def logistic(visits, strength=1.0, kind="l2"):
    assert len(visits) < 1500, "a trial sees only a part of the training rows"
    if kind == "broken":
        raise ValueError("this kind is broken")
    if kind == "too large":
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory ends
    label = visits.pop("y")
    return _Numbers(LogisticRegression(C=strength).fit(visits[["x", "noise"]].fillna(0), label))


class _Numbers:
    def __init__(self, inner):
        self.inner = inner

    def predict_proba(self, rows):
        return self.inner.predict_proba(rows[["x", "noise"]].fillna(0))


def define(tuning, function=logistic):
    return model(label="y", holdout=0.2, metric="log_loss", at_least=1, tuning=tuning)(function)


def search(definition, folder, rows=1500):
    return search_of(definition, definition.tuning, parts(rows), folder)


@pytest.fixture(autouse=True, scope="module")
def no_ray_afterwards():
    yield
    ray.shutdown()


def test_the_best_values_win_and_a_failed_trial_is_known(tmp_path):
    """The first trial has the defaults; a strength of nearly 0 predicts the mean, and one kind raises."""
    tuning = tune({"strength": choice(1e-9, 1.0), "kind": choice("l2", "broken")}, trials=6)
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    values, trials = search(define(tuning), tmp_path / "one")
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == handlers
    assert trials[0].values == {"strength": 1.0, "kind": "l2"}
    assert values == {"strength": 1.0, "kind": "l2"}
    failed = [trial for trial in trials if trial.metric is None]
    assert {trial.values["kind"] for trial in failed} == {"broken"}
    assert all("this kind is broken" in trial.error for trial in failed)
    best = min(trial.metric for trial in trials if trial.metric is not None)
    assert next(trial.metric for trial in trials if trial.values == values) == best
    assert not (tmp_path / "one").exists(), "what a search needs to go on is removed at its end"


def test_trials_of_boosting_are_stopped_early(tmp_path):
    tuning = tune({"learning_rate": loguniform(1e-5, 0.3), "num_leaves": integers(4, 31)}, trials=6, concurrent=1)
    definition = model("visits", LightGBM(rounds=30), label="y", holdout=0.2, at_least=0.5, tuning=tuning).named("m")
    values, trials = search(definition, tmp_path / "two")
    assert len(trials) == 6
    assert min(trial.steps for trial in trials) < max(trial.steps for trial in trials) == 10
    assert 4 <= values["num_leaves"] <= 31
    ended = [trial for trial in trials if trial.steps == 10]
    assert max(trial.metric for trial in ended) == next(t.metric for t in trials if dict(t.values) == values)


def evolving(library, trials, rounds, **options):
    space = {"learning_rate": loguniform(1e-6, 0.3), "max_depth": integers(2, 5), "grow": choice(*range(3, 9))}
    space["max_leaves" if library is XGBoost else "num_leaves"] = space.pop("grow")
    tuning = tune(space, trials=trials, scheduler="pbt", **options)
    return model("visits", library(rounds=rounds), label="y", holdout=0.2, at_least=0.5, tuning=tuning).named("m")


def check_evolved(definition, values, trials, rows=1500):
    """The winner's values, stage by stage, give its trees, and are in the space; trials that were behind went on from others."""
    train = parts(rows).train
    held_out = definition.evaluation.holdout.validation(train)
    request = FitRequest("m", train.where(~held_out), "y", task_of("binary", (0, 1)), KINDS, values, definition.place)
    trees = definition.trainer.fit(request)
    rest = train.where(held_out)
    auc = task_of("binary", (0, 1)).measure(rest.label.to_numpy(), trees.predict_proba(rest.features)[:, 1])["auc"]
    best = max(trial.metric for trial in trials)
    changed = [trial for trial in trials if any(isinstance(value, list) for value in trial.values.values())]
    assert changed, "no trial went on from another one"
    tolerance = 0 if any(isinstance(value, list) for value in values.values()) else 1e-6
    assert auc == pytest.approx(best, abs=tolerance)
    for trial in trials:
        for name, space in definition.tuning.space.items():
            value = trial.values[name]
            each = value if isinstance(value, list) else [value]
            assert all(space.has(one) for one in each), (name, value)
            if name != "learning_rate":
                assert all(isinstance(one, int) for one in each)


def test_trials_that_are_behind_go_on_from_the_trees_of_better_ones(tmp_path):
    definition = evolving(LightGBM, 4, 6)
    values, trials = search(definition, tmp_path / "pbt")
    assert [trial.steps for trial in trials] == [6] * 4
    assert {trial.error for trial in trials} == {""}
    check_evolved(definition, values, trials)


@pytest.mark.proof
@pytest.mark.parametrize("library", [LightGBM, XGBoost])
def test_a_population_is_better_than_its_worst_members_alone(tmp_path, library):
    definition = evolving(library, 8, 60)
    values, trials = search(definition, tmp_path / "pbt")
    check_evolved(definition, values, trials)
    alone = replace(definition, tuning=replace(definition.tuning, scheduler="all"))
    _, plain = search(alone, tmp_path / "all")
    evolved, fixed = sorted(t.metric for t in trials), sorted(t.metric for t in plain)
    assert evolved[0] > fixed[0], "the worst trial went on from a better one"
    assert evolved[-1] > fixed[-1] - 0.01
    few = evolving(library, 3, 4)
    assert {trial.steps for trial in search(few, tmp_path / "few")[1]} == {4}


@pytest.mark.proof
def test_all_trials_fail(tmp_path):
    with pytest.raises(ModelError, match=r"all trials of model 'logistic' failed: got .*this kind is broken"):
        search(define(tune({"kind": choice("broken")}, trials=2)), tmp_path / "three")


@pytest.mark.proof
def test_a_trial_whose_process_is_killed_fails_alone(tmp_path):
    tuning = tune({"kind": choice("l2", "too large")}, trials=4, concurrent=1)
    values, trials = search(define(tuning), tmp_path / "five")
    assert values == {"kind": "l2"}
    killed = [trial for trial in trials if trial.values["kind"] == "too large"]
    assert killed
    assert all(trial.metric is None and trial.error for trial in killed)


@pytest.mark.proof
@pytest.mark.parametrize("options", [{"algorithm": "optuna"}, {"folds": 3}, {"scheduler": "all"}, {"budget": "1 hour"}])
def test_algorithms_folds_and_budgets(tmp_path, options):
    tuning = tune({"strength": loguniform(1e-9, 1)}, trials=4, **options)
    values, trials = search(define(tuning), tmp_path / "four")
    assert len(trials) == 4
    assert values["strength"] > 1e-3
    assert max(trial.steps for trial in trials) == options.get("folds", 10)


@pytest.mark.proof
def test_a_budget_ends_the_search(tmp_path):
    def slow(visits, strength=1.0):
        time.sleep(5)
        return logistic(visits, strength)

    begin = time.monotonic()
    _, trials = search(
        define(tune({"strength": uniform(0.1, 1)}, trials=100, budget="15 seconds"), slow), tmp_path / "s"
    )
    assert time.monotonic() - begin < 90
    assert 0 < len([trial for trial in trials if trial.metric is not None]) < 100


KILLED = """
import sys, time
from pathlib import Path
from ml import tune, uniform
from tests.ml import test_ml_tuning as here

MARKS = sys.argv[2] if __name__ == "__main__" else ""

def counted(visits, strength=1.0):
    Path(MARKS, str(strength)).touch()
    time.sleep(2)
    return here.logistic(visits, strength)

if __name__ == "__main__":
    tuning = tune({"strength": uniform(0.1, 1)}, trials=8, concurrent=2)
    values, trials = here.search(here.define(tuning, counted), Path(sys.argv[1]))
    print("ended", len(trials), len({trial.values["strength"] for trial in trials}))
"""


@pytest.mark.proof
def test_a_search_that_is_killed_goes_on_where_it_was(tmp_path):
    program, marks = tmp_path / "program.py", tmp_path / "marks"
    program.write_text(KILLED)
    marks.mkdir()
    command = [sys.executable, str(program), str(tmp_path / "search"), str(marks)]
    with subprocess.Popen(command, env=os.environ, start_new_session=True) as process:
        ends = time.monotonic() + 240
        while len(list(marks.iterdir())) < 5 and time.monotonic() < ends:
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)
    before = len(list(marks.iterdir()))
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True, timeout=300)
    assert "ended 8 8" in done.stdout
    assert before >= 5
    assert len(list(marks.iterdir())) <= 8 + 2, "trials that had ended were run again"


EVOLVED = """
from ml import LightGBM, loguniform, model, tune

lateness = model(
    "trips", LightGBM(rounds=20), label="late", split_at="2024-01-08", metric="log_loss", at_least=1, min_rows=100,
    tuning=tune({"learning_rate": loguniform(1e-3, 0.03)}, trials=8, scheduler="pbt"),
)
"""


@pytest.mark.proof
def test_a_run_fits_the_steps_of_the_winner_and_a_version_is_reproduced_by_them(project):
    project.define(EVOLVED)
    assert project.run().decision == "accepted"
    workspace, version = Workspace(load(project.root)), ModelVersions(project.store).require("lateness", 1)
    values = json.loads(version.tags[VALUES])
    rates = values["learning_rate"]  # a number if the winner never went on from another trial
    assert not isinstance(rates, list) or len(rates) == 10
    assert reproduce(workspace, workspace.definition("lateness"), version).is_equal, values
    assert project.run().decision == "skip"


EVOLVING = """
import sys
from pathlib import Path
from ml import LightGBM
from ml.models.trainers.boosting import Boosting
from tests.ml import test_ml_tuning as here

class Counted(LightGBM):
    marks = ""

    def fit(self, request):
        import time, uuid
        start = 0 if request.start is None else request.start.trees.decode().count("Tree=")
        Path(self.marks, f"{start} {uuid.uuid4().hex}").touch()
        time.sleep(0.3)
        return super().fit(request)

if __name__ == "__main__":
    definition = here.evolving(LightGBM, 4, 30)
    trainer = Counted(rounds=30)
    object.__setattr__(trainer, "marks", sys.argv[2])
    values, trials = here.search(here.replace(definition, trainer=trainer), Path(sys.argv[1]))
    here.check_evolved(definition, values, trials)
    print("ended", [trial.steps for trial in trials], [trial.error for trial in trials])
"""


@pytest.mark.proof
def test_a_population_that_is_killed_goes_on_from_its_checkpoints(tmp_path):
    program, marks = tmp_path / "program.py", tmp_path / "marks"
    program.write_text(EVOLVING)
    marks.mkdir()
    command = [sys.executable, str(program), str(tmp_path / "search"), str(marks)]
    with subprocess.Popen(command, env=os.environ, start_new_session=True) as process:
        ends = time.monotonic() + 240
        while len(list(marks.iterdir())) < 20 and time.monotonic() < ends:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    before = {mark.name for mark in marks.iterdir()}
    assert len(before) >= 20
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=False, timeout=300)
    assert "ended [10, 10, 10, 10] ['', '', '', '']" in done.stdout, done.stderr[-3000:]
    again = [name for mark in marks.iterdir() if (name := mark.name) not in before]
    begun = [name for name in again if name.startswith("0 ")]
    assert len(begun) < 4, "trials began again"


def test_ranges_and_options():
    assert tune({"a": uniform(0, 1)}, trials=3) == Tuning(
        {"a": Range(0, 1, "linear")}, 3, "random", "asha", None, 1, None, 1
    )
    assert choice("a", 2) == Choice(("a", 2))
    assert tune({"a": integers(1, 3)}, trials=1, budget="2 minutes").budget == timedelta(minutes=2)


PBT = {
    "label": "y",
    "at_least": 0.5,
    "holdout": 0.2,
    "tuning": tune({"learning_rate": uniform(0.1, 0.2)}, trials=2, scheduler="pbt"),
}


@pytest.mark.parametrize(
    ("define_it", "problem"),
    [
        (lambda: uniform(1, 0), "a range must be rising: got 1 to 0"),
        (lambda: loguniform(0, 1), "a range must be above 0 and rising: got 0 to 1"),
        (lambda: integers(0.5, 2), r"a range is between two numbers: got 0\.5"),
        (choice, "choice\\(…\\) has no values"),
        (lambda: tune({}, trials=1), "nothing is tuned"),
        (lambda: tune({"a": [1, 2]}, trials=1), r"the values of 'a' are unknown: got \[1, 2\]; use uniform"),
        (lambda: tune({"a": choice(1)}, trials=0), "trials= must be a whole number, at least 1: got 0"),
        (lambda: tune({"a": choice(1)}, trials=1, folds=0), "folds= must be a whole number"),
        (lambda: tune({"a": choice(1)}, trials=1, cpus=0), "cpus= must be above 0"),
        (lambda: tune({"a": choice(1)}, trials=1, algorithm="tpe"), "unknown algorithm 'tpe'"),
        (lambda: tune({"a": choice(1)}, trials=1, scheduler="pbtt"), "unknown scheduler 'pbtt'; did you mean 'pbt'"),
        (
            lambda: tune({"rounds": integers(1, 9)}, trials=2, scheduler="pbt"),
            "rounds does not apply to scheduler='pbt': got all trials have the same number of rounds; remove it from the space",
        ),
        (lambda: tune({"a": choice(1)}, trials=2, scheduler="pbt", folds=2), "folds does not apply.*remove folds="),
        (lambda: tune({"a": choice(1)}, trials=2, scheduler="pbt", algorithm="optuna"), "algorithm does not apply"),
        (lambda: tune({"a": choice(1)}, trials=2, scheduler="pbt", concurrent=1), "concurrent does not apply"),
        (
            lambda: define(tune({"strength": choice(1.0)}, trials=2, scheduler="pbt")),
            "the function `logistic` cannot go on from the checkpoint of another trial, which scheduler='pbt' needs; use LightGBM",
        ),
        (lambda: model("v", LightGBM(workers=2), **PBT), "LightGBM cannot go on from the checkpoint of another trial"),
        (lambda: model("v", XGBoost(stop_after=2), **PBT), "XGBoost cannot go on from the checkpoint of another trial"),
        (
            lambda: define(tune({"depth": choice(1)}, trials=1)),
            "'depth' is tuned, but it is no parameter of the function",
        ),
    ],
)
def test_invalid_definitions(define_it, problem):
    with pytest.raises(DefinitionError, match=problem):
        define_it()
