"""What fits estimators: a function of the project, or a library of boosted trees."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ml.models.rows import Kind, LabelledRows
from ml.models.stored_rows import StoredRows
from ml.models.tasks import TASKS, Task, TaskName
from pipeline.core.errors import HeadwaterError, ModelError, Place

SEED = 0
Progress = Callable[[int, Callable[[], Any]], None]
"""Is called with a number of rounds, from 1, and a function that returns the estimator that these rounds have fitted."""


@dataclass(frozen=True)
class FitRequest:
    """What to fit an estimator to."""

    model: str
    """The name of the model, for messages."""
    rows: LabelledRows | StoredRows
    """In memory: this process fits them. Stored: workers do, who read them; see `Trainer.has_workers`."""
    label: str
    task: Task
    kinds: Mapping[str, Kind]
    """The kind of each feature, in the order of the columns."""
    values: Mapping[str, object]
    """The values of hyperparameters that differ from those of the trainer."""
    place: Place
    progress: Progress | None = None
    """Is called from time to time by trainers that fit in rounds."""
    start: Any = None
    """An estimator of this trainer, fitted to the same rows, to go on from; `None` to begin."""


class Trainer(ABC):
    """Fits estimators. The same rows and hyperparameters produce the same estimator."""

    @property
    @abstractmethod
    def hyperparameters(self) -> Mapping[str, object]:
        """The hyperparameters that can be tuned, with their values."""

    @property
    def words(self) -> str:
        """What fits, for readers."""
        return type(self).__name__

    @property
    def takes_any(self) -> bool:
        """Whether it has further hyperparameters than those with values, which its library knows."""
        return False

    @property
    def continues(self) -> bool:
        """Whether it can go on from an estimator, with other hyperparameters."""
        return False

    @property
    def has_workers(self) -> bool:
        """Whether workers fit it, which read the rows themselves: no process holds all of them."""
        return False

    @property
    def tasks(self) -> Collection[TaskName]:
        """The tasks that it fits."""
        return TASKS

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Changes with everything that determines the estimator, apart from rows and tuned values."""

    def require_fit(self, task: TaskName, place: Place) -> None:  # noqa: B027 - most fit all of their tasks
        """Raise `DefinitionError` if its options do not fit a task, which is one of `tasks`."""

    def require_known(self, names: Collection[str], place: Place) -> None:  # noqa: B027 - most libraries check them
        """Raise `ModelError` for a hyperparameter that it does not have."""

    @abstractmethod
    def fit(self, request: FitRequest) -> Any:
        """Return the fitted estimator. Raises `ModelError` if it cannot be fitted."""


def in_memory(request: FitRequest) -> LabelledRows:
    """Return the rows of a request that this process fits."""
    assert isinstance(request.rows, LabelledRows), "only trainers with workers are given stored rows"  # noqa: S101
    return request.rows


@contextmanager
def translated_failures(request: FitRequest) -> Iterator[None]:
    """Raise the errors of a library inside the context as `ModelError`."""
    try:
        yield
    except HeadwaterError:
        raise
    except Exception as error:
        problem = f"model {request.model!r} could not be trained: {type(error).__name__}"
        raise ModelError(problem, got=str(error).strip().partition("\n")[0], place=request.place) from error


def set_passive_openmp_wait() -> None:
    """Make OpenMP threads sleep while they wait, if the libraries that use them are not loaded yet.

    By default they spin: next to other work on two cores, fitting the flights model took 41 s instead of 5 s.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
