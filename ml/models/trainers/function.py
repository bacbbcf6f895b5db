"""A function of the project that fits an estimator of any library."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ml.models.trainers.trainer import SEED, FitRequest, Trainer, in_memory, set_passive_openmp_wait
from pipeline.core.errors import USER_CODE_ERRORS, ModelError, Place
from pipeline.core.fingerprint import of_function

_ESTIMATORS = {"predict": "regressor", "predict_proba": "classifier", "score_samples": "detector of outliers"}


@dataclass(frozen=True)
class FunctionTrainer(Trainer):
    """Calls a function with the rows as a pandas DataFrame, and with hyperparameters by name."""

    function: Callable[..., Any]

    @property
    def hyperparameters(self) -> Mapping[str, object]:
        """The parameters of the function after the first, with their defaults."""
        rest = tuple(inspect.signature(self.function).parameters.values())[1:]
        return {parameter.name: parameter.default for parameter in rest}

    @property
    def words(self) -> str:
        """What fits, for readers."""
        return f"the function `{self.function.__name__}`"

    @property
    def fingerprint(self) -> str:
        """Changes with the function's code, its defaults, and the project code that it calls."""
        return of_function(self.function)

    def fit(self, request: FitRequest) -> Any:
        """Return what the function returns. Raises `ModelError` if it raises, or if its result cannot predict the task."""
        set_passive_openmp_wait()
        rows = in_memory(request)
        frame = rows.features.assign(**{request.label: rows.label})
        with _seeded():
            try:
                estimator = self.function(frame, **request.values)
            except USER_CODE_ERRORS as error:
                place = _line(error, self.function) or request.place
                problem = f"model {request.model!r} could not be trained: {type(error).__name__}"
                raise ModelError(problem, got=str(error) or None, place=place) from error
        method = request.task.method
        if not callable(getattr(estimator, method, None)):
            raise ModelError(
                f"model {request.model!r} did not return a {_ESTIMATORS[method]}",
                got=type(estimator).__name__,
                do=f"return a fitted estimator that has {method}",
                place=request.place,
            )
        return estimator


def _line(error: BaseException, function: Callable[..., Any]) -> Place | None:
    """Return the innermost line of the function's own file in an error's traceback."""
    file, place, step = function.__code__.co_filename, None, error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == file:
            place = Place(file, step.tb_lineno)
        step = step.tb_next
    return place


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
