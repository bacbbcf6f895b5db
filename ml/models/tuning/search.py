"""The search for the best hyperparameters: trials on Ray Tune, compared on training rows that they did not fit."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import ray
import ray.tune

from ml.models.rows import TrainTestSplit, require_both_labels
from ml.models.trainers.trainer import SEED
from ml.models.tuning.definition import Choice, Range, Space, Tuning
from ml.models.tuning.trial import HISTORY, METRIC, REPORTS, STEP, TrialJob, run_trial, values_of
from pipeline.batch.ray_cluster import join, keeping_handler
from pipeline.core.errors import ModelError
from pipeline.core.extras import imports_of
from pipeline.core.fingerprint import fingerprint

if TYPE_CHECKING:
    from ml.models.definition import Model

_REDUCTION = 3
"""Of the trials that have come as far, one in three goes on."""


@dataclass(frozen=True)
class Trial:
    """Values of hyperparameters, and how good they are on validation rows."""

    values: Mapping[str, object]
    metric: float | None
    """`None` if the trial failed."""
    steps: int
    """How far it came before it ended or was stopped: the number of reports."""
    error: str = ""
    seconds: float = 0.0


def search(
    model: Model, tuning: Tuning, parts: TrainTestSplit, folder: Path
) -> tuple[dict[str, object], tuple[Trial, ...]]:
    """Return the best values of the hyperparameters that a model tunes, and all trials.

    A search that was interrupted goes on where it was, if rows and definition are the same: `folder` is for exactly these.
    Raises `ModelError` if all trials fail, and `UnavailableError` if Ray cannot be started.
    """
    evaluation = model.evaluation
    model.trainer.require_known(tuning.space, model.place)
    if tuning.folds == 1:
        rest = parts.train.where(evaluation.holdout.validation(parts.train))
        require_both_labels(rest, evaluation, model.place)
    join()
    job = TrialJob(
        model.name,
        model.trainer,
        evaluation,
        parts.train,
        parts.kinds,
        parts.task,
        tuning.folds,
        model.place,
        evolves=tuning.scheduler == "pbt",
    )
    shipped = ray.put(cloudpickle.dumps(job))
    trainable = ray.tune.with_resources(
        ray.tune.with_parameters(run_trial, shipped=[shipped]), {"cpu": min(tuning.cpus, _cores())}
    )
    # otherwise Tune's handlers stay: the next Ctrl-C would do nothing
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    with warnings.catch_warnings(), keeping_handler(signal.SIGUSR1):
        warnings.simplefilter("ignore")  # Tune warns about its own settings
        results = _tuner(tuning, trainable, folder, _defaults(model, tuning), higher=evaluation.higher_is_better).fit()
    trials = tuple(_trial(result, tuning) for result in (results[number] for number in range(len(results))))
    finished = [trial for trial in trials if trial.metric is not None]
    if not finished:
        reason = next((trial.error for trial in trials if trial.error), "no trial ended in time")
        raise ModelError(f"all trials of model {model.name!r} failed", got=reason, place=model.place)
    furthest = max(trial.steps for trial in finished)
    # a trial that was stopped early has seen less: only those that came to the end are compared
    ended = [trial for trial in finished if trial.steps == furthest]
    best = (max if evaluation.higher_is_better else min)(ended, key=lambda trial: trial.metric or 0.0)
    shutil.rmtree(folder, ignore_errors=True)
    return dict(best.values), trials


def folder_of(model: Model, rows: object, state: Path) -> Path:
    """Return the folder of the search for a model on rows of an origin."""
    return state / "tune" / f"{model.name}-{fingerprint(model.fingerprint, rows)}"


def _tuner(
    tuning: Tuning, trainable: Any, folder: Path, defaults: Mapping[str, object], *, higher: bool
) -> ray.tune.Tuner:
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    if (folder / "tuner.pkl").exists():
        with suppress(Exception):  # what was interrupted very early cannot be read, and starts anew
            return ray.tune.Tuner.restore(str(folder), trainable=trainable, restart_errored=True)
    shutil.rmtree(folder, ignore_errors=True)
    mode = "max" if higher else "min"
    return ray.tune.Tuner(
        trainable,
        param_space={name: _domain(space) for name, space in tuning.space.items()},
        tune_config=ray.tune.TuneConfig(
            metric=METRIC,
            mode=mode,
            num_samples=tuning.trials,
            search_alg=_algorithm(tuning, defaults, mode),
            scheduler=_scheduler(tuning),
            max_concurrent_trials=tuning.concurrent,
            time_budget_s=None if tuning.budget is None else tuning.budget.total_seconds(),
            reuse_actors=True,
        ),
        run_config=ray.tune.RunConfig(name=folder.name, storage_path=str(folder.parent.absolute()), verbose=0),
    )


def _algorithm(tuning: Tuning, defaults: Mapping[str, object], mode: str) -> Any:
    first = [dict(defaults)] if defaults else None
    if tuning.algorithm == "random":
        from ray.tune.search.basic_variant import BasicVariantGenerator  # noqa: PLC0415 - one of two

        return BasicVariantGenerator(points_to_evaluate=first, random_state=SEED)
    with imports_of("optuna", "the algorithm 'optuna'"):
        import optuna  # noqa: PLC0415 - an extra
    from ray.tune.search.optuna import OptunaSearch  # noqa: PLC0415 - one of two

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=SEED)
    return OptunaSearch(points_to_evaluate=first, sampler=sampler, metric=METRIC, mode=mode)


def _scheduler(tuning: Tuning) -> Any:
    if tuning.scheduler == "all":
        return None
    from ray.tune.schedulers import (  # noqa: PLC0415 - importing Ray Tune takes seconds
        ASHAScheduler,
        PopulationBasedTraining,
    )

    if tuning.scheduler == "pbt":
        return PopulationBasedTraining(
            time_attr=STEP,
            perturbation_interval=1,
            hyperparam_mutations={name: _mutations(space) for name, space in tuning.space.items()},
            custom_explore_fn=partial(_within, dict(tuning.space)),
        )
    reports = REPORTS if tuning.folds == 1 else tuning.folds
    return ASHAScheduler(time_attr=STEP, max_t=reports, grace_period=1, reduction_factor=_REDUCTION)


def _defaults(model: Model, tuning: Tuning) -> dict[str, object]:
    """Return the values without tuning, which the first trial has; none unless all are known, and in the space."""
    known = model.trainer.hyperparameters
    if any(name not in known or not space.has(known[name]) for name, space in tuning.space.items()):
        return {}
    return {name: known[name] for name in tuning.space}


def _domain(space: Space) -> Any:
    if isinstance(space, Choice):
        return ray.tune.choice(list(space.values))
    if space.scale == "integer":
        return ray.tune.randint(int(space.low), int(space.high) + 1)
    return (ray.tune.loguniform if space.scale == "log" else ray.tune.uniform)(space.low, space.high)


def _mutations(space: Space) -> Any:
    # a choice is a list, from which Tune takes a neighbour: it would multiply the value of a domain
    return list(space.values) if isinstance(space, Choice) else _domain(space)


def _within(space: Mapping[str, Space], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a trial in their ranges, which Tune leaves when it multiplies them."""
    values = dict(config)
    for name, known in space.items():
        if isinstance(known, Range):
            value = min(max(values[name], known.low), known.high)
            values[name] = round(value) if known.scale == "integer" else value
    return values


def _trial(result: Any, tuning: Tuning) -> Trial:
    metrics = result.metrics or {}
    values = {name: metrics.get("config", {}).get(name) for name in tuning.space}
    if HISTORY in metrics:
        values = values_of(json.loads(metrics[HISTORY]))
    error = "" if result.error is None else str(result.error).strip().splitlines()[-1]
    metric = None if result.error is not None else metrics.get(METRIC)
    if metric is not None and math.isnan(metric):
        metric, error = None, "its metric is no number, for example because all validation rows have one label"
    return Trial(values, metric, int(metrics.get(STEP, 0)), error, float(metrics.get("time_total_s", 0.0)))


def _cores() -> float:
    return max(float(ray.cluster_resources().get("CPU", 1.0)), 1.0)  # type: ignore[no-untyped-call]  # Ray is untyped
