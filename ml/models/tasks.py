"""What kinds of labels models predict: their values, metrics, baselines and predictions. Pure functions of arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import ModelError, Place, few

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

TaskName = Literal["binary", "multiclass", "regression"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
Class = str | int | bool
HALF = 0.5
_LEAST_CLASSES = 2
_MOST_CLASSES = 1000


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
    classes: tuple[Class, ...] = ()
    """The values of the label, in the order of the columns of predictions; empty for numbers."""

    @property
    def metric(self) -> str:
        """The default metric."""
        return next(iter(self.metrics))

    @abstractmethod
    def label(self, column: pa.ChunkedArray, name: str, place: Place | None) -> pa.ChunkedArray:
        """Return the label as estimators take it; raise `ModelError` for values that the task cannot predict."""

    def learned(self, label: pa.ChunkedArray) -> Task:
        """Return the task with the classes of the training rows."""
        return type(self)(tuple(sorted(pc.unique(label).to_pylist())))

    @abstractmethod
    def predictions(self, estimator: Any, features: pd.DataFrame, place: Place | None = None) -> np.ndarray[Any, Any]:
        """Return the predictions for rows; raise `ModelError` if the estimator does not return them."""

    @abstractmethod
    def measure(
        self, label: np.ndarray[Any, Any], predictions: np.ndarray[Any, Any], threshold: float = HALF
    ) -> dict[str, float]:
        """Return every metric of predictions, apart from the cost. Only a binary task has a threshold."""

    def baseline(
        self, train: pd.DataFrame, label: pd.Series, rows: pd.DataFrame, by: Sequence[str]
    ) -> np.ndarray[Any, Any]:
        """Return what the mean of the training labels with the same values of columns predicts; null is a value.

        Values that do not occur in the training rows, and all rows without columns, get the mean of all training rows.
        """
        return _mean_by(train, label, rows, by)

    @abstractmethod
    def answers(self, predictions: np.ndarray[Any, Any], threshold: float = HALF) -> list[dict[str, object]]:
        """Return predictions as objects of JSON."""

    @abstractmethod
    def columns(self, predictions: np.ndarray[Any, Any], threshold: float = HALF) -> dict[str, pa.Array]:
        """Return predictions as columns: `predicted` and, for classes, its `probability`."""

    def _called(self, estimator: Any, features: pd.DataFrame, place: Place | None) -> np.ndarray[Any, Any]:
        import numpy as np  # noqa: PLC0415 - needed only for training and serving

        if not len(features):  # estimators of scikit-learn refuse no rows
            return np.empty((0, len(self.classes) or 2) if self.method == "predict_proba" else 0)
        try:
            return np.asarray(getattr(estimator, self.method)(features), dtype=float)
        except Exception as error:
            problem = f"the estimator cannot predict these rows: {type(error).__name__}"
            raise ModelError(problem, got=str(error) or None, place=place) from error


class Binary(Task):
    """A condition: 0 and 1. It is predicted by its probability."""

    name = "binary"
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

    def predictions(self, estimator: Any, features: pd.DataFrame, place: Place | None = None) -> np.ndarray[Any, Any]:
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
        self, label: np.ndarray[Any, Any], predictions: np.ndarray[Any, Any], threshold: float = HALF
    ) -> dict[str, float]:
        """Return every metric of predicted probabilities for labels of 0 and 1; both labels must occur.

        A row is predicted as 1 if its probability is above `threshold`: `accuracy` is the share of rows with the correct
        prediction, and `precision`, `recall` and `f1` are those of 1. `brier` is the mean squared error of the probability. The
        others are defined as in scikit-learn.
        """
        from sklearn import metrics  # noqa: PLC0415 - takes a second to import; only training needs it

        chosen, positive = predictions > threshold, label == 1
        right = float((chosen & positive).sum())
        return {
            "accuracy": float((chosen == positive).mean()),
            "precision": right / max(float(chosen.sum()), 1.0),
            "recall": right / max(float(positive.sum()), 1.0),
            "f1": 2 * right / max(float(chosen.sum() + positive.sum()), 1.0),
            "auc": float(metrics.roc_auc_score(label, predictions)),
            "average_precision": float(metrics.average_precision_score(label, predictions)),
            "brier": float(((predictions - label) ** 2).mean()),
            "log_loss": float(metrics.log_loss(label, predictions, labels=[0, 1])),
        }

    def answers(self, predictions: np.ndarray[Any, Any], threshold: float = HALF) -> list[dict[str, object]]:
        """Return the probability, and whether it is above the threshold."""
        return [{"probability": p, "label": p > threshold} for p in predictions.tolist()]

    def columns(self, predictions: np.ndarray[Any, Any], threshold: float = HALF) -> dict[str, pa.Array]:
        """Return whether the probability of 1 is above the threshold, and that probability."""
        return {"predicted": pa.array(predictions > threshold), "probability": pa.array(predictions)}


class Multiclass(Task):
    """One of several values: texts, integers or booleans. It is predicted by the probability of each."""

    name = "multiclass"
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

    def predictions(self, estimator: Any, features: pd.DataFrame, place: Place | None = None) -> np.ndarray[Any, Any]:
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
        self, label: np.ndarray[Any, Any], predictions: np.ndarray[Any, Any], threshold: float = HALF
    ) -> dict[str, float]:
        """Return every metric of predicted probabilities; the classes of the label need not have occurred in training.

        They are defined as in scikit-learn. A class that is not known has the probability 0, which `log_loss` takes as
        the smallest number above 0.
        """
        del threshold
        import numpy as np  # noqa: PLC0415 - needed only for training
        from sklearn import metrics  # noqa: PLC0415 - likewise

        chosen = np.asarray(self.classes, dtype=object)[predictions.argmax(axis=1)]
        labels = label.astype(object)
        column = {each: number for number, each in enumerate(self.classes)}
        numbers = np.array([column.get(each, -1) for each in labels])
        given = np.where(numbers >= 0, predictions[np.arange(len(labels)), numbers], 0.0)
        texts, chosen_texts = labels.astype(str), chosen.astype(str)
        return {
            "accuracy": float((chosen == labels).mean()),
            "balanced_accuracy": float(_recall_by_class(labels, chosen)),
            "f1_macro": float(metrics.f1_score(texts, chosen_texts, average="macro", zero_division=0)),
            "log_loss": float(-np.log(np.maximum(given, np.finfo(float).tiny)).mean()),
        }

    def baseline(
        self, train: pd.DataFrame, label: pd.Series, rows: pd.DataFrame, by: Sequence[str]
    ) -> np.ndarray[Any, Any]:
        """Return the share of each class."""
        import numpy as np  # noqa: PLC0415 - needed only for training

        return np.column_stack([_mean_by(train, (label == each).astype(float), rows, by) for each in self.classes])

    def answers(self, predictions: np.ndarray[Any, Any], threshold: float = HALF) -> list[dict[str, object]]:
        """Return the most probable class, and the probability of each."""
        del threshold
        names = [str(each) for each in self.classes]
        best = predictions.argmax(axis=1)
        return [
            {"label": self.classes[top], "probabilities": dict(zip(names, row, strict=True))}
            for top, row in zip(best, predictions.tolist(), strict=True)
        ]

    def columns(self, predictions: np.ndarray[Any, Any], threshold: float = HALF) -> dict[str, pa.Array]:
        """Return the most probable class as text, and its probability."""
        del threshold
        names = [str(each) for each in self.classes]
        predicted = pa.array([names[top] for top in predictions.argmax(axis=1)], pa.string())
        return {"predicted": predicted, "probability": pa.array(predictions.max(axis=1, initial=0.0))}


class Regression(Task):
    """A number."""

    name = "regression"
    method = "predict"
    metrics = MappingProxyType({"mae": False, "rmse": False, "r2": True, "median_absolute_error": False})

    def label(self, column: pa.ChunkedArray, name: str, place: Place | None) -> pa.ChunkedArray:
        """Return numbers as floats."""
        kind = column.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            do = 'convert it to a number, or use task="binary" or "multiclass"'
            raise ModelError(f"the label {name!r} is not a number", got=str(kind), do=do, place=place)
        numbers = column.cast(pa.float64(), safe=False)
        infinite = pc.sum(pc.invert(pc.is_finite(numbers.drop_null()))).as_py()
        if infinite:
            problem = f"the label {name!r} has values that are not finite"
            raise ModelError(problem, got=f"{infinite:,} rows", do="exclude them in the SELECT", place=place)
        return numbers

    def learned(self, label: pa.ChunkedArray) -> Task:
        """Return the task itself."""
        del label
        return self

    def predictions(self, estimator: Any, features: pd.DataFrame, place: Place | None = None) -> np.ndarray[Any, Any]:
        """Return the predicted number of each row."""
        import numpy as np  # noqa: PLC0415 - needed only for training and serving

        numbers = self._called(estimator, features, place)
        if numbers.shape not in {(len(features),), (len(features), 1)}:
            got = f"an array of shape {numbers.shape}"
            raise ModelError(
                "predict must return a number per row", got=got, do="return a fitted regressor", place=place
            )
        if not np.isfinite(numbers).all():
            got = f"{int((~np.isfinite(numbers)).sum()):,} values that are not finite"
            raise ModelError(
                "predict must return a number per row", got=got, do="return a fitted regressor", place=place
            )
        return numbers.reshape(-1)

    def measure(
        self, label: np.ndarray[Any, Any], predictions: np.ndarray[Any, Any], threshold: float = HALF
    ) -> dict[str, float]:
        """Return every metric of predicted numbers; they are defined as in scikit-learn."""
        del threshold
        import numpy as np  # noqa: PLC0415 - needed only for training

        errors = np.abs(predictions - label)
        spread = float(((label - label.mean()) ** 2).sum())
        return {
            "mae": float(errors.mean()),
            "rmse": float(np.sqrt((errors**2).mean())),
            "r2": 1 - float((errors**2).sum()) / spread if spread else 0.0,
            "median_absolute_error": float(np.median(errors)),
        }

    def answers(self, predictions: np.ndarray[Any, Any], threshold: float = HALF) -> list[dict[str, object]]:
        """Return the number."""
        del threshold
        return [{"value": value} for value in predictions.tolist()]

    def columns(self, predictions: np.ndarray[Any, Any], threshold: float = HALF) -> dict[str, pa.Array]:
        """Return the number."""
        del threshold
        return {"predicted": pa.array(predictions, pa.float64())}


_KINDS: Mapping[str, type[Task]] = MappingProxyType({each.name: each for each in (Binary, Multiclass, Regression)})


def task_of(name: str, classes: Sequence[Class] = ()) -> Task:
    """Return the task of a name, with the classes that its model has learned."""
    return _KINDS[name](tuple(classes))


def _mean_by(train: pd.DataFrame, label: pd.Series, rows: pd.DataFrame, by: Sequence[str]) -> np.ndarray[Any, Any]:
    import numpy as np  # noqa: PLC0415 - needed only for training

    overall = float(label.mean())
    if not by:
        return np.full(len(rows), overall)
    columns, mean = list(by), "mean label"
    means = label.rename(mean).groupby([train[name] for name in columns], dropna=False).mean().reset_index()
    found = rows[columns].merge(means, on=columns, how="left")[mean]
    return np.asarray(found.fillna(overall), dtype=float)


def _recall_by_class(labels: np.ndarray[Any, Any], chosen: np.ndarray[Any, Any]) -> float:
    """Return the mean over the classes of the share of their rows that are predicted."""
    shares = [float((chosen[labels == each] == each).mean()) for each in dict.fromkeys(labels.tolist())]
    return sum(shares) / len(shares)
