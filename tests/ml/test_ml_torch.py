"""Networks of PyTorch: their definition and their numbers without it, and its own environment for what needs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ml import Torch, model
from ml.models.registry.stored_models import FittedNetwork
from ml.models.rows import typed
from ml.models.tasks import task_of
from ml.models.trainers import FitRequest
from ml.models.trainers.encoding import FeatureEncoding
from ml.models.trainers.tensors import ColumnScale, TensorEncoding
from pipeline.core.errors import DefinitionError, Place, SourceError, StorageError
from pipeline.kernel.frames import arrow_of_pandas
from tests.ml import networks
from tests.ml.rows import KINDS, labelled, stored

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / ".peers-torch" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


class Network:
    def __call__(self, features, outputs):
        """Be no function."""


@pytest.mark.parametrize(
    ("define", "problem"),
    [
        (lambda: Torch(Network()), "Torch takes a function that builds a network: got <"),
        (
            lambda: Torch(lambda features, outputs: (features, outputs)),
            "a stored model names its network: got <lambda>",
        ),
        (
            lambda: Torch(labelled),
            r"are features and outputs.*got labelled\(rows, seed, task\); pass a function such as",
        ),
        (lambda: Torch(named), "the network 'named' has a parameter 'epochs' that is no hyperparameter of its own"),
        (lambda: Torch(needing), "the network 'needing' has a parameter 'width' that is no hyperparameter of its own"),
        (lambda: Torch(networks.plain, epochs=0), "epochs= must be a whole number, at least 1: got 0"),
        (lambda: Torch(networks.plain, batch_rows=True), "batch_rows= must be a whole number, at least 1: got True"),
        (lambda: Torch(networks.plain, workers=-1), "workers= must be a whole number, at least 0: got -1"),
        (lambda: Torch(networks.plain, learning_rate=float("nan")), "learning_rate= must be a number above 0: got nan"),
        (lambda: of_task("regression", loss="huge"), "unknown loss 'huge' of a regression task"),
        (lambda: of_task("regression", loss="hubre"), "did you mean 'huber'"),
        (lambda: of_task("binary", loss="huber"), "unknown loss 'huber' of a binary task"),
        (lambda: of_task("ranking"), "Torch does not fit ranking tasks"),
    ],
)
def test_invalid_definitions(define, problem):
    with pytest.raises(DefinitionError, match=problem):
        define()


def of_task(task, **options):
    split = {"split_by": "x"} if task == "ranking" else {"holdout": 0.2}
    return model("v", Torch(networks.plain, **options), label="y", task=task, at_least=1, **split)


def named(features, outputs, epochs=3):
    """Have a hyperparameter of the trainer."""


def needing(features, outputs, width):
    """Have a parameter without a default."""


def test_hyperparameters_and_fingerprint():
    trainer = Torch(networks.plain, epochs=3)
    assert trainer.hyperparameters == {"epochs": 3, "batch_rows": 1024, "learning_rate": 0.001, "hidden": 16}
    others = [{}, {"batch_rows": 5}, {"learning_rate": 0.1}, {"loss": "huber"}, {"workers": 2}, {"epochs": 4}]
    assert len({Torch(networks.plain, **each).fingerprint for each in others}) == len(others)
    assert Torch(networks.wide).fingerprint != Torch(networks.plain).fingerprint
    assert (Torch(networks.plain).has_workers, Torch(networks.plain, workers=1).has_workers) == (False, True)


@pytest.mark.skipif("torch" in sys.modules, reason="PyTorch is installed here")
def test_without_pytorch_the_error_names_the_extra():
    request = FitRequest("m", labelled(), "y", task_of("binary", (0, 1)), KINDS, {}, Place("here.py", 1))
    with pytest.raises(SourceError, match=r"a model of Torch needs an extra.*pip install 'headwater\[torch\]'"):
        Torch(networks.plain).fit(request)


def test_numbers_are_standardized_and_missing_ones_told():
    rows = labelled(300)
    encoding = TensorEncoding.learned(rows, KINDS)
    assert encoding.missing == ("x",)
    assert encoding.codes.categories == {"city": ("Köln", "Ulm", "a:b,c")}
    matrix = encoding.matrix(rows.features)
    assert (matrix.shape, matrix.dtype) == ((300, encoding.width), np.float32)
    assert encoding.width == 7  # x, whether it is missing, three cities, a time and noise
    known = ~rows.features["x"].isna().to_numpy()
    assert matrix[known, 0].mean() == pytest.approx(0, abs=1e-4)
    assert matrix[known, 0].std() == pytest.approx(1, abs=1e-4)
    assert (matrix[~known, 0] == 0).all()
    assert (matrix[:, 1] == ~known).all()
    assert (matrix[:, 2:5].sum(axis=1) == 1).all()
    strange = rows.features[:3].assign(x=[np.inf, -np.inf, 1e300], city=pd.Series(["?", None, "Ulm"], dtype="str"))
    assert encoding.matrix(strange)[:, :5].tolist() == [[0, 1, 0, 0, 0], [0, 1, 0, 0, 0], [100, 0, 0, 1, 0]]
    arrow = typed(arrow_of_pandas(rows.features), KINDS)
    assert np.array_equal(encoding.matrix(arrow), matrix)


def test_stored_rows_have_the_numbers_of_rows_in_memory(tmp_path):
    rows = labelled(500, task="regression")
    rows.features.loc[3, "noise"] = np.inf
    whole = stored(rows, tmp_path, "regression")
    assert TensorEncoding.learned(whole, KINDS) == TensorEncoding.learned(rows, KINDS)
    ((mean, deviation, missing),) = whole.moments(["y"]).values()
    assert (mean, deviation, missing) == (pytest.approx(rows.label.mean()), pytest.approx(rows.label.std(ddof=0)), 0)
    assert whole.moments([]) == {}


def network_of(**changes):
    encoding = TensorEncoding(FeatureEncoding({"x": "number"}, {}), {"x": ColumnScale(0.0, 1.0)}, ())
    values = {"network": networks.plain, "values": {}, "weights": b"", "encoding": encoding}
    return FittedNetwork(**values, task="binary", classes=(0, 1), scale=ColumnScale(0.0, 1.0), **changes)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("subprocess:run", "names the network 'run' of the module 'subprocess', which cannot be used: got function"),
        ("os:system", "names the network 'system' of the module 'os'.*use the model where the code"),
        ("nowhere_at_all:plain", "got No module named 'nowhere_at_all'"),
        ("tests.ml.networks:gone", "got nothing of this name"),
    ],
)
def test_a_stored_model_can_name_nothing_but_a_network(name, problem, tmp_path):
    network_of().save(tmp_path)
    description = json.loads((tmp_path / "network.json").read_text())
    assert description["network"] == "tests.ml.networks:plain"
    (tmp_path / "network.json").write_text(json.dumps({**description, "network": name}))
    with pytest.raises(StorageError, match=problem):
        FittedNetwork.load(tmp_path)


def test_damaged_files_are_an_error(tmp_path):
    network_of().save(tmp_path)
    (tmp_path / "network.json").write_text("{")
    with pytest.raises(StorageError, match="the network of a model is damaged"):
        FittedNetwork.load(tmp_path)


@pytest.mark.proof
@pytest.mark.skipif(not (PACKAGES / "torch").is_dir(), reason="PyTorch is not installed in .peers-torch: make peers")
def test_networks_are_fitted_stored_resumed_and_served():
    """Runs `network_cases.py` with the packages of `.peers-torch`."""
    path = os.pathsep.join([str(ROOT), str(PACKAGES)])
    cases = [sys.executable, "-m", "pytest", "-n", "0", "--timeout", "1800", "-x", "tests/ml/network_cases.py"]
    ran = subprocess.run(
        cases, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout[-5000:]
    assert " passed" in ran.stdout
