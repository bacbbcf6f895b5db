"""Training: reads and splits the rows, evaluates the model and its baseline on the later part, and logs the result."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ml.features import TrainingSet
from ml.models.evaluation import gate
from ml.models.registry import REFUSED, Origin, Registry, Trained
from ml.models.rows import LabelledRows, TrainTestSplit, split
from ml.models.tasks import Multiclass
from pipeline.core.definitions import BuildContext, Verdict
from pipeline.core.errors import USER_CODE_ERRORS, DefinitionError, ModelError, Place, quantity

if TYPE_CHECKING:
    from ml.models.definition import Model

SEED = 0
_ROWS = ("training_rows", "holdout_rows", "unlabelled_rows", "undated_rows")
"""The metrics that together count the rows of a training set."""


def verdict(model: Model, context: BuildContext) -> Verdict | None:
    """Return the verdict on exactly these inputs and this definition, if there is one. See `Model.verdict`."""
    origin, store = _origin(model, context), Registry(context.store)
    if store.origin(model.name) == origin:
        return Verdict(accepted=True, reason="up to date", version=store.champion_version(model.name))
    refused = store.refused_verdict(model.name, origin)
    return None if refused is None else replace(refused, rows=int(sum(refused.metrics.get(name, 0) for name in _ROWS)))


def build(model: Model, context: BuildContext) -> Verdict:
    """Train, evaluate and log a model; it becomes the champion if it passes its gate. See `Model.build`."""
    store = Registry(context.store)
    store.require()  # fail before minutes of training
    _set_passive_openmp_wait()
    examples = training_set_of(model, context)
    origin = _origin(model, context)  # read before the rows: if they change in between, the next run trains again
    parts = split(context.table(examples.name), examples, model.evaluation, model.place)
    estimator = fitted(model, parts.train)
    metrics, baseline = _evaluated(model, estimator, parts)
    accepted, reason = gate(model.evaluation, metrics, baseline)
    reason += _excluded(parts, model.evaluation.label)
    figures = {**metrics, **{f"baseline_{name}": value for name, value in baseline.items()}, **_shares(parts)}
    trained = Trained(
        name=model.name,
        run_id=context.run_id,
        origin=origin,
        estimator=estimator,
        task=parts.task,
        features=parts.kinds,
        params={"training_set": examples.name, "seed": SEED, **asdict(model.evaluation)},
        metrics=figures,
        verdict=f"{'accepted: ' if accepted else REFUSED}{reason}",
    )
    uri, version = store.log(trained, register=accepted)
    return Verdict(accepted, reason, figures, uri, version, parts.rows)


def training_set_of(model: Model, context: BuildContext) -> TrainingSet:
    """Return the training set of a model; raise `DefinitionError` if it is another kind of table."""
    examples = context.definition(model.training_set)
    if isinstance(examples, TrainingSet):
        return examples
    raise DefinitionError(
        f"model {model.name!r} is trained on {model.training_set!r}, which is not a training set",
        got=f"a {getattr(examples, 'kind', 'definition')}",
        do="define it with training_set(…)",
        place=model.place,
    )


def fitted(model: Model, train: LabelledRows) -> Any:
    """Return the estimator that the model's function fits to the training rows.

    Raises `ModelError` if the function raises, or returns an object that does not have the method of its task.
    """
    rows = train.features.assign(**{model.evaluation.label: train.label})
    with _seeded():
        try:
            estimator = model.function(rows)
        except USER_CODE_ERRORS as error:
            place = _line(error, model.function) or model.place
            problem = f"model {model.name!r} could not be trained: {type(error).__name__}"
            raise ModelError(problem, got=str(error) or None, place=place) from error
    method = model.evaluation.kind.method
    if not callable(getattr(estimator, method, None)):
        raise ModelError(
            f"model {model.name!r} did not return a {'regressor' if method == 'predict' else 'classifier'}",
            got=type(estimator).__name__,
            do=f"return a fitted estimator that has {method}",
            place=model.place,
        )
    return estimator


def _evaluated(model: Model, estimator: Any, parts: TrainTestSplit) -> tuple[dict[str, float], dict[str, float]]:
    train, holdout = parts.train, parts.holdout
    task, label = parts.task, holdout.label.to_numpy()
    simple = task.baseline(train.features, train.label, holdout.features, model.evaluation.baseline)
    return (
        task.measure(label, task.predictions(estimator, holdout.features, model.place)),
        task.measure(label, simple),
    )


def _origin(model: Model, context: BuildContext) -> Origin:
    examples = context.definition(model.training_set)
    views = examples.views if isinstance(examples, TrainingSet) else {}
    return Origin(model.fingerprint, {model.training_set: context.version(model.training_set)}, views)


def _shares(parts: TrainTestSplit) -> dict[str, float]:
    """Return the number of rows of each part and, for numbers, the mean label: for a condition, the share of 1."""
    means = (
        {}
        if isinstance(parts.task, Multiclass)
        else {
            "training_mean": float(parts.train.label.mean()),
            "holdout_mean": float(parts.holdout.label.mean()),
        }
    )
    return {
        **means,
        "training_rows": float(len(parts.train.label)),
        "holdout_rows": float(len(parts.holdout.label)),
        "unlabelled_rows": float(parts.unlabelled),
        "undated_rows": float(parts.undated),
    }


def _excluded(parts: TrainTestSplit, label: str) -> str:
    excluded = [(parts.unlabelled, f"without {label!r}"), (parts.undated, "without an event time")]
    return "".join(
        f"; {quantity(rows, 'row')} {why} {'was' if rows == 1 else 'were'} excluded" for rows, why in excluded if rows
    )


def _line(error: BaseException, function: Callable[..., Any]) -> Place | None:
    """Return the innermost line of the function's own file in an error's traceback."""
    file, place, step = function.__code__.co_filename, None, error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == file:
            place = Place(file, step.tb_lineno)
        step = step.tb_next
    return place


def _set_passive_openmp_wait() -> None:
    """Make OpenMP threads sleep while they wait, if scikit-learn is not loaded yet.

    By default they spin: next to other work on two cores, fitting the flights model took 41 s instead of 5 s.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@contextmanager
def _seeded() -> Iterator[None]:
    """Seed the global random generators inside the context, for functions that do not set `random_state`."""
    import numpy as np  # noqa: PLC0415 - needed only for training

    before, before_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - used by estimators
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - see above
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(before_numpy)  # noqa: NPY002 - see above
