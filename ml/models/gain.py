"""By how much one model is better than another on the same rows, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ml.models.evaluation import Evaluation
from ml.models.fitted import FittedModel
from ml.models.rows import LabelledRows

if TYPE_CHECKING:
    import numpy as np

_SAMPLES, _MOST_ROWS, _SEED = 100, 20_000, 0


def bootstrapped_gains(
    models: tuple[FittedModel, FittedModel],
    rows: LabelledRows,
    predictions: Sequence[np.ndarray[Any, Any]],
    evaluation: Evaluation,
) -> tuple[float, float, float]:
    """Return the 5 % quantile, the value and the 95 % quantile of how much better the first model's metric is.

    The quantiles are those of a paired bootstrap: both models are measured on the same 100 draws of rows.
    """
    import numpy as np  # noqa: PLC0415 - needed only for training

    label, groups = rows.label.to_numpy(), rows.group.to_numpy()
    is_ranking = evaluation.task == "ranking"

    def gain(chosen: np.ndarray[Any, Any], of: np.ndarray[Any, Any]) -> float:
        first, second = (
            model.measure(label[chosen], part[chosen], evaluation.costs, of)[evaluation.metric]
            for model, part in zip(models, predictions, strict=True)
        )
        return first - second if evaluation.higher_is_better else second - first

    # what is drawn: rows, or for a ranking groups, whose rows are ranked together
    _, codes = np.unique(groups, return_inverse=True) if is_ranking else (None, np.arange(len(label)))
    units = (
        np.split(np.argsort(codes, kind="stable"), np.flatnonzero(np.diff(np.sort(codes))) + 1) if is_ranking else None
    )
    count = len(label) if units is None else len(units)
    draw, size = np.random.default_rng(_SEED), min(count, _MOST_ROWS)
    value, drawn = gain(np.arange(len(label)), groups), []
    for _ in range(_SAMPLES):
        picked = draw.integers(0, count, size)
        chosen = picked if units is None else np.concatenate([units[each] for each in picked])
        of = groups[chosen] if units is None else np.repeat(np.arange(size), [len(units[each]) for each in picked])
        if not evaluation.kind.has_two_labels or len(set(label[chosen].tolist())) > 1:
            drawn.append(gain(chosen, of))
    # draws of fewer rows vary more than all rows would
    spread = (np.asarray(drawn or [value]) - value) * np.sqrt(size / count)
    low, high = np.quantile(value + spread, [0.05, 0.95])
    return float(low), value, float(high)
