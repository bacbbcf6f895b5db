"""Variants for the process that shows them, while people and runs start and stop the experiment."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ml.experiments.definition import Experiment
from ml.experiments.states import ExperimentState, ExperimentStates
from pipeline.core.errors import HeadwaterError, RequestError, did_you_mean
from pipeline.lake import Storage
from pipeline.project.project import Project, load

FRESH_S = 3.0
"""How long a process uses a state before it looks for another one."""


@dataclass(frozen=True)
class Assigned:
    """What a unit gets, and whether it takes part: only then, its exposure is logged."""

    variant: str
    takes_part: bool


class LiveExperiment:
    """The variants of units while people and runs start and stop the experiment. Thread-safe. Create it with `live_experiment`."""

    def __init__(
        self, experiment: Experiment, states: ExperimentStates, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Create it without reading anything; `clock` returns seconds."""
        self._experiment, self._states, self._clock = experiment, states, clock
        self._known: tuple[float, ExperimentState | None, Mapping[str, float] | None] | None = None

    def assign(self, unit: object, shown: str | None = None) -> Assigned:
        """Return what a unit gets: the control, unless the experiment runs and the unit takes part, or was stopped for a variant.

        `None` and NaN are no unit, and take no part. A unit that takes part and that was `shown` a variant before keeps it, for
        example by a cookie. Units of a bandit that come back need that, because its weights move.

        The state is looked up again when it is three seconds old; if it cannot be read, the last one stays. Raises `StorageError` if
        the first one cannot be read, and `RequestError` for a unit that is no valid text.
        """
        return assigned(self._experiment, *self._look(), unit, shown)

    def _look(self) -> tuple[ExperimentState | None, Mapping[str, float] | None]:
        known = self._known
        if known is None or self._clock() - known[0] > FRESH_S:
            try:
                known = (self._clock(), *self._states.state_and_weights(self._experiment.name))
            except HeadwaterError:
                if known is None:
                    raise
                known = (self._clock(), *known[1:])
            self._known = known
        return known[1:]


def assigned(
    experiment: Experiment,
    state: ExperimentState | None,
    weights: Mapping[str, float] | None,
    unit: object,
    shown: str | None = None,
) -> Assigned:
    """Return what a unit gets in a state of an experiment; see `LiveExperiment.assign`."""
    assignment = experiment.assignment_by(weights)
    control = next(iter(assignment.variants))
    if state is None or state.status == "stopped":
        return Assigned(for_all(experiment, state), takes_part=False)
    is_unit = unit is not None and not (isinstance(unit, float) and math.isnan(unit))
    variant = assignment.variant(unit) if is_unit else None
    if variant is None:
        return Assigned(control, takes_part=False)
    if shown is not None and shown in assignment.variants:
        return Assigned(shown, takes_part=True)
    return Assigned(variant, takes_part=True)


def for_all(experiment: Experiment, state: ExperimentState | None) -> str:
    """Return the variant that all units get while an experiment does not run.

    It is the control, too, if the experiment was stopped for a variant that its definition does not have any more.
    """
    variants = experiment.assignment.variants
    return state.variant if state is not None and state.variant in variants else next(iter(variants))


def live_experiment(name: str, folder: Path | str = ".", *, env: str | None = None) -> LiveExperiment:
    """Return an experiment of the project in a folder, for the process that shows variants.

    Raises `RequestError` if the project has no such experiment, and the errors of `load`.
    """
    project = load(folder, env=env)
    return LiveExperiment(
        experiment_of(project, name), ExperimentStates(Storage(project.settings.lake, project.settings.storage))
    )


def experiment_of(project: Project, name: str) -> Experiment:
    """Return an experiment of a project; raise `RequestError` if it has none of this name."""
    known = {each.name: each for each in project.graph.all_of(Experiment)}
    if name not in known:
        do = did_you_mean(name, known) if known else "define one with experiment(…)"
        raise RequestError(f"{name!r} is not an experiment", do=do)
    return known[name]
