"""Numbers: of rows, of later times, and of the order of rows within a group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from ml.models.tasks.task import HALF, Task, TaskName
from pipeline.core.errors import ModelError, Place

if TYPE_CHECKING:
    import pandas as pd

    from ml.models.tasks.task import Array, Features

_TOP = 10
_MOST_RELEVANCE = 30


class Regression(Task):
    """A number."""

    name: ClassVar[TaskName] = "regression"
    method = "predict"
    metrics = MappingProxyType({"mae": False, "rmse": False, "r2": True, "median_absolute_error": False})

    def label(self, column: pa.ChunkedArray, name: str, place: Place | None) -> pa.ChunkedArray:
        """Return numbers as floats."""
        kind = column.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
            do = 'convert it to a number, or use task="binary" or "multiclass"'
            raise ModelError(f"the label {name!r} is not a number", got=str(kind), do=do, place=place)
        numbers = column.cast(pa.float64(), safe=False)
        require_finite(pc.sum(pc.invert(pc.is_finite(numbers.drop_null()))).as_py() or 0, name, place)
        return numbers

    def learned(self, label: pa.ChunkedArray) -> Task:
        """Return the task itself."""
        del label
        return self

    def predictions(self, estimator: Any, features: Features, place: Place | None = None) -> Array:
        """Return the predicted number of each row."""
        import numpy as np  # noqa: PLC0415 - needed only for training and serving

        numbers = self._called(estimator, features, place)
        if numbers.shape in {(len(features),), (len(features), 1)}:
            infinite = int((~np.isfinite(numbers)).sum())
            if not infinite:
                return numbers.reshape(-1)
            got = f"{infinite:,} values that are not finite"
        else:
            got = f"an array of shape {numbers.shape}"
        problem = "predict must return a number per row"
        raise ModelError(problem, got=got, do="return a fitted regressor", place=place)

    def measure(
        self, label: Array, predictions: Array, threshold: float = HALF, groups: Array | None = None
    ) -> dict[str, float]:
        """Return every metric of predicted numbers; they are defined as in scikit-learn."""
        del threshold, groups
        import numpy as np  # noqa: PLC0415 - needed only for training

        errors = np.abs(predictions - label)
        spread = float(((label - label.mean()) ** 2).sum())
        return {
            "mae": float(errors.mean()),
            "rmse": float(np.sqrt((errors**2).mean())),
            "r2": 1 - float((errors**2).sum()) / spread if spread else 0.0,
            "median_absolute_error": float(np.median(errors)),
        }

    def answers(self, predictions: Array, threshold: float = HALF) -> list[dict[str, object]]:
        """Return the number."""
        del threshold
        return [{"value": value} for value in predictions.tolist()]

    def columns(self, predictions: Array, threshold: float = HALF) -> dict[str, pa.Array]:
        """Return the number."""
        del threshold
        return {"predicted": pa.array(predictions, pa.float64())}


class Forecasting(Regression):
    """A number of a later time. The baseline is a column: the last known value, or that of the season before."""

    name: ClassVar[TaskName] = "forecasting"
    metrics = MappingProxyType({"mae": False, "rmse": False, "smape": False, "bias": False, "r2": True})

    def measure(
        self, label: Array, predictions: Array, threshold: float = HALF, groups: Array | None = None
    ) -> dict[str, float]:
        """Return every metric; `smape` is from 0 to 2, and `bias` how far the mean is off."""
        import numpy as np  # noqa: PLC0415 - needed only for training

        size = np.abs(label) + np.abs(predictions)
        relative = np.divide(
            2 * np.abs(predictions - label), size, out=np.zeros_like(size, dtype=float), where=size > 0
        )
        found = super().measure(label, predictions, threshold, groups)
        known = {name: value for name, value in found.items() if name in self.metrics}
        return {**known, "smape": float(relative.mean()), "bias": float(abs((predictions - label).mean()))}

    def baseline(self, train: pd.DataFrame, label: pd.Series, rows: pd.DataFrame, by: Sequence[str]) -> Array:
        """Return the value of the baseline's column, the mean training label where it is null; without a column, that mean."""
        import numpy as np  # noqa: PLC0415 - needed only for training

        del train
        overall = float(label.mean())
        if not by:
            return np.full(len(rows), overall)
        return np.asarray(rows[by[0]].astype(float).fillna(overall), dtype=float)


class Ranking(Regression):
    """How relevant a row is among the rows of its group, for example of a search: 0 is not at all."""

    name: ClassVar[TaskName] = "ranking"
    metrics = MappingProxyType({"ndcg": True, "mrr": True, "precision": True})

    def label(self, column: pa.ChunkedArray, name: str, place: Place | None) -> pa.ChunkedArray:
        """Return relevances as integers from 0 to 30."""
        integers = column.cast(pa.int64()) if pa.types.is_boolean(column.type) else column
        if not pa.types.is_integer(integers.type):
            do = "use whole numbers from 0, or a condition"
            raise ModelError(f"the label {name!r} is no relevance", got=str(column.type), do=do, place=place)
        low, high = pc.min_max(integers).as_py().values()
        if low is not None and (low < 0 or high > _MOST_RELEVANCE):
            problem = f"the label {name!r} has relevances outside 0 to {_MOST_RELEVANCE}"
            raise ModelError(problem, got=f"{low} to {high}", place=place)
        return integers.cast(pa.int64())

    def measure(
        self, label: Array, predictions: Array, threshold: float = HALF, groups: Array | None = None
    ) -> dict[str, float]:
        """Return the means over the groups that have a relevant row.

        `ndcg` is that of the first ten rows, as in scikit-learn; `mrr` is one divided by the place of the first relevant row, and
        `precision` the share of relevant rows among the first ten. For rows of equal scores, it is the mean over all of their orders.
        """
        import numpy as np  # noqa: PLC0415 - needed only for training

        del threshold
        found = [
            _ranked(relevance, scores)
            for relevance, scores in _ordered(label, predictions, np.zeros(len(label)) if groups is None else groups)
            if relevance.max() > 0
        ]
        if not found:
            return dict.fromkeys(self.metrics, 0.0)
        return {name: float(np.mean([each[name] for each in found])) for name in self.metrics}

    def answers(self, predictions: Array, threshold: float = HALF) -> list[dict[str, object]]:
        """Return the score: rows of a group are in the order of their scores, the highest first."""
        del threshold
        return [{"score": score} for score in predictions.tolist()]


def require_finite(infinite: int, name: str, place: Place | None) -> None:
    """Raise `ModelError` if a label has values that are not finite."""
    if infinite:
        problem = f"the label {name!r} has values that are not finite"
        raise ModelError(problem, got=f"{infinite:,} rows", do="exclude them in the SELECT", place=place)


def _ordered(label: Array, predictions: Array, groups: Array) -> Iterator[tuple[Array, Array]]:
    """Yield the relevances and scores of each group, the highest score first."""
    import numpy as np  # noqa: PLC0415 - needed only for training

    _, codes = np.unique(groups, return_inverse=True)
    order = np.lexsort((-predictions, codes))
    ends = np.flatnonzero(np.diff(codes[order])) + 1
    yield from zip(np.split(label[order], ends), np.split(predictions[order], ends), strict=True)


def _ranked(relevance: Array, scores: Array) -> Mapping[str, float]:
    """Return the expected metrics of one group, whose best relevance is above 0, over all orders of rows with equal scores."""
    import numpy as np  # noqa: PLC0415 - needed only for training

    starts = np.concatenate([[0], np.flatnonzero(np.diff(scores)) + 1])
    sizes = np.diff(np.concatenate([starts, [len(scores)]]))
    gains = np.repeat(np.add.reduceat(relevance, starts) / sizes, sizes)[:_TOP]
    hits = np.add.reduceat((relevance > 0).astype(int), starts)
    discounts = 1 / np.log2(np.arange(2, len(gains) + 2))
    best = np.sort(relevance)[::-1][:_TOP]
    first = int(np.argmax(hits > 0))
    return {
        "ndcg": float((gains * discounts).sum() / (best * discounts[: len(best)]).sum()),
        "mrr": _expected_reciprocal(int(starts[first]), int(sizes[first]), int(hits[first])),
        "precision": float(np.repeat(hits / sizes, sizes)[:_TOP].mean()),
    }


def _expected_reciprocal(before: int, size: int, hits: int) -> float:
    """Return the expectation of one divided by the place of the first hit, among rows in a random order after `before` others."""
    total, none_yet = 0.0, 1.0
    for place in range(size - hits + 1):
        is_hit = hits / (size - place)
        total += none_yet * is_hit / (before + place + 1)
        none_yet *= 1 - is_hit
    return total
