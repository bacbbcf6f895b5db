"""The evaluation of a model: on which rows, by which metric, and the gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ml.models.calibration import CalibrationMethod, Costs
from ml.models.holdout import Holdout
from ml.models.tasks import HALF, Task, TaskName, task_of


@dataclass(frozen=True)
class Evaluation:
    """What a model predicts, on which rows it is evaluated, and the metric that it must reach."""

    label: str
    holdout: Holdout
    metric: str
    at_least: float
    baseline: tuple[str, ...] = ()
    min_rows: int = 1000
    task: TaskName = "binary"
    exclude: tuple[str, ...] = ()
    """Columns of the training set that are not features."""
    segments: tuple[str, ...] = ()
    """Columns for whose values the metric is shown."""
    segment_at_least: float | None = None
    """The metric that each segment must reach."""
    calibrate: CalibrationMethod | None = None
    costs: Costs | None = None
    leaks: tuple[str, ...] = ()
    """Features that are known to be no leaks."""
    min_gain: float | None = None
    """By how much the metric must be better than that of the champion on the same rows."""

    @property
    def kind(self) -> Task:
        """The task of its label, without the classes that a model learns."""
        return task_of(self.task)

    @property
    def threshold(self) -> float:
        """The probability above which 1 is the cheaper prediction; 0.5 if errors have no costs."""
        return HALF if self.costs is None else self.costs.threshold

    @property
    def higher_is_better(self) -> bool:
        """Whether higher values of the metric are better."""
        return self.kind.metrics[self.metric]

    def reaches(self, value: float, limit: float) -> bool:
        """Return whether a value of the metric is at least as good as a limit."""
        return value >= limit if self.higher_is_better else value <= limit


@dataclass(frozen=True)
class Judgement:
    """Whether a model is accepted, and why."""

    accepted: bool
    reason: str


def gate(
    evaluation: Evaluation,
    model: Mapping[str, float],
    baseline: Mapping[str, float],
    *,
    segments: Mapping[str, float] = {},
    faults: tuple[str, ...] = (),
) -> Judgement:
    """Return whether a model passes the gate, and the reason.

    Its metric must reach `at_least` (at or below it, if lower values are better) and be better than the baseline's. The metric
    of each segment must reach `segment_at_least`. `faults` are further reasons to refuse it.
    """
    metric, limit = evaluation.metric, evaluation.at_least
    got, simple = model[metric], baseline[metric]
    reaches = evaluation.reaches(got, limit)
    beats = got != simple and evaluation.reaches(got, simple)
    above, below = ("at least", "below") if evaluation.higher_is_better else ("at most", "above")
    found = [] if reaches else [f"{below} {limit:g}"]
    found += [] if beats else [f"no better than the baseline's {simple:.4f}"]
    least = evaluation.segment_at_least
    if least is not None:
        found += [
            f"{value:.4f} for {segment}, {below} {least:g}"
            for segment, value in segments.items()
            if not evaluation.reaches(value, least)
        ]
    if not found and not faults:
        return Judgement(
            accepted=True, reason=f"{metric} {got:.4f}: {above} {limit:g}, and better than the baseline's {simple:.4f}"
        )
    text = f"{metric} {got:.4f} is {' and '.join(found)}" if found else f"{metric} {got:.4f}"
    return Judgement(accepted=False, reason="; ".join((text, *faults)))
