"""By how much one model is better than another on the same rows, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ml.models.evaluation import Evaluation
from ml.models.fitted import FittedModel

if TYPE_CHECKING:
    import numpy as np

_SAMPLES, _MOST_ROWS, _SEED = 100, 20_000, 0


def bootstrapped_gains(
    models: tuple[FittedModel, FittedModel],
    label: np.ndarray[Any, Any],
    predictions: Sequence[np.ndarray[Any, Any]],
    evaluation: Evaluation,
) -> tuple[float, float, float]:
    """Return the 5 % quantile, the value and the 95 % quantile of how much better the first model's metric is.

    The quantiles are those of a paired bootstrap: both models are measured on the same 100 draws of rows.
    """
    import numpy as np  # noqa: PLC0415 - needed only for training

    def gain(rows: np.ndarray[Any, Any]) -> float:
        first, second = (
            model.measure(label[rows], part[rows], evaluation.costs)[evaluation.metric]
            for model, part in zip(models, predictions, strict=True)
        )
        return first - second if evaluation.higher_is_better else second - first

    draw = np.random.default_rng(_SEED)
    size = min(len(label), _MOST_ROWS)
    value, drawn = gain(np.arange(len(label))), []
    for _ in range(_SAMPLES):
        rows = draw.integers(0, len(label), size)
        if evaluation.task != "binary" or len(set(label[rows].tolist())) > 1:
            drawn.append(gain(rows))
    # draws of fewer rows vary more than all rows would
    spread = (np.asarray(drawn or [value]) - value) * np.sqrt(size / len(label))
    low, high = np.quantile(value + spread, [0.05, 0.95])
    return float(low), value, float(high)
