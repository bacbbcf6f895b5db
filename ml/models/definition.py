"""Model definitions: a function that fits an estimator, and the quality it must reach on later rows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ml.models.evaluation import Evaluation
from ml.models.tasks import TASKS, TaskName, task_of
from pipeline.core.definitions import Artifact, BuildContext, Verdict, names
from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.fingerprint import fingerprint, of_function
from pipeline.core.functions import place_of_decorated


@dataclass(frozen=True, kw_only=True)
class Model(Artifact):
    """A model of one label, trained on one training set. Calling it calls its function, for example in a unit test."""

    function: Callable[..., Any]
    training_set: str
    evaluation: Evaluation

    @property
    def kind(self) -> str:
        """`model`."""
        return "model"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The training set."""
        return (self.training_set,)

    @property
    def fingerprint(self) -> str:
        """Changes with the function's code, the project code that it calls, and the evaluation."""
        return fingerprint("model", of_function(self.function), self.training_set, self.evaluation)

    def __call__(self, *args: Any, **tables: Any) -> Any:
        """Call the function."""
        return self.function(*args, **tables)

    def verdict(self, context: BuildContext) -> Verdict | None:
        """Return the stored verdict for exactly these rows and this definition: acceptance of the champion, or refusal.

        A refused model is evaluated again once its rows or its definition change.
        """
        from ml.models import training  # noqa: PLC0415 - imports pandas and MLflow, which is slow

        return training.verdict(self, context)

    def build(self, context: BuildContext) -> Verdict:
        """Train on the rows before the split, evaluate on the others, log the model, and return the verdict.

        An accepted model is registered under the definition's name and becomes its `champion`. For a refused model
        only the run is logged, and the previous champion stays. The same rows and code produce the same model. Raises
        `DefinitionError` if training set and model do not match, `ModelError` if the model cannot be trained or evaluated, and
        `StorageError` if the model store cannot be used.
        """
        from ml.models import training  # noqa: PLC0415 - see above

        return training.build(self, context)

    def registered(self, store: str, name: str) -> frozenset[str]:
        """Return the registered versions of a model; none for one that is not registered. Writes nothing."""
        from ml.models.registry import Registry  # noqa: PLC0415 - see above

        return Registry(store).versions(name)


def model(  # noqa: PLR0913 - options of a decorator, all keyword-only
    *,
    label: str,
    split_at: str,
    task: TaskName = "binary",
    metric: str = "",
    at_least: float,
    baseline: str | Sequence[str] = (),
    min_rows: int = 1000,
) -> Callable[[Callable[..., Any]], Model]:
    """Define a model as a function of a training set's rows that returns a fitted estimator.

    The parameter's name is that of the training set. The function receives a pandas DataFrame of the rows before `split_at`
    (a date or time, UTC), ordered by event time. It contains the features and the label, without key and event
    time. Numbers and booleans are float64, text is str, timestamps are UTC, and null is NaN. Rows without a
    label are excluded.

    | task | label | returns an estimator with | metrics, the default first |
    | --- | --- | --- | --- |
    | binary | a boolean, or 0 and 1; the function gets 0 and 1 | predict_proba | auc, accuracy, average_precision, brier, log_loss |
    | multiclass | a text, an integer or a boolean | predict_proba | accuracy, balanced_accuracy, f1_macro, log_loss |
    | regression | a number | predict | mae, rmse, r2, median_absolute_error |

    The model is evaluated on the rows from `split_at` on. `metric` must be at least as good as `at_least`, and better than
    the metric of the baseline: the mean label for each value of the `baseline` columns. Each part needs `min_rows`
    labelled rows; the training rows need different labels, and those of a binary task both labels in each part.

    Raises `DefinitionError` for a function with another number of parameters, an unknown task or metric, a split that is
    not a time, or a baseline that contains the label.
    """

    def decorate(function: Callable[..., Any]) -> Model:
        place = place_of_decorated(function, "model")
        parameters = tuple(inspect.signature(function).parameters)
        if len(parameters) != 1:
            raise DefinitionError(
                f"model {function.__name__!r} takes one training set",
                got=", ".join(parameters) or "no parameter",
                do="use the name of the training set as the only parameter",
                place=place,
            )
        chosen = _metric(task, metric, place)
        if label in names(baseline):
            raise DefinitionError(
                f"the baseline contains the label {label!r}", do="remove it from the baseline", place=place
            )
        return Model(
            place=place,
            name=function.__name__,
            description=inspect.getdoc(function) or "",
            function=function,
            training_set=parameters[0],
            evaluation=Evaluation(label, _time(split_at, place), chosen, at_least, names(baseline), min_rows, task),
        )

    return decorate


def _metric(task: TaskName, metric: str, place: Place) -> str:
    """Return the metric of a task, its default if none is named."""
    if task not in TASKS:
        raise DefinitionError(f"unknown task {task!r}", do=did_you_mean(str(task), TASKS), place=place)
    metrics = task_of(task).metrics
    if metric and metric not in metrics:
        problem = f"unknown metric {metric!r} of a {task} task"
        raise DefinitionError(problem, do=did_you_mean(metric, metrics), place=place)
    return metric or task_of(task).metric


def _time(text: str, place: Place) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise DefinitionError(
            "split_at is not a date or time", got=repr(text), do="write a date such as 2013-10-01", place=place
        ) from error
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
