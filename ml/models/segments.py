"""The metric of a model for each value of its segments: where it is worst, and whether that is fair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml.models.evaluation import Evaluation
from ml.models.fitted import FittedModel
from ml.models.rows import LabelledRows

if TYPE_CHECKING:
    import numpy as np

LEAST_ROWS = 100
"""Segments of fewer rows have no metric."""
_MOST_VALUES = 50
_BINS = 4


@dataclass(frozen=True)
class Segment:
    """The rows of the holdout with one value of a column."""

    column: str
    value: str
    rows: int
    mean_label: float | None
    """The mean label, of numbers and conditions."""
    metric: float | None
    """`None` if there are fewer than 100 rows, or, for conditions, only one label."""

    @property
    def name(self) -> str:
        """The column and its value."""
        return f"{self.column}={self.value}"


def segments_of(
    fitted: FittedModel, rows: LabelledRows, predictions: np.ndarray[Any, Any], evaluation: Evaluation
) -> list[Segment]:
    """Return the segments of each column, the worst first; all values of texts and of numbers that have few, of other numbers the quarters."""
    found = [
        each for column in evaluation.segments for each in _of_column(fitted, rows, predictions, evaluation, column)
    ]
    known = [each for each in found if each.metric is not None]
    known.sort(key=lambda each: (each.metric or 0.0, each.name), reverse=not evaluation.higher_is_better)
    return known + [each for each in found if each.metric is None]


def _of_column(
    fitted: FittedModel, rows: LabelledRows, predictions: np.ndarray[Any, Any], evaluation: Evaluation, column: str
) -> Iterator[Segment]:
    import pandas as pd  # noqa: PLC0415 - needed only for training

    values = rows.column(column)
    if (
        pd.api.types.is_numeric_dtype(values)
        and not pd.api.types.is_bool_dtype(values)
        and values.nunique() > _MOST_VALUES
    ):
        values = pd.qcut(values, _BINS, duplicates="drop").astype(str).where(values.notna())
    texts = values.astype(object).where(values.notna(), "null").astype(str)
    label, groups = rows.label.to_numpy(), rows.group.to_numpy()
    for value in texts.value_counts().index.tolist():
        mask = (texts == value).to_numpy()
        part, count = label[mask], int(mask.sum())
        is_judged = count >= LEAST_ROWS and (not fitted.task.has_two_labels or len(set(part.tolist())) > 1)
        metric = None
        if is_judged:
            metric = fitted.measure(part, predictions[mask], evaluation.costs, groups[mask])[evaluation.metric]
        mean = None if fitted.task.name == "multiclass" else float(part.mean())
        yield Segment(column, value, count, mean, metric)
