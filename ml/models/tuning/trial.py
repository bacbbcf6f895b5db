"""One trial: fits an estimator with some values to part of the training rows, and reports how well it predicts another part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle
import numpy as np
import ray
import ray.tune

from ml.models.evaluation import Evaluation
from ml.models.fitted import FittedModel, with_threshold
from ml.models.rows import Kind, LabelledRows
from ml.models.tasks import Task
from ml.models.trainers.boosting import Boosting
from ml.models.trainers.trainer import FitRequest, Trainer
from pipeline.core.errors import Place

METRIC, STEP = "metric", "step"
REPORTS = 10
"""How often a trial that fits in rounds reports."""


@dataclass(frozen=True)
class TrialJob:
    """What all trials of a search have in common."""

    model: str
    trainer: Trainer
    evaluation: Evaluation
    rows: LabelledRows
    kinds: Mapping[str, Kind]
    task: Task
    folds: int
    place: Place


def run_trial(config: Mapping[str, object], shipped: list[Any]) -> None:
    """Fit and report, in a worker of Ray Tune: after each fold, or if there is one, after each tenth of the rounds."""
    job: TrialJob = cloudpickle.loads(ray.get(shipped[0]))
    values = {name: value.item() if isinstance(value, np.generic) else value for name, value in config.items()}
    if job.folds == 1:
        held_out = job.evaluation.holdout.validation(job.rows)
        metric = _fold(job, values, ~held_out, held_out, reports=isinstance(job.trainer, Boosting))
        ray.tune.report({METRIC: metric, STEP: REPORTS})
        return
    metrics: list[float] = []
    for number, (train, validation) in enumerate(job.evaluation.holdout.folds(job.rows, job.folds), start=1):
        metrics.append(_fold(job, values, train, validation, reports=False))
        ray.tune.report({METRIC: float(np.mean(metrics)), STEP: number})


def _fold(
    job: TrialJob,
    values: Mapping[str, object],
    train: np.ndarray[Any, Any],
    validation: np.ndarray[Any, Any],
    *,
    reports: bool,
) -> float:
    rest = job.rows.where(validation)
    label = rest.label.to_numpy()

    fitted_to = job.rows.where(train)

    def metric(estimator: Any) -> float:
        untuned = FittedModel(estimator, job.task, job.kinds, threshold=job.evaluation.threshold)
        fitted = with_threshold(untuned, fitted_to, job.place)
        predictions = fitted.predictions(rest.features, job.place)
        return fitted.measure(label, predictions, job.evaluation.costs, rest.group.to_numpy())[job.evaluation.metric]

    request = FitRequest(job.model, fitted_to, job.evaluation.label, job.task, job.kinds, values, job.place)
    if reports:
        request = replace(request, progress=_progress(job, values, metric))
    return metric(job.trainer.fit(request))


def _progress(job: TrialJob, values: Mapping[str, object], metric: Any) -> Any:
    rounds = int(str({**job.trainer.hyperparameters, **values}["rounds"]))
    marks = {round(rounds * step / REPORTS): step for step in range(1, REPORTS)}

    def progress(number: int, estimator: Any) -> None:
        if number in marks:
            ray.tune.report({METRIC: metric(estimator()), STEP: marks[number]})

    return progress
