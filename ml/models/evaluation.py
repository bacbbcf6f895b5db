"""The evaluation of a model: on which rows, by which metric, and the gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ml.models.tasks import Task, TaskName, task_of


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
    task: TaskName = "binary"

    @property
    def kind(self) -> Task:
        """The task of its label, without the classes that a model learns."""
        return task_of(self.task)


def gate(evaluation: Evaluation, model: Mapping[str, float], baseline: Mapping[str, float]) -> tuple[bool, str]:
    """Return whether a model passes the gate, and the reason.

    Its metric must reach `at_least` (at or below it, if lower values are better) and be better than the baseline's.
    """
    metric, limit = evaluation.metric, evaluation.at_least
    got, simple = model[metric], baseline[metric]
    higher = evaluation.kind.metrics[metric]
    reaches = got >= limit if higher else got <= limit
    beats = got > simple if higher else got < simple
    above, below = ("at least", "below") if higher else ("at most", "above")
    if reaches and beats:
        return True, f"{metric} {got:.4f}: {above} {limit:g}, and better than the baseline's {simple:.4f}"
    faults = [] if reaches else [f"{below} {limit:g}"]
    faults += [] if beats else [f"no better than the baseline's {simple:.4f}"]
    return False, f"{metric} {got:.4f} is {' and '.join(faults)}"
