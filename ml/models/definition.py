"""Model definitions: what fits an estimator to which rows, and the quality it must reach on others."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any, Literal, Required, TypedDict, Unpack, get_args, overload

from ml.models.calibration import METHODS, CalibrationMethod, costs_of
from ml.models.evaluation import Evaluation
from ml.models.holdout import holdout_of
from ml.models.options import require_whole_number
from ml.models.retraining import Retraining
from ml.models.rollout import Rollout, RolloutSteps
from ml.models.tasks import TASKS, TaskName, task_of
from ml.models.trainers.function import FunctionTrainer
from ml.models.trainers.trainer import Trainer
from ml.models.tuning.definition import Tuning
from pipeline.core.definitions import Artifact, BuildContext, Definition, Verdict, caller, names
from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.fingerprint import fingerprint
from pipeline.core.functions import place_of_decorated

Approval = Literal["automatic", "manual"]
APPROVALS: tuple[Approval, ...] = get_args(Approval)


@dataclass(frozen=True, kw_only=True)
class Model(Artifact):
    """A model of one label, trained on one training set. Calling it calls its function, for example in a unit test."""

    trainer: Trainer
    training_set: str
    evaluation: Evaluation
    tuning: Tuning | None = None
    retraining: Retraining | None = None
    """When it is trained again on other rows; `None`: whenever they change."""
    unit: str = ""
    """The column of a request that identifies who is concerned: all rows of a unit are predicted by the same version."""
    owner: str = ""
    rollout: Rollout | None = None
    """How an accepted model takes over from the champion; `None`: at once."""
    approval: Approval = "automatic"
    """Whether an accepted model becomes the champion at once, or after somebody has promoted it."""

    @property
    def kind(self) -> str:
        """`model`."""
        return "model"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The training set, and the monitors whose alarms train it again."""
        return (self.training_set, *(() if self.retraining is None else self.retraining.on))

    @property
    def companions(self) -> tuple[Definition, ...]:
        """What decides about its rollout."""
        if self.rollout is None:
            return ()
        words = f"Decides about the rollout of {self.name}."
        return (
            RolloutSteps(
                place=self.place, name=f"{self.name}_rollout", description=words, model=self.name, rollout=self.rollout
            ),
        )

    @property
    def fingerprint(self) -> str:
        """Changes with the code that fits the estimator, the project code that it calls, the tuning and the evaluation."""
        return fingerprint("model", self.trainer.fingerprint, self.training_set, self.evaluation, self.tuning)

    def __call__(self, *args: Any, **tables: Any) -> Any:
        """Call the function."""
        if not isinstance(self.trainer, FunctionTrainer):
            raise DefinitionError(f"model {self.name!r} has no function", place=self.place)
        return self.trainer.function(*args, **tables)

    def verdict(self, context: BuildContext) -> Verdict | None:
        """Return the stored verdict for exactly these rows and this definition: acceptance of the champion, or refusal.

        A refused model is evaluated again once its rows or its definition change.
        """
        from ml.models import training  # noqa: PLC0415 - imports pandas and MLflow, which is slow

        return training.verdict(self, context)

    def build(self, context: BuildContext) -> Verdict:
        """Train on all rows but the holdout, evaluate on the holdout, log the model, and return the verdict.

        An accepted model is registered under the definition's name and becomes its `champion`. For a refused model
        only the run is logged, and the previous champion stays. The same rows and code produce the same model. Raises
        `DefinitionError` if training set and model do not match, `ModelError` if the model cannot be trained or evaluated, and
        `StorageError` if the model store cannot be used.
        """
        from ml.models import training  # noqa: PLC0415 - see above

        return training.build(self, context)

    def registered(self, store: str, name: str) -> frozenset[str]:
        """Return the registered versions of a model; none for one that is not registered. Writes nothing."""
        from ml.models.registry.registry import Registry  # noqa: PLC0415 - see above

        return Registry(store).versions(name)


class ModelOptions(TypedDict, total=False):
    """The options of `model`; see there."""

    label: Required[str]
    split_at: str
    holdout: str | float | None
    split_by: str | Sequence[str]
    task: TaskName
    metric: str
    at_least: Required[float]
    baseline: str | Sequence[str]
    min_rows: int
    tuning: Tuning | None
    exclude: str | Sequence[str]
    segments: str | Sequence[str]
    segment_at_least: float | None
    calibrate: CalibrationMethod | None
    costs: Mapping[str, float] | None
    min_gain: float | None
    leaks: str | Sequence[str]
    retrain: Retraining | None
    unit: str
    owner: str
    rollout: Rollout | None
    approval: Approval
    description: str


@overload
def model(training_set: str, trainer: Trainer, /, **options: Unpack[ModelOptions]) -> Model: ...


@overload
def model(**options: Unpack[ModelOptions]) -> Callable[[Callable[..., Any]], Model]: ...


def model(  # noqa: PLR0913 - options of a definition, all keyword-only
    training_set: str = "",
    trainer: Trainer | None = None,
    /,
    *,
    label: str,
    split_at: str = "",
    holdout: str | float | None = None,
    split_by: str | Sequence[str] = (),
    task: TaskName = "binary",
    metric: str = "",
    at_least: float,
    baseline: str | Sequence[str] = (),
    min_rows: int = 1000,
    tuning: Tuning | None = None,
    exclude: str | Sequence[str] = (),
    segments: str | Sequence[str] = (),
    segment_at_least: float | None = None,
    calibrate: CalibrationMethod | None = None,
    costs: Mapping[str, float] | None = None,
    min_gain: float | None = None,
    leaks: str | Sequence[str] = (),
    retrain: Retraining | None = None,
    unit: str = "",
    owner: str = "",
    rollout: Rollout | None = None,
    approval: Approval = "automatic",
    description: str = "",
) -> Model | Callable[[Callable[..., Any]], Model]:
    """Define a model: as the decorator of a function that fits an estimator, or from a training set and a trainer.

    The first parameter of the function is named like its training set. The function receives a pandas DataFrame of the training
    rows, ordered by event time. It contains the features and the label, without key and event time. Numbers and booleans are float64,
    text is str, timestamps are UTC, and null is NaN. Rows without a label are excluded. Further parameters of the function are
    hyperparameters and have defaults. `LightGBM(…)`, `XGBoost(…)` and `Torch(…)` are trainers that need none.

    | task | label | the estimator has | metrics, the default first |
    | --- | --- | --- | --- |
    | binary | a boolean, or 0 and 1; the function gets 0 and 1 | predict_proba | auc, accuracy, average_precision, precision, recall, f1, brier, log_loss, cost |
    | multiclass | a text, an integer or a boolean | predict_proba | accuracy, balanced_accuracy, f1_macro, log_loss |
    | regression | a number | predict | mae, rmse, r2, median_absolute_error |
    | forecasting | a number of a later time; the baseline is a column with the last known value | predict | mae, rmse, smape, bias, r2 |
    | ranking | a relevance from 0 among the rows of a group (`split_by`) | predict | ndcg, mrr, precision, of the first ten |
    | anomaly | a condition; the estimator is fitted without it | score_samples | average_precision, auc, precision, recall, f1, accuracy |

    The model is evaluated on rows that training does not see: those from `split_at` (a date or time, UTC) on, the newest ones
    (`holdout`: a duration or a share of the rows), or those of a share of the groups that the columns `split_by` form. `metric` must be at
    least as good as `at_least`, and better than the metric of the baseline: the mean label for each value of the
    `baseline` columns. Each part needs `min_rows` labelled rows; the training rows need different labels, and those of
    a binary task both labels in each part. See `docs/models.md` for the other options.

    Raises `DefinitionError` for a function whose parameters are not a training set and hyperparameters with defaults, an unknown
    task or metric, options that contradict each other, and a baseline that contains the label.
    """
    place = caller()
    if approval not in APPROVALS:
        raise DefinitionError(f"unknown approval {approval!r}", do=did_you_mean(str(approval), APPROVALS), place=place)
    chosen = _metric(task, metric, place)
    evaluation = Evaluation(
        label,
        holdout_of(split_at, holdout, names(split_by), place),
        chosen,
        at_least,
        names(baseline),
        min_rows,
        task,
        names(exclude),
        names(segments),
        segment_at_least,
        calibrate,
        costs_of(costs, place),
        names(leaks),
        min_gain,
    )
    _require_valid(evaluation, place)
    _require_fit(evaluation, place)
    _require_made_by("tuning", tuning, Tuning, "tune", place)
    _require_made_by("retrain", retrain, Retraining, "retrain", place)
    _require_rollout(rollout, unit, approval, place)
    define = partial(
        Model,
        evaluation=evaluation,
        tuning=tuning,
        retraining=retrain,
        unit=unit,
        owner=owner,
        rollout=rollout,
        approval=approval,
    )
    if trainer is not None:
        _require_tunable(tuning, trainer, place)
        _require_task(trainer, task, place)
        return define(place=place, description=description, trainer=trainer, training_set=training_set)

    def decorate(function: Callable[..., Any]) -> Model:
        at, fits = place_of_decorated(function, "model"), FunctionTrainer(function)
        examples = _training_set_of(function, at)
        _require_tunable(tuning, fits, at)
        words = description or inspect.getdoc(function) or ""
        return define(place=at, name=function.__name__, description=words, trainer=fits, training_set=examples)

    if training_set:
        do = "pass a trainer too, for example LightGBM(), or decorate a function"
        raise DefinitionError("the model has a training set, but nothing that fits it", do=do, place=place)
    return decorate


def _training_set_of(function: Callable[..., Any], place: Place) -> str:
    """Return the name of the first parameter; raise `DefinitionError` unless all others have defaults."""
    first, *rest = inspect.signature(function).parameters.values() or (None,)
    if first is None or first.default is not inspect.Parameter.empty:
        raise DefinitionError(
            f"model {function.__name__!r} takes no training set",
            do="use the name of the training set as the first parameter",
            place=place,
        )
    for parameter in rest:
        if parameter.default is inspect.Parameter.empty:
            raise DefinitionError(
                f"model {function.__name__!r} takes one training set",
                got=f"also {parameter.name!r}, which has no default",
                do="give hyperparameters a default, for example strength=1.0",
                place=place,
            )
    return first.name


def _require_rollout(rollout: Rollout | None, unit: str, approval: str, place: Place) -> None:
    """Raise `DefinitionError` for another value, and for a rollout that cannot decide."""
    _require_made_by("rollout", rollout, Rollout, "rollout", place)
    if rollout is not None and not unit:
        problem = "a rollout needs to know whose rows are predicted by the same version"
        raise DefinitionError(problem, do="pass unit= with a column of the requests", place=place)
    if rollout is not None and approval == "manual":
        problem = "a rollout decides which version is the champion, and so does a person with approval='manual'"
        raise DefinitionError(problem, do="remove rollout= or approval=", place=place)


def _require_tunable(tuning: Tuning | None, trainer: Trainer, place: Place) -> None:
    if tuning is not None and tuning.scheduler == "pbt" and not trainer.continues:
        problem = f"{trainer.words} cannot go on from the checkpoint of another trial, which scheduler='pbt' needs"
        do = "use LightGBM(…) or XGBoost(…) without workers= and stop_after=, or scheduler='asha'"
        raise DefinitionError(problem, do=do, place=place)
    if tuning is None or trainer.takes_any:
        return
    for name in tuning.space:
        if name not in trainer.hyperparameters:
            do = did_you_mean(name, trainer.hyperparameters)
            raise DefinitionError(f"{name!r} is tuned, but it is no parameter of the function", do=do, place=place)


def _require_task(trainer: Trainer, task: TaskName, place: Place) -> None:
    if task not in trainer.tasks:
        problem = f"{type(trainer).__name__} does not fit {task} tasks"
        raise DefinitionError(problem, do="decorate a function that fits an estimator", place=place)
    trainer.require_fit(task, place)


def _require_made_by(option: str, value: object, kind: type, function: str, place: Place) -> None:
    if value is not None and not isinstance(value, kind):
        raise DefinitionError(f"{option}= is not what {function}(…) returns", got=repr(value)[:80], place=place)


def _require_valid(evaluation: Evaluation, place: Place) -> None:
    """Raise `DefinitionError` for values that are no numbers, and columns that cannot be meant."""
    for name, value in (
        ("at_least", evaluation.at_least),
        ("segment_at_least", evaluation.segment_at_least),
        ("min_gain", evaluation.min_gain),
    ):
        number: object = value
        if number is not None and (
            isinstance(number, bool) or not isinstance(number, int | float) or not isfinite(number)
        ):
            raise DefinitionError(f"{name}= must be a number", got=repr(number), place=place)
    require_whole_number("min_rows", evaluation.min_rows, 1, place)
    for name, columns in (("baseline", evaluation.baseline), ("segments", evaluation.segments)):
        if len(set(columns)) < len(columns):
            raise DefinitionError(f"{name}= names a column twice", got=", ".join(columns), place=place)
    if evaluation.label in evaluation.segments:
        raise DefinitionError("the label is no segment", do="remove it from segments=", place=place)


def _require_fit(evaluation: Evaluation, place: Place) -> None:
    """Raise `DefinitionError` for options that contradict each other."""
    if evaluation.label in evaluation.baseline:
        problem = f"the baseline contains the label {evaluation.label!r}"
        raise DefinitionError(problem, do="remove it from the baseline", place=place)
    if evaluation.task == "ranking" and not evaluation.holdout.by:
        do = "pass split_by= with the columns whose rows are ranked together"
        raise DefinitionError("a ranking has no groups", do=do, place=place)
    if evaluation.task == "forecasting" and (evaluation.holdout.by or len(evaluation.baseline) > 1):
        do = "hold out later rows, and pass the column with the last known value as the baseline"
        raise DefinitionError("a forecast is of later rows, and its baseline is one column", do=do, place=place)
    if evaluation.calibrate not in {None, *METHODS}:
        do = did_you_mean(str(evaluation.calibrate), METHODS)
        raise DefinitionError(f"unknown calibration {evaluation.calibrate!r}", do=do, place=place)
    for name, value in (("calibrate", evaluation.calibrate), ("costs", evaluation.costs)):
        if value is not None and evaluation.task != "binary":
            do = f"remove {name}="
            raise DefinitionError(f"{name}= is for binary tasks", got=f"a {evaluation.task} task", do=do, place=place)
    if evaluation.metric == "cost" and evaluation.costs is None:
        do = 'pass costs={"false_positive": 1, "false_negative": 5}'
        raise DefinitionError("the metric is the cost, but errors have no costs", do=do, place=place)
    if evaluation.segment_at_least is not None and not evaluation.segments:
        raise DefinitionError("segment_at_least= needs segments", do="pass segments=", place=place)


def _metric(task: TaskName, metric: str, place: Place) -> str:
    """Return the metric of a task, its default if none is named."""
    if task not in TASKS:
        raise DefinitionError(f"unknown task {task!r}", do=did_you_mean(str(task), TASKS), place=place)
    metrics = task_of(task).metrics
    if metric and metric not in metrics:
        problem = f"unknown metric {metric!r} of a {task} task"
        raise DefinitionError(problem, do=did_you_mean(metric, metrics), place=place)
    return metric or task_of(task).metric
