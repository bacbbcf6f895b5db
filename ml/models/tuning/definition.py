"""What is tuned: hyperparameters with the values that they may have, and how much the search may cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, get_args

from ml.models.options import require_whole_number
from pipeline.core.definitions import caller
from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.event_time import parse_duration

Algorithm = Literal["random", "optuna"]
Scheduler = Literal["asha", "all", "pbt"]
_ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
_SCHEDULERS: tuple[Scheduler, ...] = get_args(Scheduler)
Value = int | float | str | bool


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    scale: Literal["linear", "log", "integer"]

    def has(self, value: object) -> bool:
        """Return whether a value is in the range."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Value, ...]

    def has(self, value: object) -> bool:
        """Return whether a value is one of them."""
        return value in self.values


Space = Range | Choice


@dataclass(frozen=True)
class Tuning:
    """A search for the best values of hyperparameters."""

    space: Mapping[str, Space]
    trials: int
    algorithm: Algorithm
    scheduler: Scheduler
    budget: timedelta | None
    folds: int
    concurrent: int | None
    cpus: float


def uniform(low: float, high: float) -> Range:
    """Return the numbers from `low` to `high`."""
    return _range(low, high, "linear")


def loguniform(low: float, high: float) -> Range:
    """Return the numbers from `low` to `high`, both above 0; each order of magnitude is equally likely."""
    return _range(low, high, "log")


def integers(low: int, high: int) -> Range:
    """Return the whole numbers from `low` to `high`, both included."""
    return _range(low, high, "integer")


def choice(*values: Value) -> Choice:
    """Return one of several values."""
    if not values:
        raise DefinitionError("choice(…) has no values", do="pass them: choice('gini', 'entropy')", place=caller())
    return Choice(values)


def tune(  # noqa: PLR0913 - options of a definition, all keyword-only
    space: Mapping[str, Space],
    *,
    trials: int,
    algorithm: Algorithm = "random",
    scheduler: Scheduler = "asha",
    budget: str | timedelta | None = None,
    folds: int = 1,
    concurrent: int | None = None,
    cpus: float = 1,
) -> Tuning:
    """Define a search for the best hyperparameters of a model: `trials` fits on Ray Tune with values of the `space`.

    Trials are compared on training rows: on the newest fifth of them (or on a fifth of the groups of `split_by`), or on `folds` parts, of
    which each is predicted from the rows before it. The best values fit all training rows, and the model is judged on the
    holdout, which no trial sees. `asha` stops trials that are behind others after as many rounds or folds. With `pbt`, trials that are
    behind go on from the trees of better ones, with other values. `budget` is the longest
    time of the search. Each trial takes `cpus` cores; at most `concurrent` run at a time.

    Raises `DefinitionError` for an empty space, values that are no ranges or choices, and numbers that are too small.
    """
    place = caller()
    if not space:
        raise DefinitionError("nothing is tuned", do='pass {"learning_rate": loguniform(0.01, 0.3)}', place=place)
    known: Mapping[str, object] = space
    for name, values in known.items():
        if not isinstance(values, Range | Choice):
            do = "use uniform, loguniform, integers or choice"
            raise DefinitionError(f"the values of {name!r} are unknown", got=repr(values), do=do, place=place)
    require_whole_number("trials", trials, 1, place)
    require_whole_number("folds", folds, 1, place)
    if concurrent is not None:
        require_whole_number("concurrent", concurrent, 1, place)
    if isinstance(cpus, bool) or not isinstance(cpus, int | float) or cpus <= 0:
        raise DefinitionError("cpus= must be above 0", got=repr(cpus), place=place)
    _require_one_of("algorithm", algorithm, _ALGORITHMS, place)
    _require_one_of("scheduler", scheduler, _SCHEDULERS, place)
    if scheduler == "pbt":
        _require_for_pbt(space, place, algorithm=algorithm, folds=folds, concurrent=concurrent)
    limit = None if budget is None else parse_duration(budget, "budget", place)
    return Tuning(dict(space), trials, algorithm, scheduler, limit, folds, concurrent, cpus)


def _range(low: float, high: float, scale: Literal["linear", "log", "integer"]) -> Range:
    place = caller()
    for value in (low, high):
        if isinstance(value, bool) or not isinstance(value, int if scale == "integer" else int | float):
            raise DefinitionError("a range is between two numbers", got=repr(value), place=place)
    if not low < high or (scale == "log" and low <= 0):
        limit = "above 0 and " if scale == "log" else ""
        raise DefinitionError(f"a range must be {limit}rising", got=f"{low} to {high}", place=place)
    return Range(low, high, scale)


def _require_for_pbt(
    space: Mapping[str, Space], place: Place, *, algorithm: str, folds: int, concurrent: int | None
) -> None:
    """Raise `DefinitionError` for options that do not apply to a population that is trained step by step."""
    for name, applies, why in (
        ("rounds", "rounds" not in space, "all trials have the same number of rounds"),
        ("algorithm", algorithm == "random", "values come from better trials"),
        ("folds", folds == 1, "trees go on from the same rows"),
        ("concurrent", concurrent is None, "all trials of the population take turns"),
    ):
        if not applies:
            do = "remove it from the space" if name == "rounds" else f"remove {name}="
            raise DefinitionError(f"{name} does not apply to scheduler='pbt'", got=why, do=do, place=place)


def _require_one_of(name: str, value: str, known: Sequence[str], place: Place) -> None:
    if value not in known:
        raise DefinitionError(f"unknown {name} {value!r}", do=did_you_mean(value, known), place=place)
