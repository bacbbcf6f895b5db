"""What the results of a monitor of performance are computed from, besides the counts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from ml.monitoring.alarm_rules import Alarms

PerformanceTask = Literal["binary", "multiclass", "regression"]
METRICS: dict[PerformanceTask, dict[str, bool]] = {
    "binary": {"auc": True, "accuracy": True, "brier": False, "log_loss": False},
    "multiclass": {"accuracy": True},
    "regression": {"mae": False, "rmse": False, "bias": False},
}
"""The metrics of each task, the default first, and whether higher values are better."""
SCORE_BINS = 200
"""The bins of a probability."""
INVALID = -1
"""The bin of rows without a prediction, with one that is no probability, or with a label that is neither 0 nor 1."""


@dataclass(frozen=True)
class PerformanceOptions:
    """The options of a monitor of performance that decide its results."""

    task: PerformanceTask
    metric: str
    limit: float
    maturity: float
    threshold: float
    min_rows: int
    window: timedelta
    alarms: Alarms
    by: tuple[str, ...]
    has_segments: bool

    @property
    def is_higher_better(self) -> bool:
        """Whether higher values of the metric are better."""
        return METRICS[self.task][self.metric]
