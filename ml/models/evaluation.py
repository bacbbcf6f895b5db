"""How a model is judged: its metrics, the baseline it has to beat, and the gate. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

HIGHER_IS_BETTER: Mapping[str, bool] = MappingProxyType(
    {"accuracy": True, "auc": True, "average_precision": True, "brier": False, "log_loss": False}
)
"""The metrics, each with the way in which it is good."""


@dataclass(frozen=True)
class Evaluation:
    """What a model predicts, on which rows it is judged, and what it has to reach there.

    Rows before `split_at` (UTC) train; rows at or after it judge.
    """

    label: str
    split_at: datetime
    metric: str
    at_least: float
    baseline: tuple[str, ...] = ()
    min_rows: int = 1000


def measure(label: np.ndarray[Any, Any], probability: np.ndarray[Any, Any]) -> dict[str, float]:
    """Return every metric of predicted probabilities for labels of 0 and 1; both labels must occur.

    `accuracy` is the share of rows on the right side of one half, `brier` the mean squared error of the
    probability; the others are as scikit-learn defines them.
    """
    from sklearn import metrics  # noqa: PLC0415 - takes a second, which only training should spend

    return {
        "accuracy": float(((probability > 0.5) == (label == 1)).mean()),  # noqa: PLR2004 - the side of one half
        "auc": float(metrics.roc_auc_score(label, probability)),
        "average_precision": float(metrics.average_precision_score(label, probability)),
        "brier": float(((probability - label) ** 2).mean()),
        "log_loss": float(metrics.log_loss(label, probability, labels=[0, 1])),
    }


def baseline_probability(
    train: pd.DataFrame, label: pd.Series, holdout: pd.DataFrame, columns: tuple[str, ...]
) -> np.ndarray[Any, Any]:
    """Return the mean training label for each holdout row's values of `columns`.

    Values that the training rows do not have, and all rows without `columns`, get the mean of all training rows;
    null is a value.
    """
    import numpy as np  # noqa: PLC0415 - only training needs it

    overall = float(label.mean())
    if not columns:
        return np.full(len(holdout), overall)
    by, rate = list(columns), "mean label"
    rates = label.rename(rate).groupby([train[name] for name in by], dropna=False).mean().reset_index()
    probability = holdout[by].merge(rates, on=by, how="left")[rate]
    return np.asarray(probability.fillna(overall), dtype=float)


def gate(evaluation: Evaluation, model: Mapping[str, float], baseline: Mapping[str, float]) -> tuple[bool, str]:
    """Return whether a model is good enough, and why or why not, in words.

    Its metric has to reach `at_least` and to be better than the baseline's; for a metric where less is better,
    to reach is to be at or below.
    """
    metric, limit = evaluation.metric, evaluation.at_least
    got, simple = model[metric], baseline[metric]
    higher = HIGHER_IS_BETTER[metric]
    reaches = got >= limit if higher else got <= limit
    beats = got > simple if higher else got < simple
    above, below = ("at least", "below") if higher else ("at most", "above")
    if reaches and beats:
        return True, f"{metric} {got:.4f}: {above} {limit:g}, and better than the baseline's {simple:.4f}"
    faults = [] if reaches else [f"{below} {limit:g}"]
    faults += [] if beats else [f"no better than the baseline's {simple:.4f}"]
    return False, f"{metric} {got:.4f} is {' and '.join(faults)}"
