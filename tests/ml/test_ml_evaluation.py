"""Metrics against their formulas, the baseline, and the gate."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from ml.models.evaluation import Evaluation, gate
from ml.models.holdout import Holdout
from ml.models.tasks import task_of

BINARY = task_of("binary", (0, 1))


def test_metrics_of_four_rows_equal_manual_results():
    metrics = BINARY.measure(np.array([1, 0, 1, 0]), np.array([0.9, 0.6, 0.4, 0.1]))

    assert {*metrics, "cost"} == set(BINARY.metrics)  # errors have no costs here
    assert (metrics["precision"], metrics["recall"], metrics["f1"]) == (0.5, 0.5, 0.5)
    assert metrics["accuracy"] == 0.5
    assert metrics["auc"] == 0.75  # of the four pairs of a late and a punctual row, three are in order
    assert metrics["average_precision"] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert metrics["brier"] == pytest.approx((0.01 + 0.36 + 0.36 + 0.01) / 4)
    assert metrics["log_loss"] == pytest.approx(-(2 * math.log(0.9) + 2 * math.log(0.4)) / 4)


def test_the_baseline_is_the_mean_label_of_equal_values():
    train = pd.DataFrame({"carrier": ["A", "A", "B", None], "hour": [1.0, 2.0, 1.0, np.nan]})
    label = pd.Series([1, 0, 1, 0])
    holdout = pd.DataFrame({"carrier": ["B", None, "A", "C"], "hour": [1.0, np.nan, 2.0, 1.0]})

    assert list(BINARY.baseline(train, label, holdout, ("carrier",))) == [1, 0, 0.5, 0.5]
    assert list(BINARY.baseline(train, label, holdout, ("carrier", "hour"))) == [1, 0, 0, 0.5]
    assert list(BINARY.baseline(train, label, holdout, ())) == [0.5] * 4


@pytest.mark.parametrize(
    ("metric", "at_least", "figures", "accepted", "reason"),
    [
        ("auc", 0.65, (0.70, 0.6), True, "auc 0.7000: at least 0.65, and better than the baseline's 0.6000"),
        ("auc", 0.70, (0.70, 0.6), True, "auc 0.7000: at least 0.7"),
        ("auc", 0.75, (0.70, 0.6), False, "auc 0.7000 is below 0.75"),
        ("auc", 0.65, (0.70, 0.7), False, "auc 0.7000 is no better than the baseline's 0.7000"),
        ("auc", 0.75, (0.70, 0.8), False, "auc 0.7000 is below 0.75 and no better than the baseline's 0.8000"),
        ("brier", 0.2, (0.15, 0.17), True, "brier 0.1500: at most 0.2, and better than the baseline's 0.1700"),
        ("brier", 0.1, (0.15, 0.17), False, "brier 0.1500 is above 0.1"),
        ("log_loss", 0.2, (0.15, 0.14), False, "log_loss 0.1500 is no better than the baseline's 0.1400"),
    ],
)
def test_the_gate(metric, at_least, figures, accepted, reason):
    model, baseline = figures
    evaluation = Evaluation("late", Holdout(at=datetime(2024, 1, 1, tzinfo=UTC)), metric, at_least)

    judgement = gate(evaluation, {metric: model}, {metric: baseline})

    assert judgement.accepted is accepted
    assert judgement.reason.startswith(reason)
