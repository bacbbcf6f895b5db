"""Fitted neural networks of PyTorch: weights without code, and the name of the function of the project that builds the network."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

from ml.models.tasks import Class, TaskName
from ml.models.trainers.encoding import FeatureEncoding
from ml.models.trainers.tensors import ColumnScale, TensorEncoding
from pipeline.core.errors import StorageError
from pipeline.core.extras import imports_of

if TYPE_CHECKING:
    import numpy as np

    from ml.models.tasks.task import Features

FIRST = ("features", "outputs")
"""The first parameters of a function that builds a network. No function of another purpose has them."""
_WEIGHTS, _DESCRIPTION, _VERSION = "network.safetensors", "network.json", 1
_BATCH_ROWS = 1 << 14


@dataclass(frozen=True)
class FittedNetwork:
    """A network with the encoding of its features."""

    network: Callable[..., Any]
    values: Mapping[str, object]
    """The hyperparameters of the function."""
    weights: bytes
    """In the format of safetensors."""
    encoding: TensorEncoding
    task: TaskName
    classes: Sequence[Class]
    scale: ColumnScale
    """Of the label, if it is a number."""

    @property
    def classes_(self) -> Sequence[Class]:
        """The classes in the order of the columns of `predict_proba`, as in scikit-learn."""
        return self.classes

    def predict_proba(self, features: Features) -> np.ndarray[Any, Any]:
        """Return the probability of each class for each row."""
        import numpy as np  # noqa: PLC0415 - needed only for training and serving

        raw = self._raw(features)
        if self.task == "binary":
            probability = 1 / (1 + np.exp(-np.clip(raw[:, 0], -500, 500)))
            return np.column_stack([1 - probability, probability])
        odds = np.exp(raw - raw.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    def predict(self, features: Features) -> np.ndarray[Any, Any]:
        """Return the predicted number of each row."""
        return self._raw(features)[:, 0] * self.scale.deviation + self.scale.mean

    def save(self, folder: Path) -> None:
        """Write the weights and their description to a folder."""
        (folder / _WEIGHTS).write_bytes(self.weights)
        description = {
            "version": _VERSION,
            "network": f"{self.network.__module__}:{self.network.__name__}",
            "values": dict(self.values),
            "task": self.task,
            "classes": list(self.classes),
            "scale": asdict(self.scale),
            "kinds": dict(self.encoding.codes.kinds),
            "categories": {name: list(values) for name, values in self.encoding.codes.categories.items()},
            "scales": {name: asdict(scale) for name, scale in self.encoding.scales.items()},
            "missing": list(self.encoding.missing),
        }
        (folder / _DESCRIPTION).write_text(json.dumps(description, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> FittedNetwork:
        """Read the network in a folder. The function that builds it is imported from the project; the files contain no code.

        Raises `StorageError` if the files are damaged, or if the function cannot be imported, and `SourceError` without PyTorch.
        """
        try:
            known = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
            codes = FeatureEncoding(known["kinds"], {name: tuple(each) for name, each in known["categories"].items()})
            scales = {name: ColumnScale(**each) for name, each in known["scales"].items()}
            weights = (folder / _WEIGHTS).read_bytes()
            module, _, name = str(known["network"]).partition(":")
            rest = (known["task"], tuple(known["classes"]), ColumnScale(**known["scale"]))
            encoding = TensorEncoding(codes, scales, tuple(known["missing"]))
            values = dict(known["values"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError("the network of a model is damaged", got=str(error)) from error
        loaded = cls(_function(module, name), values, weights, encoding, *rest)
        _ = loaded._module
        return loaded

    def _raw(self, features: Features) -> np.ndarray[Any, Any]:
        import numpy as np  # noqa: PLC0415 - needed only for training and serving
        import torch  # noqa: PLC0415 - an extra

        matrix, module = self.encoding.matrix(features), self._module
        with torch.inference_mode():
            parts = [
                module(torch.from_numpy(matrix[start : start + _BATCH_ROWS])).double().numpy()
                for start in range(0, len(matrix), _BATCH_ROWS)
            ]
        return np.concatenate(parts).reshape(len(matrix), -1)

    @cached_property
    def _module(self) -> Any:
        with imports_of("torch", "a model of PyTorch"):
            import safetensors.torch  # noqa: PLC0415 - an extra

        module = self.network(self.encoding.width, outputs_of(self.task, self.classes), **self.values)
        try:
            module.load_state_dict(safetensors.torch.load(self.weights))
        except (RuntimeError, ValueError, safetensors.SafetensorError) as error:
            problem = f"the weights of a model do not fit the network {self.network.__name__!r}"
            do = "train the model again, or restore the code that it was trained with"
            raise StorageError(problem, got=str(error).strip().splitlines()[-1].strip(), do=do) from error
        module.eval()
        return module

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the weights in their own format, without the network."""
        return {name: value for name, value in self.__dict__.items() if name != "_module"}


def outputs_of(task: TaskName, classes: Sequence[Class]) -> int:
    """Return how many numbers a network returns for a row: one for each class, or one."""
    return len(classes) if task == "multiclass" else 1


def _function(module: str, name: str) -> Callable[..., Any]:
    """Return the function of the project that builds a network. Nothing else is called, whatever a stored model names."""
    problem = f"the stored model names the network {name!r} of the module {module!r}, which cannot be used"
    do = "use the model where the code of its project can be imported"
    try:
        found = getattr(sys.modules.get(module) or importlib.import_module(module), name, None)
    except ImportError as error:
        raise StorageError(problem, got=str(error), do=do) from error
    if not isinstance(found, FunctionType) or tuple(inspect.signature(found).parameters)[:2] != FIRST:
        raise StorageError(problem, got=type(found).__name__ if found is not None else "nothing of this name", do=do)
    return found
