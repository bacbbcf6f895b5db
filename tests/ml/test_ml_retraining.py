"""When a model is trained again, and against which champion."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from cluster.cli.models import app
from ml import retrain
from ml.models.evaluation import Evaluation
from ml.models.fitted import FittedModel
from ml.models.gain import bootstrapped_gains
from ml.models.holdout import Holdout
from ml.models.registry.versions import ModelVersions
from ml.models.retraining import LastTraining, alarmed_monitors, decision
from ml.models.rows import LabelledRows
from ml.models.tasks import task_of
from pipeline.core.errors import DefinitionError
from tests.ml.conftest import MODEL

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("options", "facts", "wanted"),
    [
        ({"new_rows": 100}, ("1d", 1099, []), (False, "not trained again: 99 of 100 new rows")),
        ({"new_rows": 100}, ("1d", 1100, []), (True, "100 new rows")),
        ({"new_rows": 100}, ("1d", 900, []), (False, "not trained again: 0 of 100 new rows")),
        ({"every": "7 days"}, ("6d", 9999, []), (False, "not trained again: 6 days of 7 days")),
        ({"every": "7 days"}, ("7d", 1000, []), (True, "the last training is 7 days ago")),
        ({"on": "drift"}, ("1d", 9999, []), (False, "not trained again: no alarm of drift")),
        ({"on": "drift"}, ("1d", 1000, ["drift: hour changed"]), (True, "alarm of drift: hour changed")),
        (
            {"every": "2 days", "new_rows": 10, "on": ("a", "b")},
            ("3d", 1010, ["b: x"]),
            (True, "alarm of b: x and 10 new rows and the last training is 3 days ago"),
        ),
        (
            {"new_rows": 10, "every": "9 days", "on": "a"},
            ("3d", 1001, []),
            (False, "not trained again: 1 of 10 new rows; 3 days of 9 days; no alarm of a"),
        ),
        (
            {"new_rows": 10, "cooldown": "4 days"},
            ("3d", 2000, []),
            (False, "not trained again before 2026-03-11 12:00 UTC, in spite of 1,000 new rows"),
        ),
        ({"new_rows": 10, "cooldown": "3 days"}, ("3d", 2000, []), (True, "1,000 new rows")),
    ],
)
def test_the_decision(options, facts, wanted):
    age, rows, alarms = facts
    last = LastTraining(NOW - timedelta(days=int(age[:-1])), 1000)
    assert decision(retrain(**options), last, NOW, rows, alarms) == wanted


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, r"a model with retrain=retrain\(\) is never trained again"),
        ({"cooldown": "1 day"}, "is never trained again; pass every="),
        ({"new_rows": 0}, "new_rows= must be a whole number, at least 1: got 0"),
        ({"every": "often"}, "every= is not a duration: got 'often'"),
    ],
)
def test_invalid_definitions(options, problem):
    with pytest.raises(DefinitionError, match=problem):
        retrain(**options)


def define(project, options, more="", model=MODEL):
    text = model.replace("min_rows=100", f"min_rows=100, {options}")
    project.define("from ml import retrain\nfrom pipeline import sql\n" + more + text)


def outcome(project):
    step = next(step for step in project.runner().run().steps if step.name == "lateness")
    return step.decision, step.reason


def test_new_rows_train_a_model_again_when_there_are_enough(project):
    define(project, "retrain=retrain(new_rows=300)")
    assert outcome(project)[0] == "accepted"
    project.add("february", first=1400, rows=200)
    assert outcome(project) == ("skip", "not trained again: 200 of 300 new rows")
    project.add("march", first=1600, rows=200)
    decided, reason = outcome(project)
    assert decided == "accepted"
    assert "; trained again because of 400 new rows; " in reason
    assert outcome(project) == ("skip", "up to date")

    project.add("april", first=1800, rows=10)
    define(project, "retrain=retrain(new_rows=300)", model=MODEL.replace("max_iter=1000", "max_iter=999"))
    decided, reason = outcome(project)  # a changed definition is always trained
    assert decided == "accepted"
    assert "trained again because" not in reason


def test_an_alarm_of_a_monitor_trains_a_model_again(project):
    monitor = (
        "drift = sql(\"select started_at::date as window_start, count(*) as n, if(count(*) > 60, 'alarm', 'quiet') as state, "
        "if(count(*) > 60, max(started_at)::date, null) as since, 'many trips' as reason from raw_trips group by all\")\n"
    )
    define(project, 'retrain=retrain(on="drift")', monitor)
    project.add("january", rows=1360)  # 40 on the last day
    assert outcome(project)[0] == "accepted"
    project.add("february", first=1360, rows=10)
    assert outcome(project) == ("skip", "not trained again: no alarm of drift")
    project.add("march", first=1370, rows=40)
    decided, reason = outcome(project)
    assert decided == "accepted"
    assert "trained again because of alarm of drift: many trips" in reason


def test_an_alarm_is_open_although_the_newest_window_has_too_few_rows():
    def alarmed(*rows):
        names = ("window_start", "state", "since", "reason")
        table = pa.table({name: [row[number] for row in rows] for number, name in enumerate(names)})
        return alarmed_monitors(SimpleNamespace(table={"drift": table}.get), ["drift"])

    alarm = (1, "alarm", 1, "brier 0.24, limit 0.17")
    assert alarmed((0, "quiet", None, ""), alarm, (2, "not judged", 1, "16 rows")) == ["drift: brier 0.24, limit 0.17"]
    assert alarmed(alarm, (2, "quiet", None, "")) == []
    assert alarmed(alarm, (None, "not judged", None, "5 rows without a time")) == ["drift: brier 0.24, limit 0.17"]
    assert alarmed((3, "not judged", 1, "16 rows")) == ["drift: 16 rows"]
    assert alarmed() == []


def test_a_frozen_model_stays(project):
    assert outcome(project)[0] == "accepted"
    arguments = ["lateness", "--project", str(project.root)]
    assert CliRunner().invoke(app, ["freeze", *arguments, "--reason", "audit"]).exit_code == 0
    project.add("february", first=1400, rows=200)
    define(project, "leaks=()")
    assert outcome(project) == ("skip", "frozen: audit")
    assert CliRunner().invoke(app, ["unfreeze", *arguments]).exit_code == 0
    assert outcome(project)[0] == "accepted"
    assert [each.number for each in ModelVersions(project.store).of("lateness")] == [2, 1]


def test_a_model_must_be_better_than_the_champion_on_the_same_rows(project):
    define(project, "min_gain=0.0")
    assert outcome(project)[0] == "accepted"
    worse = MODEL.replace('["hour", "load", "is_weekend"]', '["hour", "is_weekend"]').replace(
        'at_least=0.6, baseline="carrier"', 'at_least=0.5, baseline="hour"'
    )
    define(project, "min_gain=0.0", model=worse)
    decided, reason = outcome(project)
    assert decided == "refused"
    assert "against champion 1 on the same rows (90 % interval -" in reason
    assert "is below the minimum gain of 0" in reason
    define(project, "min_gain=-0.5", model=worse)
    assert outcome(project)[0] == "accepted"


def test_models_of_other_rows_or_labels_are_not_compared(project):
    define(project, "min_gain=0.0")
    assert outcome(project)[0] == "accepted"
    define(project, "min_gain=0.0", model=MODEL.replace("2024-01-08", "2024-01-05"))
    decided, reason = outcome(project)
    assert decided == "accepted"
    assert "not compared with the champion: version 1 was trained for another label, holdout or training set" in reason


def test_a_refused_model_is_not_trained_again_before_it_is_due(project):
    define(project, 'retrain=retrain(new_rows=500, cooldown="30 days")', model=MODEL.replace("0.6,", "0.99,"))
    assert outcome(project)[0] == "refused"
    assert "refused before" in outcome(project)[1]
    project.add("february", first=1400, rows=10)
    assert outcome(project) == ("skip", "not trained again: 10 of 500 new rows")


def test_freezing_holds_also_for_full_runs(project):
    assert outcome(project)[0] == "accepted"
    ModelVersions(project.store).freeze("lateness", "audit")
    step = next(step for step in project.runner(full=True).run().steps if step.name == "lateness")
    assert step.verdict.reason == "frozen: audit"
    assert [each.number for each in ModelVersions(project.store).of("lateness")] == [1]


def test_the_interval_of_a_gain_contains_the_truth_about_as_often_as_it_says():
    """Two noisy scores of one truth; the gain on very many rows is the truth."""
    task = task_of("regression")
    evaluation = Evaluation("y", Holdout(), "mae", 1, task="regression")
    models = (FittedModel(None, task, {}), FittedModel(None, task, {}))
    truth = 0.2 * np.sqrt(2 / np.pi)  # the mean absolute errors of noise of 1.0 and 1.2 differ by so much
    hits = 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        label = draw.normal(size=400)
        scores = [label + draw.normal(scale=scale, size=400) for scale in (1.0, 1.2)]
        none = pd.Series("", index=range(400))
        rows = LabelledRows(
            pd.DataFrame(index=range(400)), pd.Series(label), none, none, pd.DataFrame(index=range(400))
        )
        low, gain, high = bootstrapped_gains(models, rows, scores, evaluation)
        assert low <= gain <= high
        hits += low <= truth <= high
    assert 46 <= hits <= 60  # 54 expected
