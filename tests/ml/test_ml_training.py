"""Models trained by real runs of a small project, with MLflow on SQLite."""

from __future__ import annotations

import mlflow
import pytest

from ml.models.registry.registry import Registry
from pipeline.core.errors import DefinitionError, ModelError, StorageError
from pipeline.lake.holds import Hold, holds, place_hold, release_hold
from pipeline.project import Workspace, load
from pipeline.project.holds import release_holds

REFUSED = {"at_least=0.6": "at_least=0.99"}


def client(project) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=project.store, registry_uri=project.store)


def champion(project):
    return client(project).get_model_version_by_alias("lateness", "champion")


def logged(project):
    experiment = client(project).get_experiment_by_name("lateness")
    return client(project).search_runs([experiment.experiment_id])


def test_a_good_model_is_accepted_registered_and_becomes_champion(project, capfd):
    step = project.run()

    verdict = step.verdict
    assert (step.decision, verdict.accepted, verdict.version, verdict.uri) == (
        "accepted",
        True,
        "1",
        "models:/lateness/1",
    )
    assert "better than the baseline's" in verdict.reason
    assert "140 rows without 'late' were excluded" in verdict.reason
    assert verdict.rows == 1400
    assert verdict.metrics["auc"] > max(0.6, verdict.metrics["baseline_auc"])
    assert verdict.metrics["training_rows"] + verdict.metrics["holdout_rows"] + 140 == 1400
    assert champion(project).version == 1
    assert capfd.readouterr() == ("", "")  # MLflow prints nothing


def test_a_registered_model_holds_the_version_it_was_trained_on(project):
    project.run()
    table = Workspace(load(project.root)).table("trips")
    assert [(hold.id, hold.version, hold.reason) for hold in holds(table.storage)] == [
        ("model-lateness-1", table.number(), "model lateness 1")
    ]
    registry = Registry(project.store)
    assert registry.versions("lateness") == {"1"}
    assert registry.versions("another") == frozenset()
    workspace = Workspace(load(project.root))
    release_holds(workspace, "trips")
    assert len(holds(table.storage)) == 1

    release_hold(table.storage, "model-lateness-1")  # as if the process was killed before it placed the hold
    assert project.run().decision == "skip"
    assert [(hold.id, hold.version) for hold in holds(table.storage)] == [("model-lateness-1", table.number())]
    place_hold(table.storage, Hold("model-lateness-1", 0, "an earlier version with the same rows"))
    project.run()
    assert [hold.version for hold in holds(table.storage)] == [0]

    client(project).delete_model_version("lateness", "1")
    assert registry.versions("lateness") == frozenset()
    release_holds(workspace, "trips")
    assert holds(table.storage) == ()


def test_run_records_how_the_model_was_trained(project):
    runner = project.runner()
    runner.run()

    (run,) = logged(project)
    assert run.info.status == "FINISHED"
    assert run.data.params["holdout"] == "rows from 2024-01-08 00:00 on"
    assert run.data.params["baseline"] == "carrier"
    trips = Workspace(load(project.root)).require("trips")
    assert run.data.tags["headwater.inputs"] == f'{{"trips": {trips.manifest_id}}}'
    assert run.data.tags["headwater.run"] == runner.run_id
    assert run.data.tags["headwater.fingerprint"] == load(project.root).graph["lateness"].fingerprint
    assert {"auc", "baseline_auc", "log_loss", "brier", "average_precision", "accuracy"} <= set(run.data.metrics)
    assert run.info.artifact_uri.startswith((project.root / ".headwater" / "mlflow").as_uri())
    saved = mlflow.models.Model.load(f"{run.info.artifact_uri.removeprefix('file://')}/model")
    assert saved.signature.inputs.input_names() == ["carrier", "hour", "load", "is_weekend", "seen_at"]
    assert saved.metadata["features"]["hour"] == "integer"


def test_same_rows_and_code_give_the_same_metrics(project):
    project.define(
        **{
            "LogisticRegression(max_iter=1000)": "SGDClassifier(loss='log_loss')",
            "import LogisticRegression": "import SGDClassifier",
        }
    )
    first = project.run().verdict

    again = project.run(full=True).verdict

    assert again.metrics == first.metrics
    assert again.version == "2"


def test_up_to_date_model_is_not_retrained(project):
    project.run()

    step = project.run()

    assert (step.decision, step.reason) == ("skip", "up to date")
    assert len(logged(project)) == 1


@pytest.mark.parametrize("change", ["data", "code", "options"])
def test_relevant_change_retrains_a_model(project, change):
    project.run()

    if change == "data":
        project.add("february", first=1400, rows=100)
    elif change == "code":
        project.define(**{"max_iter=1000": "max_iter=999"})
    else:
        project.define(**{"at_least=0.6": "at_least=0.61"})

    step = project.run()
    assert (step.decision, step.verdict.version) == ("accepted", "2")
    assert champion(project).version == 2


def test_rejected_model_is_logged_and_the_champion_stays(project):
    project.run()
    project.define(**REFUSED)

    runner = project.runner()
    run = runner.run()

    verdict = run.steps[-1].verdict
    assert (run.status, run.steps[-1].decision) == ("refused", "refused")
    assert (verdict.accepted, verdict.version) == (False, "")
    assert verdict.reason.startswith(f"auc {verdict.metrics['auc']:.4f} is below 0.99")
    assert verdict.uri.startswith("runs:/")
    assert len(logged(project)) == 2
    assert champion(project).version == 1


def test_rejected_model_is_retrained_only_after_a_change(project):
    project.define(**REFUSED)
    first = project.run()
    again = project.runner().run()

    assert (again.status, again.steps[-1].decision) == ("refused", "refused")  # the rejection is reported again
    assert again.steps[-1].reason.endswith("change its inputs or its definition, or use --full")
    assert again.steps[-1].verdict == first.verdict
    assert len(logged(project)) == 1  # but the model is not retrained

    assert project.run(full=True).decision == "refused"
    assert len(logged(project)) == 2
    project.define(**{"at_least=0.6": "at_least=0.98"})
    project.run()
    assert len(logged(project)) == 3
    project.add("february", first=1400)
    project.run()
    project.run()
    assert len(logged(project)) == 4


def test_good_model_is_accepted_after_a_rejected_one(project):
    project.define(**REFUSED)
    project.run()
    project.define()
    assert project.run().decision == "accepted"
    assert project.run().decision == "skip"


def test_model_that_does_not_beat_the_baseline_is_rejected(project):
    learns_nothing = """
@model(label="late", split_at="2024-01-08", at_least=0.5, baseline="carrier", min_rows=100)
def lateness(trips):
    from sklearn.dummy import DummyClassifier
    return DummyClassifier().fit(trips, trips["late"])
"""
    project.define(learns_nothing)

    verdict = project.run().verdict

    assert not verdict.accepted
    baseline = verdict.metrics["baseline_auc"]
    assert verdict.reason.startswith(f"auc 0.5000 is no better than the baseline's {baseline:.4f}")
    assert Registry(project.store).origin("lateness") is None


@pytest.mark.parametrize(
    ("old", "new", "kind", "message"),
    [
        ("min_rows=100", "min_rows=5000", ModelError, r"too few training rows.*got 605, not 5,000"),
        ("2024-01-08", "2024-01-15", ModelError, r"too few holdout rows.*from 2024-01-15 00:00 on: got 50, not 100"),
        (
            'label="late"',
            'label="lat"',
            DefinitionError,
            r"label 'lat' is not a column of 'trips'; did you mean 'late'",
        ),
        ('="carrier"', '="carier"', DefinitionError, r"baseline 'carier' is not a column .*; did you mean 'carrier'"),
        (
            "(trips):",
            "(raw_trips):",
            DefinitionError,
            r"is trained on 'raw_trips', which is not a training set: got a source",
        ),
        ('"hour", ', '"our", ', ModelError, r"'lateness' could not be trained: ValueError.*our.*trips_project.py:\d+"),
        (
            "return make",
            "raise SystemExit(0)\n    return make",
            ModelError,
            r"'lateness' could not be trained: SystemExit",
        ),
        ("return make", "return 'a', make", ModelError, r"did not return a classifier: got tuple.*predict_proba"),
        (".fit(trips, late)", "", ModelError, r"the estimator cannot predict these rows: NotFittedError"),
        ('label="late"', 'label="load"', ModelError, r"label 'load' is neither a boolean nor 0 and 1: got double"),
    ],
)
def test_training_that_is_impossible_has_a_reason(project, old, new, kind, message):
    project.define(**{old: new})

    with pytest.raises(kind, match=message):
        project.run()


def test_an_error_names_the_line_that_raised_it(project):
    project.define(
        '@model(label="late", split_at="2024-01-08", at_least=1, min_rows=1)\ndef lateness(trips):\n    trips["nope"]\n'
    )
    line = (project.root / "trips_project.py").read_text().splitlines().index('    trips["nope"]') + 1

    with pytest.raises(ModelError, match=rf"KeyError: got 'nope' .*trips_project.py:{line}\)"):
        project.run()


OWN_CLASSIFIER = """
import threading
import numpy as np

class Constant:
    def __init__(self, probabilities, kept=None):
        self.probabilities, self.kept = probabilities, kept
    def predict_proba(self, rows):
        return np.tile(self.probabilities, (len(rows), 1))

@model(label="late", split_at="2024-01-08", at_least=0.6, min_rows=1)
def lateness(trips):
    return Constant([0.5, 0.5])
"""


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        ("[0.1, 0.2, 0.7]", r"must return two probabilities per row: got an array of shape \(.*, 3\); return .*py:\d+"),
        ("[-1, 2]", r"must return two probabilities per row: got values outside 0 to 1"),
        ("[np.nan, np.nan]", r"must return two probabilities per row: got values outside 0 to 1"),
        (
            "[0.5, 0.5], threading.Lock()",
            r"estimator of model 'lateness' cannot be stored: got Constant: .*pickle.*lock",
        ),
    ],
)
def test_unusable_estimator_is_rejected_with_the_reason(project, estimator, message):
    project.define(OWN_CLASSIFIER, **{"[0.5, 0.5]": estimator})

    with pytest.raises(ModelError, match=message):
        project.run()


def test_reading_the_champion_writes_nothing(tmp_path):
    assert Registry(f"sqlite:///{tmp_path}/new/mlflow.db").origin("lateness") is None
    assert list(tmp_path.iterdir()) == []


def test_unusable_store_is_reported_immediately(project, monkeypatch):
    (project.root / "a_file").touch()
    monkeypatch.setenv("HEADWATER_MODELS", f"sqlite:///{project.root}/a_file/mlflow.db")

    with pytest.raises(StorageError, match=r"the model store sqlite:.*a_file/mlflow.db cannot be used: got .*; check"):
        project.run()


def test_unreachable_server_is_reported_immediately_without_its_password(project, monkeypatch):
    monkeypatch.setenv("HEADWATER_MODELS", "http://me:secret@127.0.0.1:9/")

    with pytest.raises(StorageError, match=r"the model store http://127.0.0.1:9/ cannot be used: got .*refused"):
        project.run()
