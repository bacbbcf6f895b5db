"""Classes: conditions, one of several values, and rows that are unlike others."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from ml.models.tasks.task import HALF, Task, TaskName, mean_by
from pipeline.core.errors import ModelError, Place, few

if TYPE_CHECKING:
    import pandas as pd

    from ml.models.tasks.task import Array, Features

_MOST_CLASSES = 1000


class Binary(Task):
    """A condition: 0 and 1. It is predicted by its probability."""

    name: ClassVar[TaskName] = "binary"
    has_two_labels = True
    method = "predict_proba"
    metrics = MappingProxyType(
        {
            "auc": True,
            "accuracy": True,
            "average_precision": True,
            "precision": True,
            "recall": True,
            "f1": True,
            "brier": False,
            "log_loss": False,
            "cost": False,
        }
    )

    def label(self, column: pa.ChunkedArray, name: str, place: Place | None) -> pa.ChunkedArray:
        """Return booleans and integers of 0 and 1 as integers."""
        if pa.types.is_boolean(column.type):
            return column.cast(pa.int64())
        got = str(column.type)
        if pa.types.is_integer(column.type):
            low, high = pc.min_max(column).as_py().values()
            if low is None or (low >= 0 and high <= 1):
                return column.cast(pa.int64())
            got = f"{low} to {high}"
        do = 'use a condition, or task="multiclass" or "regression"'
        raise ModelError(f"the label {name!r} is neither a boolean nor 0 and 1", got=got, do=do, place=place)

    def predictions(self, estimator: Any, features: Features, place: Place | None = None) -> Array:
        """Return the probability of label 1 for each row."""
        probabilities = self._called(estimator, features, place)
        if probabilities.shape != (len(features), 2) or not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise ModelError(
                "predict_proba must return two probabilities per row",
                got=f"an array of shape {probabilities.shape}"
                if probabilities.shape != (len(features), 2)
                else "values outside 0 to 1",
                do="return a fitted classifier of two classes",
                place=place,
            )
        return probabilities[:, 1]

    def measure(
        self, label: Array, predictions: Array, threshold: float = HALF, groups: Array | None = None
    ) -> dict[str, float]:
        """Return every metric of predicted probabilities for labels of 0 and 1; both labels must occur.

        A row is predicted as 1 if its probability is above `threshold`: `accuracy` is the share of rows with the correct
        prediction, and `precision`, `recall` and `f1` are those of 1. `brier` is the mean squared error of the probability. The
        others are defined as in scikit-learn.
        """
        del groups
        from sklearn import metrics  # noqa: PLC0415 - takes a second to import; only training needs it

        return {
            **chosen_metrics(label, predictions > threshold),
            "auc": float(metrics.roc_auc_score(label, predictions)),
            "average_precision": float(metrics.average_precision_score(label, predictions)),
            "brier": float(((predictions - label) ** 2).mean()),
            "log_loss": float(metrics.log_loss(label, predictions, labels=[0, 1])),
        }

    def answers(self, predictions: Array, threshold: float = HALF) -> list[dict[str, object]]:
        """Return the probability, and whether it is above the threshold."""
        return [{"probability": p, "label": p > threshold} for p in predictions.tolist()]

    def columns(self, predictions: Array, threshold: float = HALF) -> dict[str, pa.Array]:
        """Return whether the probability of 1 is above the threshold, and that probability."""
        return {"predicted": pa.array(predictions > threshold), "probability": pa.array(predictions)}


class Multiclass(Task):
    """One of several values: texts, integers or booleans. It is predicted by the probability of each."""

    name: ClassVar[TaskName] = "multiclass"
    method = "predict_proba"
    metrics = MappingProxyType({"accuracy": True, "balanced_accuracy": True, "f1_macro": True, "log_loss": False})

    def label(self, column: pa.ChunkedArray, name: str, place: Place | None) -> pa.ChunkedArray:
        """Return texts, integers and booleans unchanged."""
        kind = column.type
        if not (
            pa.types.is_string(kind)
            or pa.types.is_large_string(kind)
            or pa.types.is_integer(kind)
            or pa.types.is_boolean(kind)
        ):
            do = 'convert it to text, or use task="regression" for numbers'
            raise ModelError(f"the label {name!r} is not a class", got=str(kind), do=do, place=place)
        count = pc.count_distinct(column).as_py()
        if count > _MOST_CLASSES:
            do = "group rare classes"
            raise ModelError(
                f"the label {name!r} has more than {_MOST_CLASSES} classes", got=str(count), do=do, place=place
            )
        return column

    def codes(self, label: Array) -> Array:
        """Return the position of each class; see `Task.codes`."""
        import numpy as np  # noqa: PLC0415 - needed only for training

        positions = {each: number for number, each in enumerate(self.classes)}
        return np.array([positions.get(each, -1) for each in label.tolist()], dtype=float)

    def predictions(self, estimator: Any, features: Features, place: Place | None = None) -> Array:
        """Return the probability of each class of the training rows, whatever their order in the estimator."""
        probabilities = self._called(estimator, features, place)
        known = [
            each.item() if hasattr(each, "item") else each for each in getattr(estimator, "classes_", self.classes)
        ]
        if sorted(map(repr, known)) != sorted(map(repr, self.classes)):
            raise ModelError(
                "the classes of the estimator are not those of the training rows",
                got=few(map(repr, known), 5),
                do="fit it to the label as it is",
                place=place,
            )
        if (
            probabilities.shape != (len(features), len(self.classes))
            or not ((probabilities >= 0) & (probabilities <= 1)).all()
        ):
            raise ModelError(
                f"predict_proba must return {len(self.classes)} probabilities per row",
                got=f"an array of shape {probabilities.shape}",
                do="return a fitted classifier",
                place=place,
            )
        return probabilities[:, [known.index(each) for each in self.classes]]

    def measure(
        self, label: Array, predictions: Array, threshold: float = HALF, groups: Array | None = None
    ) -> dict[str, float]:
        """Return every metric of predicted probabilities; the classes of the label need not have occurred in training.

        They are defined as in scikit-learn. A class that is not known has the probability 0, which `log_loss` takes as
        the smallest number above 0.
        """
        del threshold, groups
        import numpy as np  # noqa: PLC0415 - needed only for training
        from sklearn import metrics  # noqa: PLC0415 - likewise

        chosen = np.asarray(self.classes, dtype=object)[predictions.argmax(axis=1)]
        labels = label.astype(object)
        numbers = self.codes(labels).astype(int)
        given = np.where(numbers >= 0, predictions[np.arange(len(labels)), numbers], 0.0)
        texts, chosen_texts = labels.astype(str), chosen.astype(str)
        return {
            "accuracy": float((chosen == labels).mean()),
            "balanced_accuracy": float(_recall_by_class(labels, chosen)),
            "f1_macro": float(metrics.f1_score(texts, chosen_texts, average="macro", zero_division=0)),
            "log_loss": float(-np.log(np.maximum(given, np.finfo(float).tiny)).mean()),
        }

    def baseline(self, train: pd.DataFrame, label: pd.Series, rows: pd.DataFrame, by: Sequence[str]) -> Array:
        """Return the share of each class."""
        import numpy as np  # noqa: PLC0415 - needed only for training

        return np.column_stack([mean_by(train, (label == each).astype(float), rows, by) for each in self.classes])

    def answers(self, predictions: Array, threshold: float = HALF) -> list[dict[str, object]]:
        """Return the most probable class, and the probability of each."""
        del threshold
        names = [str(each) for each in self.classes]
        best = predictions.argmax(axis=1)
        return [
            {"label": self.classes[top], "probabilities": dict(zip(names, row, strict=True))}
            for top, row in zip(best, predictions.tolist(), strict=True)
        ]

    def columns(self, predictions: Array, threshold: float = HALF) -> dict[str, pa.Array]:
        """Return the most probable class as text, and its probability."""
        del threshold
        names = [str(each) for each in self.classes]
        predicted = pa.array([names[top] for top in predictions.argmax(axis=1)], pa.string())
        return {"predicted": predicted, "probability": pa.array(predictions.max(axis=1, initial=0.0))}


def _recall_by_class(labels: Array, chosen: Array) -> float:
    """Return the mean over the classes of the share of their rows that are predicted."""
    shares = [float((chosen[labels == each] == each).mean()) for each in dict.fromkeys(labels.tolist())]
    return sum(shares) / len(shares)


class Anomaly(Binary):
    """A condition that is rare, found by what is unlike other rows: estimators need no label, which is only for the evaluation."""

    name: ClassVar[TaskName] = "anomaly"
    learns_threshold = True
    method = "score_samples"
    metrics = MappingProxyType(
        {"average_precision": True, "auc": True, "precision": True, "recall": True, "f1": True, "accuracy": True}
    )

    def predictions(self, estimator: Any, features: Features, place: Place | None = None) -> Array:
        """Return how unlike others each row is: the negative of `score_samples`."""
        import numpy as np  # noqa: PLC0415 - needed only for training and serving

        scores = self._called(estimator, features, place)
        if scores.shape != (len(features),) or not np.isfinite(scores).all():
            problem, do = "score_samples must return a number per row", "return a fitted detector of outliers"
            raise ModelError(problem, got=f"an array of shape {scores.shape}", do=do, place=place)
        return -scores

    def threshold(self, label: Array, predictions: Array) -> float:
        """Return the score above which as many training rows are as have the label 1."""
        import numpy as np  # noqa: PLC0415 - needed only for training

        return float(np.quantile(predictions, 1 - float((label == 1).mean())))

    def measure(
        self, label: Array, predictions: Array, threshold: float = HALF, groups: Array | None = None
    ) -> dict[str, float]:
        """Return every metric of scores for labels of 0 and 1; both labels must occur. See `Binary.measure`."""
        del groups
        from sklearn import metrics  # noqa: PLC0415 - takes a second to import; only training needs it

        return {
            **chosen_metrics(label, predictions > threshold),
            "auc": float(metrics.roc_auc_score(label, predictions)),
            "average_precision": float(metrics.average_precision_score(label, predictions)),
        }

    def answers(self, predictions: Array, threshold: float = HALF) -> list[dict[str, object]]:
        """Return the score, and whether it is above the threshold."""
        return [{"score": score, "label": score > threshold} for score in predictions.tolist()]

    def columns(self, predictions: Array, threshold: float = HALF) -> dict[str, pa.Array]:
        """Return whether the score is above the threshold, and the score."""
        return {"predicted": pa.array(predictions > threshold), "score": pa.array(predictions)}


def chosen_metrics(label: Array, chosen: Array) -> dict[str, float]:
    """Return the metrics of rows that are predicted as 1, for labels of 0 and 1."""
    positive = label == 1
    right = float((chosen & positive).sum())
    return {
        "accuracy": float((chosen == positive).mean()),
        "precision": right / max(float(chosen.sum()), 1.0),
        "recall": right / max(float(positive.sum()), 1.0),
        "f1": 2 * right / max(float(chosen.sum() + positive.sum()), 1.0),
    }
