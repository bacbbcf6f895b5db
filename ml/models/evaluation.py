"""The evaluation of a model: its metrics, the baseline, and the gate. Pure functions of arrays."""

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
"""The metrics, and whether higher values are better."""


@dataclass(frozen=True)
class Evaluation:
    """What a model predicts, on which rows it is evaluated, and the metric that it must reach.

    Rows before `split_at` (UTC) are for training; rows at or after it are for evaluation.
    """

    label: str
    split_at: datetime
    metric: str
    at_least: float
    baseline: tuple[str, ...] = ()
    min_rows: int = 1000


def measure(label: np.ndarray[Any, Any], probability: np.ndarray[Any, Any]) -> dict[str, float]:
    """Return every metric of predicted probabilities for labels of 0 and 1; both labels must occur.

    `accuracy` is the share of rows whose probability is on the correct side of 0.5, `brier` the mean squared error of
    the probability. The others are defined as in scikit-learn.
    """
    from sklearn import metrics  # noqa: PLC0415 - takes a second to import; only training needs it

    return {
        "accuracy": float(((probability > 0.5) == (label == 1)).mean()),  # noqa: PLR2004 - the decision threshold
        "auc": float(metrics.roc_auc_score(label, probability)),
        "average_precision": float(metrics.average_precision_score(label, probability)),
        "brier": float(((probability - label) ** 2).mean()),
        "log_loss": float(metrics.log_loss(label, probability, labels=[0, 1])),
    }


def baseline_probability(
    train: pd.DataFrame, label: pd.Series, holdout: pd.DataFrame, columns: tuple[str, ...]
) -> np.ndarray[Any, Any]:
    """Return the mean training label for each holdout row's values of `columns`.

    Values that do not occur in the training rows, and all rows if `columns` is empty, get the mean of all training
    rows. Null is a value.
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
    """Return whether a model passes the gate, and the reason.

    Its metric must reach `at_least` (at or below it, if lower values are better) and be better than the baseline's.
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
