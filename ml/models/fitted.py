"""A fitted model: an estimator with everything that turns rows into predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml.models.calibration import Calibration, Costs
from ml.models.rows import Kind
from ml.models.tasks import HALF, Task
from pipeline.core.errors import Place

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True)
class FittedModel:
    """An estimator, its task, the kind of each feature, and for conditions the calibration and the threshold."""

    estimator: Any
    task: Task
    kinds: Mapping[str, Kind]
    calibration: Calibration | None = None
    threshold: float = HALF
    """The probability above which a condition is predicted."""

    def predictions(self, features: pd.DataFrame, place: Place | None = None) -> np.ndarray[Any, Any]:
        """Return the predictions for rows; raise `ModelError` if the estimator does not return them. See `Task`."""
        raw = self.task.predictions(self.estimator, features, place)
        return raw if self.calibration is None else self.calibration(raw)

    def answers(self, features: pd.DataFrame) -> list[dict[str, object]]:
        """Return the predictions for rows as objects of JSON."""
        return self.task.answers(self.predictions(features), self.threshold)

    def columns(self, features: pd.DataFrame) -> dict[str, pa.Array]:
        """Return the predictions for rows as columns: what is predicted and, for classes, its probability."""
        return self.task.columns(self.predictions(features), self.threshold)

    def measure(
        self,
        label: np.ndarray[Any, Any],
        predictions: np.ndarray[Any, Any],
        costs: Costs | None,
        groups: np.ndarray[Any, Any] | None = None,
    ) -> dict[str, float]:
        """Return every metric of predictions; a ranking needs the group of each row."""
        return measured(self.task, label, predictions, (self.threshold, costs), groups)


def measured(
    task: Task,
    label: np.ndarray[Any, Any],
    predictions: np.ndarray[Any, Any],
    decides: tuple[float, Costs | None],
    groups: np.ndarray[Any, Any] | None = None,
) -> dict[str, float]:
    """Return every metric of predictions. `decides` are the threshold and what errors cost; then `cost` is the mean cost of a row."""
    threshold, costs = decides
    metrics = task.measure(label, predictions, threshold, groups)
    return metrics if costs is None else {**metrics, "cost": costs.of(label, predictions > threshold)}
