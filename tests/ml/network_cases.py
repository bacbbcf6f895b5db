"""Networks of PyTorch, run by `test_ml_torch.py` in a process that has it."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from ml.models.fitted import FittedModel
from ml.models.registry.versions import ModelVersions
from ml.models.reproduction import reproduce
from ml.models.serving import load_champion
from ml.models.stored_rows import Spooled
from ml.models.tasks import task_of
from ml.models.trainers import FitRequest, Torch, network_training
from ml.models.trainers.network import FittedNetwork
from ml.models.trainers.network_training import NetworkJob, TrainingWorker
from ml.models.trainers.tensors import ColumnScale, TensorEncoding
from pipeline.core.errors import ModelError, Place, StorageError
from pipeline.project import Workspace, load
from tests.ml import networks
from tests.ml.rows import CLASSES, KINDS, labelled, stored

SCORES = {"binary": "auc", "multiclass": "accuracy", "regression": "r2"}


def fit(trainer, task="binary", rows=None, **values):
    rows = labelled(task=task) if rows is None else rows
    return trainer.fit(FitRequest("m", rows, "y", task_of(task, CLASSES[task]), KINDS, values, Place("here.py", 1)))


def quality(network, task):
    rows = labelled(400, seed=1, task=task)
    fitted = FittedModel(network, task_of(task, CLASSES[task]), KINDS)
    return fitted.measure(rows.label.to_numpy(), fitted.predictions(rows.features), None)[SCORES[task]]


OPTIONS = {"epochs": 30, "batch_rows": 64, "learning_rate": 0.01}


@pytest.mark.parametrize("task", CLASSES)
def test_networks_learn_are_equal_each_time_and_survive_storage(task, tmp_path):
    network = fit(Torch(networks.plain, **OPTIONS), task)
    assert fit(Torch(networks.plain, **OPTIONS), task).weights == network.weights
    assert quality(network, task) > 0.7
    network.save(tmp_path)
    rows = labelled(50, seed=2, task=task).features
    method = "predict" if task == "regression" else "predict_proba"
    for again in (FittedNetwork.load(tmp_path), pickle.loads(pickle.dumps(network))):  # noqa: S301 - our own
        assert np.array_equal(getattr(again, method)(rows), getattr(network, method)(rows))
    assert fit(Torch(networks.plain, **OPTIONS), task, hidden=4).weights != network.weights
    (tmp_path / "network.safetensors").write_bytes(fit(Torch(networks.plain, epochs=1), task, hidden=4).weights)
    with pytest.raises(StorageError, match="the weights of a model do not fit the network 'plain'"):
        FittedNetwork.load(tmp_path)


@pytest.mark.parametrize("loss", ["squared", "absolute", "huber"])
def test_losses_of_numbers(loss):
    assert quality(fit(Torch(networks.plain, loss=loss, **OPTIONS), "regression"), "regression") > 0.7


def test_training_goes_on_from_the_state_after_an_epoch():
    rows = labelled()
    encoding = TensorEncoding.learned(rows, KINDS)
    job = NetworkJob(
        networks.plain, {"hidden": 8}, encoding.width, 1, "log_loss", "binary", ColumnScale(0, 1), 6, 100, 0.01
    )
    spooled = Spooled(encoding.matrix(rows.features), rows.label.to_numpy().astype(float))
    states = []
    whole = network_training.fit(job, spooled, TrainingWorker(after=lambda _, state: states.append(state)))
    assert [each["epoch"] for each in states] == [1, 2, 3, 4, 5, 6]
    for state in states[:-1]:
        assert network_training.fit(job, spooled, TrainingWorker(start=state)) == whole
    assert network_training.fit(replace(job, epochs=5), spooled) != whole


@pytest.mark.parametrize(
    ("network", "problem"),
    [
        (networks.none, r"the network 'none' did not return a torch\.nn\.Module: got NoneType"),
        (networks.wide, r"the network 'wide' must return 1 numbers for each row: got a tensor of shape \(2, 2\)"),
        (networks.raising, r"model 'm' could not be trained: ValueError: got no network of \d+ features.*here\.py:1"),
    ],
)
def test_networks_that_do_not_fit(network, problem):
    with pytest.raises(ModelError, match=problem):
        fit(Torch(network))


def test_a_loss_that_is_no_number_is_an_error():
    with pytest.raises(ModelError, match="the loss is not a number any more in epoch"):
        fit(Torch(networks.plain, learning_rate=1e20, epochs=9), "regression")


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_workers_fit_together_equal_weights_each_time(task, tmp_path):
    rows = stored(labelled(task=task), tmp_path, task)
    network = fit(Torch(networks.plain, workers=2, **OPTIONS), task, rows)
    assert quality(network, task) > 0.7
    if task == "binary":
        assert fit(Torch(networks.plain, workers=2, **OPTIONS), task, rows).weights == network.weights


def test_a_lost_worker_is_replaced_and_all_go_on_from_the_last_epoch(tmp_path):
    rows, flag = stored(labelled(), tmp_path), tmp_path / "flag"
    options = {"epochs": 6, "batch_rows": 64, "workers": 2}
    network = fit(Torch(networks.dying, **options), rows=rows, flag=str(flag))
    assert flag.exists(), "a worker was lost"
    assert network.weights == fit(Torch(networks.dying, **options), rows=rows).weights


MODEL = """
from tests.ml.networks import plain
from ml import Torch, model, predictions, tune, integers

def network(features, outputs, hidden=16):
    "A network of one layer."
    return plain(features, outputs, hidden)

lateness = model(
    "trips", Torch(network, epochs=5, learning_rate=0.01, batch_rows=128{workers}), label="late", split_at="2024-01-08", at_least=0.6,
    baseline="carrier", min_rows=100, calibrate="isotonic", segments="carrier",{tuning}
)
scores = predictions("lateness", on="trips", key="trip_id")
"""


@pytest.mark.parametrize(
    ("workers", "tuning"),
    [("", ""), ("", 'tuning=tune({"hidden": integers(4, 32)}, trials=2)'), (", workers=2", "")],
    ids=["plain", "tuned", "workers"],
)
def test_a_project_with_a_network(project, workers, tuning):
    project.define(MODEL.format(workers=workers, tuning=tuning))
    steps = {step.name: step for step in project.runner().run().steps}
    assert steps["lateness"].verdict.accepted, steps["lateness"].verdict.reason
    assert steps["scores"].decision != "failed"
    workspace = Workspace(load(project.root))
    version = ModelVersions(project.store).require("lateness", 1)
    assert version.tags["headwater.format"] == "network"
    assert reproduce(workspace, workspace.definition("lateness"), version).is_equal
    counts = workspace.query("select count(*) as n, min(probability) >= 0 as ok from scores", 60).to_pylist()
    assert counts == [{"n": 1400, "ok": True}]
    champion = load_champion(project.store, "lateness")
    assert 0 <= champion.predict([dict.fromkeys(champion.inputs)])[0]["probability"] <= 1
