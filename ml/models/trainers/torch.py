"""Neural networks by PyTorch: a function of the project builds the network, and Headwater fits it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import isfinite
from types import FunctionType, MappingProxyType
from typing import Any

from ml.models.options import require_whole_number
from ml.models.rows import LabelledRows
from ml.models.stored_rows import Spooled, StoredRows
from ml.models.tasks import TaskName
from ml.models.trainers.network import FIRST, FittedNetwork, outputs_of
from ml.models.trainers.tensors import ColumnScale, TensorEncoding
from ml.models.trainers.trainer import FitRequest, Trainer, set_passive_openmp_wait, translated_failures
from pipeline.core.definitions import caller
from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.extras import imports_of
from pipeline.core.fingerprint import fingerprint, of_function

_TUNABLE = ("epochs", "batch_rows", "learning_rate")
_NUMBERS = ("squared", "absolute", "huber")
LOSSES: Mapping[TaskName, tuple[str, ...]] = MappingProxyType(
    {"binary": ("log_loss",), "multiclass": ("log_loss",), "regression": _NUMBERS, "forecasting": _NUMBERS}
)
"""The losses of each task, the default first."""


@dataclass(frozen=True, init=False)
class Torch(Trainer):
    """Fits a network of PyTorch; needs `headwater[torch]`."""

    network: Callable[..., Any]
    epochs: int
    batch_rows: int
    learning_rate: float
    loss: str
    workers: int

    def __init__(  # noqa: PLR0913 - options of a definition, all keyword-only
        self,
        network: Callable[..., Any],
        *,
        epochs: int = 10,
        batch_rows: int = 1024,
        learning_rate: float = 0.001,
        loss: str = "",
        workers: int = 0,
    ) -> None:
        """Take a function `network(features, outputs, …)` that returns a `torch.nn.Module`, and how it is fitted.

        The function gets the number of inputs and of outputs, and hyperparameters with defaults. The module takes a tensor of rows x
        features of float32 and returns rows x outputs: the logarithm of the odds of a condition, one number for each of several
        classes (before softmax), or the predicted number, standardized. In each of the `epochs`, all rows are used in a random order,
        `batch_rows` at a time. With `workers`, so many workers of Ray Train fit together, each its share of a batch.

        Raises `DefinitionError` for another function, and for numbers that are too small.
        """
        place = caller()
        _require_network(network, place)
        for name, number, least in (("epochs", epochs, 1), ("batch_rows", batch_rows, 1), ("workers", workers, 0)):
            require_whole_number(name, number, least, place)
        rate: object = learning_rate
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not (isfinite(rate) and rate > 0):
            raise DefinitionError("learning_rate= must be a number above 0", got=repr(rate), place=place)
        options = {"epochs": epochs, "batch_rows": batch_rows, "learning_rate": learning_rate}
        for name, value in {"network": network, **options, "loss": loss, "workers": workers}.items():
            object.__setattr__(self, name, value)

    @property
    def hyperparameters(self) -> Mapping[str, object]:
        """How it is fitted, and the parameters of the function with their defaults."""
        return {**{name: getattr(self, name) for name in _TUNABLE}, **_values(self.network)}

    @property
    def words(self) -> str:
        """What fits, for readers."""
        return f"PyTorch, the network `{self.network.__name__}`"

    @property
    def has_workers(self) -> bool:
        """Whether workers of Ray Train fit it."""
        return bool(self.workers)

    @property
    def tasks(self) -> Collection[TaskName]:
        """The tasks that have a loss."""
        return LOSSES

    @property
    def fingerprint(self) -> str:
        """Changes with all options, and with the code of the function."""
        options = (self.epochs, self.batch_rows, self.learning_rate, self.loss, self.workers)
        return fingerprint("torch", of_function(self.network), options)

    def require_fit(self, task: TaskName, place: Place) -> None:
        """Raise `DefinitionError` for a loss that the task does not have."""
        if self.loss and self.loss not in LOSSES[task]:
            do = did_you_mean(self.loss, LOSSES[task])
            raise DefinitionError(f"unknown loss {self.loss!r} of a {task} task", do=do, place=place)

    def fit(self, request: FitRequest) -> FittedNetwork:
        """Return the fitted network.

        Raises `SourceError` if PyTorch is not installed, and `ModelError` if the function does not build a network that fits, or if the
        loss is not a number any more.
        """
        set_passive_openmp_wait()
        with imports_of("torch", "a model of Torch"):
            __import__("safetensors.torch")
        from ml.models.trainers import network_training as training  # noqa: PLC0415 - needs the extra

        rows, task = request.rows, request.task
        values = {**self.hyperparameters, **request.values}
        encoding = TensorEncoding.learned(rows, request.kinds)
        scale = ColumnScale(0.0, 1.0) if task.classes else _scale_of_label(rows)
        of_network = {name: values[name] for name in _values(self.network)}
        job = training.NetworkJob(
            self.network,
            of_network,
            encoding.width,
            outputs_of(task.name, task.classes),
            self.loss or LOSSES[task.name][0],
            task.name,
            scale,
            int(str(values["epochs"])),
            int(str(values["batch_rows"])),
            float(str(values["learning_rate"])),
        )
        with translated_failures(request):
            if isinstance(rows, StoredRows):
                tensors = training.StoredTensors(rows, encoding, tuple(task.classes))
                weights = training.fit_on_ray(job, tensors, self.workers, request.model)
            else:
                label = task.codes(rows.label.to_numpy())
                weights = training.fit(job, Spooled(encoding.matrix(rows.features), label))
        return FittedNetwork(self.network, of_network, weights, encoding, task.name, task.classes, scale)


def _scale_of_label(rows: LabelledRows | StoredRows) -> ColumnScale:
    if isinstance(rows, StoredRows):
        ((mean, deviation, _),) = rows.moments([rows.evaluation.label]).values()
        return ColumnScale.of(mean, deviation)
    return ColumnScale.of(float(rows.label.mean()), float(rows.label.std(ddof=0)))


def _values(network: Callable[..., Any]) -> dict[str, object]:
    """Return the hyperparameters of a function with their defaults."""
    parameters = tuple(inspect.signature(network).parameters.values())[len(FIRST) :]
    return {each.name: each.default for each in parameters}


def _require_network(network: Callable[..., Any], place: Place) -> None:
    """Raise `DefinitionError` unless a function can build a network, and can be named by a stored model."""
    do = "pass a function such as network(features, outputs, hidden=32), which returns a torch.nn.Module"
    if not isinstance(network, FunctionType):
        raise DefinitionError(
            "Torch takes a function that builds a network", got=repr(network)[:80], do=do, place=place
        )
    name = network.__qualname__
    parameters = tuple(inspect.signature(network).parameters.values())
    if tuple(each.name for each in parameters[:2]) != FIRST:
        got = f"{name}({', '.join(each.name for each in parameters)})"
        problem = "the first parameters of a network are features and outputs, the numbers of its inputs and outputs"
        raise DefinitionError(problem, got=got, do=do, place=place)
    if not name.isidentifier():
        problem, do = "a stored model names its network", "define the function at the top of a module"
        raise DefinitionError(problem, got=name, do=do, place=place)
    for each in parameters[2:]:
        if each.default is inspect.Parameter.empty or each.name in _TUNABLE:
            problem = f"the network {name!r} has a parameter {each.name!r} that is no hyperparameter of its own"
            do = "give it a default, and a name that Torch(…) does not have"
            raise DefinitionError(problem, do=do, place=place)
