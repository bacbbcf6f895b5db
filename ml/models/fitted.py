"""A fitted model: an estimator with everything that turns rows into predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ml.models.calibration import Calibration, Costs
from ml.models.rows import Kind, LabelledRows, frame, typed
from ml.models.tasks import HALF, Task
from ml.models.trainers.boosted_trees import BoostedTrees
from ml.models.trainers.network import FittedNetwork
from pipeline.core.errors import Place, RequestError

if TYPE_CHECKING:
    import pyarrow as pa

    from ml.models.tasks.task import Array, Features


@dataclass(frozen=True)
class Explanation:
    """What makes the score of a row: the sum of the base and of what the features add."""

    base: float
    """What all rows have: the mean score of the rows that the model was fitted to."""
    features: dict[str, float]
    """What each feature adds for this row."""


@dataclass(frozen=True)
class FittedModel:
    """An estimator, its task, the kind of each feature, and for conditions the calibration and the threshold."""

    estimator: Any
    task: Task
    kinds: Mapping[str, Kind]
    calibration: Calibration | None = None
    threshold: float = HALF
    """The probability above which a condition is predicted."""

    def features(self, rows: pa.Table) -> Features:
        """Return the features of rows as the estimator takes them: as pandas, and for those of our own as Arrow, which costs less."""
        return (
            typed(rows, self.kinds)
            if isinstance(self.estimator, BoostedTrees | FittedNetwork)
            else frame(rows, self.kinds)
        )

    def predictions(self, features: Features, place: Place | None = None) -> Array:
        """Return the predictions for rows; raise `ModelError` if the estimator does not return them. See `Task`."""
        raw = self.task.predictions(self.estimator, features, place)
        return raw if self.calibration is None else self.calibration(raw)

    def answers(self, features: Features) -> list[dict[str, object]]:
        """Return the predictions for rows as objects of JSON."""
        return self.task.answers(self.predictions(features), self.threshold)

    def columns(self, features: Features) -> dict[str, pa.Array]:
        """Return the predictions for rows as columns: what is predicted and, for classes, its probability."""
        return self.task.columns(self.predictions(features), self.threshold)

    def explanations(self, features: Features) -> list[Explanation]:
        """Return for each row what makes the score of what is predicted; see `BoostedTrees.contributions`.

        Raises `RequestError` for estimators that cannot be explained exactly.
        """
        if not isinstance(self.estimator, BoostedTrees):
            problem = "this model cannot explain its predictions"
            raise RequestError(problem, got=type(self.estimator).__name__, do="only boosted trees can")
        added = self.estimator.contributions(features)
        if self.task.name == "multiclass":
            added = added[range(len(features)), self.predictions(features).argmax(axis=1)]
        return [Explanation(row[-1], dict(zip(self.kinds, row[:-1], strict=True))) for row in added.tolist()]

    def measure(
        self, label: Array, predictions: Array, costs: Costs | None, groups: Array | None = None
    ) -> dict[str, float]:
        """Return every metric of predictions; a ranking needs the group of each row.

        `cost` is the mean cost of a row, if errors have costs.
        """
        metrics = self.task.measure(label, predictions, self.threshold, groups)
        return metrics if costs is None else {**metrics, "cost": costs.of(label, predictions > self.threshold)}


def with_threshold(fitted: FittedModel, rows: LabelledRows, place: Place) -> FittedModel:
    """Return a model with the threshold that its task learns from the rows that it was fitted to, if it learns one."""
    if not fitted.task.learns_threshold:
        return fitted
    predictions = fitted.predictions(rows.features, place)
    return replace(fitted, threshold=fitted.task.threshold(rows.label.to_numpy(), predictions))
