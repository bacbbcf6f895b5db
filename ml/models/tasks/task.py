"""What kinds of labels models predict: their values, metrics, baselines and predictions. Pure functions of arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import ModelError, Place

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    Array = np.ndarray[Any, Any]
    Features: TypeAlias = pd.DataFrame | pa.Table
    """The features of rows, with the types of `ARROW`."""

TaskName = Literal["binary", "multiclass", "regression", "forecasting", "ranking", "anomaly"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
Class = str | int | bool
HALF = 0.5


@dataclass(frozen=True)
class Task(ABC):
    """A kind of label.

    Predictions are an array of numbers: the probability of 1, for several classes a column of probabilities for each, and
    for a number the number itself.
    """

    name: ClassVar[TaskName]
    metrics: ClassVar[Mapping[str, bool]]
    """The metrics, and whether higher values are better; the first is the default."""
    method: ClassVar[str]
    """The method of an estimator that predicts."""
    has_two_labels: ClassVar[bool] = False
    """Whether its metrics need rows with the label 0 and rows with the label 1."""
    learns_threshold: ClassVar[bool] = False
    """Whether the threshold follows from the predictions for the training rows; see `threshold`."""
    classes: tuple[Class, ...] = ()
    """The values of the label, in the order of the columns of predictions; empty for numbers."""

    @property
    def metric(self) -> str:
        """The default metric."""
        return next(iter(self.metrics))

    @abstractmethod
    def label(self, column: pa.ChunkedArray, name: str, place: Place | None) -> pa.ChunkedArray:
        """Return the label as estimators take it; raise `ModelError` for values that the task cannot predict."""

    def codes(self, label: Array) -> Array:
        """Return labels as numbers, as libraries fit them: for several classes their positions, -1 for an unknown one."""
        return label.astype(float)

    def threshold(self, label: Array, predictions: Array) -> float:
        """Return the prediction above which a condition is true, from those for the training rows."""
        del label, predictions
        return HALF

    def learned(self, label: pa.ChunkedArray) -> Task:
        """Return the task with the classes of the training rows."""
        return type(self)(tuple(sorted(pc.unique(label).to_pylist())))

    @abstractmethod
    def predictions(self, estimator: Any, features: Features, place: Place | None = None) -> Array:
        """Return the predictions for rows; raise `ModelError` if the estimator does not return them."""

    @abstractmethod
    def measure(
        self, label: Array, predictions: Array, threshold: float = HALF, groups: Array | None = None
    ) -> dict[str, float]:
        """Return every metric of predictions, apart from the cost. Conditions have a threshold; a ranking needs `groups`."""

    def baseline(self, train: pd.DataFrame, label: pd.Series, rows: pd.DataFrame, by: Sequence[str]) -> Array:
        """Return what the mean of the training labels with the same values of columns predicts; null is a value.

        Values that do not occur in the training rows, and all rows without columns, get the mean of all training rows.
        """
        return mean_by(train, label, rows, by)

    @abstractmethod
    def answers(self, predictions: Array, threshold: float = HALF) -> list[dict[str, object]]:
        """Return predictions as objects of JSON."""

    @abstractmethod
    def columns(self, predictions: Array, threshold: float = HALF) -> dict[str, pa.Array]:
        """Return predictions as columns: `predicted` and, for classes, its `probability`."""

    def _called(self, estimator: Any, features: Features, place: Place | None) -> Array:
        import numpy as np  # noqa: PLC0415 - needed only for training and serving

        if not len(features):  # estimators of scikit-learn refuse no rows
            return np.empty((0, len(self.classes) or 2) if self.method == "predict_proba" else 0)
        try:
            return np.asarray(getattr(estimator, self.method)(features), dtype=float)
        except Exception as error:
            problem = f"the estimator cannot predict these rows: {type(error).__name__}"
            raise ModelError(problem, got=str(error) or None, place=place) from error


def mean_by(train: pd.DataFrame, label: pd.Series, rows: pd.DataFrame, by: Sequence[str]) -> Array:
    """Return the mean training label for the values of columns of each row; the mean of all for others."""
    import numpy as np  # noqa: PLC0415 - needed only for training

    overall = float(label.mean())
    if not by:
        return np.full(len(rows), overall)
    columns, mean = list(by), "mean label"
    means = label.rename(mean).groupby([train[name] for name in columns], dropna=False).mean().reset_index()
    found = rows[columns].merge(means, on=columns, how="left")[mean]
    return np.asarray(found.fillna(overall), dtype=float)
