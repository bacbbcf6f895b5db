"""Which features a model uses: by how much its metric gets worse if the values of one feature are exchanged between rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ml.models.evaluation import Evaluation
from ml.models.fitted import FittedModel
from ml.models.rows import LabelledRows
from ml.models.trainers.boosted_trees import BoostedTrees

if TYPE_CHECKING:
    import numpy as np

_ROWS, _REPEATS, _SEED = 2000, 3, 0


def permutation_importance(fitted: FittedModel, rows: LabelledRows, evaluation: Evaluation) -> dict[str, float]:
    """Return for each feature by how much the metric gets worse without it, the most important first.

    It is measured on at most 2,000 rows; the mean of three permutations. A feature that is not used has 0.
    """
    import numpy as np  # noqa: PLC0415 - needed only for training

    draw = np.random.default_rng(_SEED)
    chosen = draw.choice(len(rows), size=min(_ROWS, len(rows)), replace=False)
    sample = rows.where(np.isin(np.arange(len(rows)), chosen))
    if fitted.task.has_two_labels and sample.label.nunique() == 1:
        return {}
    base = _metric(fitted, sample, fitted.predictions(sample.features), evaluation)
    losses: dict[str, float] = {}
    unused = _unused(fitted)
    for name in fitted.kinds:
        total = 0.0
        if name in unused:
            losses[name] = total
            continue
        for _ in range(_REPEATS):
            mixed = sample.features.assign(
                **{name: sample.features[name].iloc[draw.permutation(len(sample))].to_numpy()}
            )
            got = _metric(fitted, sample, fitted.predictions(mixed.astype(sample.features.dtypes)), evaluation)
            total += (base - got) if evaluation.higher_is_better else (got - base)
        losses[name] = total / _REPEATS
    return dict(sorted(losses.items(), key=lambda pair: (-pair[1], pair[0])))


def _unused(fitted: FittedModel) -> set[str]:
    """Return the features that no tree splits by; for other estimators, this is not known."""
    if not isinstance(fitted.estimator, BoostedTrees):
        return set()
    return {name for name, share in fitted.estimator.importances.items() if not share}


def _metric(
    fitted: FittedModel, rows: LabelledRows, predictions: np.ndarray[Any, Any], evaluation: Evaluation
) -> float:
    label, groups = rows.label.to_numpy(), rows.group.to_numpy()
    return fitted.measure(label, predictions, evaluation.costs, groups)[evaluation.metric]
