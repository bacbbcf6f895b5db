"""One trial: fits an estimator with some values to part of the training rows, and reports how well it predicts another part."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import ray
import ray.tune

from ml.models.evaluation import Evaluation
from ml.models.fitted import FittedModel, with_threshold
from ml.models.rows import Kind, LabelledRows
from ml.models.tasks import Task
from ml.models.trainers.boosted_trees import BoostedTrees
from ml.models.trainers.boosting import Boosting, rounds_of_stage
from ml.models.trainers.trainer import FitRequest, Trainer
from pipeline.core.errors import Place

METRIC, STEP, HISTORY = "metric", "step", "history"
REPORTS = 10
"""How often a trial that fits in rounds reports."""
_HISTORY_FILE = "history.json"


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
    evolves: bool = False
    """Whether trials go on from the trees of better ones."""


def run_trial(config: Mapping[str, object], shipped: list[Any]) -> None:
    """Fit and report, in a worker of Ray Tune: after each fold, or if there is one, after each tenth of the rounds."""
    job: TrialJob = cloudpickle.loads(ray.get(shipped[0]))
    values = {name: value.item() if isinstance(value, np.generic) else value for name, value in config.items()}
    if job.evolves:
        _evolve(job, values)
        return
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
    fitted_to = job.rows.where(train)
    metric = _metric(job, fitted_to, job.rows.where(validation))
    request = FitRequest(job.model, fitted_to, job.evaluation.label, job.task, job.kinds, values, job.place)
    if reports:
        request = replace(request, progress=_progress(job, values, metric))
    return metric(job.trainer.fit(request))


def _metric(job: TrialJob, fitted_to: LabelledRows, rest: LabelledRows) -> Callable[[Any], float]:
    """Return the function that measures an estimator, which is fitted to some rows, on others."""
    label = rest.label.to_numpy()

    def metric(estimator: Any) -> float:
        untuned = FittedModel(estimator, job.task, job.kinds, threshold=job.evaluation.threshold)
        fitted = with_threshold(untuned, fitted_to, job.place)
        predictions = fitted.predictions(rest.features, job.place)
        return fitted.measure(label, predictions, job.evaluation.costs, rest.group.to_numpy())[job.evaluation.metric]

    return metric


def _evolve(job: TrialJob, values: Mapping[str, object]) -> None:
    """Fit a tenth of the rounds after the other, and report each with a checkpoint, from which this or another trial goes on."""
    held_out = job.evaluation.holdout.validation(job.rows)
    fitted_to = job.rows.where(~held_out)
    metric = _metric(job, fitted_to, job.rows.where(held_out))
    rounds = int(str(job.trainer.hyperparameters["rounds"]))
    stages = min(REPORTS, rounds)
    history, trees = _checkpoint()
    for stage in range(len(history), stages):
        history = [*history, values]
        of_stage = {**values, "rounds": rounds_of_stage(rounds, stage, stages)}
        request = FitRequest(job.model, fitted_to, job.evaluation.label, job.task, job.kinds, of_stage, job.place)
        trees = job.trainer.fit(replace(request, start=trees))
        with tempfile.TemporaryDirectory() as folder:
            trees.save(Path(folder))
            (Path(folder) / _HISTORY_FILE).write_text(json.dumps(history), encoding="utf-8")
            report = {METRIC: metric(trees), STEP: stage + 1, HISTORY: json.dumps(history)}
            ray.tune.report(report, checkpoint=ray.tune.Checkpoint.from_directory(folder))


def _checkpoint() -> tuple[list[Mapping[str, object]], Any]:
    """Return the values of each stage so far, and the trees; none at the beginning."""
    known = ray.tune.get_checkpoint()
    if known is None:
        return [], None
    with known.as_directory() as folder:
        history = json.loads((Path(folder) / _HISTORY_FILE).read_text(encoding="utf-8"))
        return history, BoostedTrees.load(Path(folder))


def values_of(history: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Return the values of hyperparameters: where they changed, a list with one for each stage."""
    every = {name: [values[name] for values in history] for name in history[-1]}
    return {name: values[0] if all(each == values[0] for each in values) else values for name, values in every.items()}


def _progress(job: TrialJob, values: Mapping[str, object], metric: Any) -> Any:
    rounds = int(str({**job.trainer.hyperparameters, **values}["rounds"]))
    marks = {round(rounds * step / REPORTS): step for step in range(1, REPORTS)}

    def progress(number: int, estimator: Any) -> None:
        if number in marks:
            ray.tune.report({METRIC: metric(estimator()), STEP: marks[number]})

    return progress
