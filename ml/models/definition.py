"""Models as definitions: a function that fits an estimator, and what it has to reach on later rows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ml.models.evaluation import HIGHER_IS_BETTER, Evaluation
from pipeline.core.definitions import Artifact, BuildContext, Verdict, names
from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.fingerprint import fingerprint, of_function
from pipeline.core.functions import place_of


@dataclass(frozen=True, kw_only=True)
class Model(Artifact):
    """A model of one label, learned from one feature view. Calling it calls its function, as a unit test does."""

    function: Callable[..., Any]
    view: str
    evaluation: Evaluation

    @property
    def kind(self) -> str:
        """`model`."""
        return "model"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The feature view."""
        return (self.view,)

    @property
    def fingerprint(self) -> str:
        """Changes with the function's code, what it calls in its own project, and how it is judged."""
        return fingerprint("model", of_function(self.function), self.view, self.evaluation)

    def __call__(self, *args: Any, **tables: Any) -> Any:
        """Call the function itself."""
        return self.function(*args, **tables)

    def verdict(self, bench: BuildContext) -> Verdict | None:
        """Return what the store knows of just these rows and this definition: the champion's acceptance, or a refusal.

        A refused model is judged again once its rows or its definition change.
        """
        from ml.models import training  # noqa: PLC0415 - imports pandas' and MLflow's world

        return training.verdict(self, bench)

    def build(self, bench: BuildContext) -> Verdict:
        """Train on the rows before the split, judge on the others, log the model, and say what became of it.

        An accepted model is registered under the definition's name and becomes its `champion`; of a refused one
        only the run is kept, and the former champion stays. The same rows and code give the same model. Raises
        `DefinitionError` when view and model do not fit, `ModelError` when it cannot be trained or judged, and
        `StorageError` when the model store cannot be used.
        """
        from ml.models import training  # noqa: PLC0415 - likewise

        return training.build(self, bench)


def model(  # noqa: PLR0913 - a decorator's options, all given by name
    *,
    label: str,
    split_at: str,
    metric: str = "auc",
    at_least: float,
    baseline: str | Sequence[str] = (),
    min_rows: int = 1000,
) -> Callable[[Callable[..., Any]], Model]:
    """Define a model as a function of a feature view's training rows that returns a fitted classifier.

    The parameter's name is the view's. The function gets a pandas DataFrame of the rows before `split_at` (a date
    or time, UTC) in the order of their event time: the features, and `label` as 0 and 1, without entity and event
    time; numbers and booleans are float64, texts str, timestamps UTC, and null is NaN. Rows without a label are
    left out. It returns an estimator with `predict_proba`.

    The rows from `split_at` on judge: `metric` (`accuracy`, `auc`, `average_precision`, `brier`, `log_loss`) has
    to be at least as good as `at_least`, and better than that of the baseline: the mean label for each value of
    the `baseline` columns. Each part needs `min_rows` labelled rows, and both labels.

    Raises `DefinitionError` for a function with another number of parameters, an unknown metric, a split that is
    not a time, or a baseline that knows the label.
    """

    def decorate(function: Callable[..., Any]) -> Model:
        place = place_of(function)
        parameters = tuple(inspect.signature(function).parameters)
        if len(parameters) != 1:
            raise DefinitionError(
                f"model {function.__name__!r} takes one feature view",
                got=", ".join(parameters) or "no parameter",
                do="name the view as its only parameter",
                place=place,
            )
        if metric not in HIGHER_IS_BETTER:
            raise DefinitionError(f"unknown metric {metric!r}", do=did_you_mean(metric, HIGHER_IS_BETTER), place=place)
        if label in names(baseline):
            raise DefinitionError(f"the baseline knows the label {label!r}", do="take it out of it", place=place)
        return Model(
            place=place,
            name=function.__name__,
            description=inspect.getdoc(function) or "",
            function=function,
            view=parameters[0],
            evaluation=Evaluation(label, _time(split_at, place), metric, at_least, names(baseline), min_rows),
        )

    return decorate


def _time(text: str, place: Place) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise DefinitionError(
            "split_at is not a date or time", got=repr(text), do="write 2013-10-01", place=place
        ) from error
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
