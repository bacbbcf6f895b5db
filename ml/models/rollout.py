"""Rollouts: a new version of a model takes over step by step, as long as it does no harm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from ml.companions import require_columns_of
from ml.experiments.definition import OutcomeMetric
from ml.experiments.moments import LEAST_UNITS
from ml.models.prediction_log import PredictionLog
from pipeline.core.definitions import Artifact, BuildContext, Definition, Verdict, caller
from pipeline.core.errors import DefinitionError, Place
from pipeline.core.event_time import parse_duration
from pipeline.core.fingerprint import fingerprint


@dataclass(frozen=True)
class Rollout:
    """How a new version takes over from the champion."""

    log: str
    metrics: tuple[OutcomeMetric, ...]
    steps: tuple[float, ...]
    """The shares of the units that the new version predicts, one after the other."""
    every: timedelta
    units: int
    shadow: timedelta | None
    """How long it is a shadow before the first step; `None` if it is none."""
    alpha: float

    def after(self, share: float) -> float | None:
        """Return the next share; `None` after the last."""
        return next((step for step in self.steps if step > share), None)


@dataclass(frozen=True, kw_only=True)
class RolloutSteps(Artifact):
    """Decides in each run whether the new version of a model takes its next step; it belongs to the model."""

    model: str
    rollout: Rollout

    @property
    def kind(self) -> str:
        """`rollout`."""
        return "rollout"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The model, the log of served predictions, and the tables of the metrics."""
        return tuple(dict.fromkeys((self.model, self.rollout.log, *(each.of for each in self.rollout.metrics))))

    @property
    def artifacts(self) -> tuple[str, ...]:
        """The model."""
        return (self.model,)

    @property
    def selected_with(self) -> str:
        """The model: a run that trains it also decides about its rollout."""
        return self.model

    @property
    def decides(self) -> str:
        """A rollout that is under way, or of a version that waits for one."""
        return f"decides about the rollout of {self.model}"

    @property
    def fingerprint(self) -> str:
        """Changes with the options."""
        return fingerprint("rollout", self.model, repr(self.rollout))

    def check_inputs(self, inputs: Mapping[str, Definition], place: Place) -> None:
        """Raise `DefinitionError` unless the log is that of the model, and for a metric of a column that is known not to exist."""
        log = inputs[self.rollout.log]
        if not isinstance(log, PredictionLog) or log.model != self.model:
            got = f"the log of {log.model!r}" if isinstance(log, PredictionLog) else f"a {log.kind}"
            do = f'define it with prediction_log("{self.model}", FOLDER)'
            problem = f"the rollout of {self.model!r} needs the log of its predictions, and {log.name!r} is not that"
            raise DefinitionError(problem, got=got, do=do, place=place)
        for table, sql in (each for metric in self.rollout.metrics for each in metric.expressions):
            require_columns_of(inputs[table], sql, place)

    def verdict(self, context: BuildContext) -> Verdict | None:
        """Return a verdict if no version waits and no rollout is under way."""
        from ml.models.rolling_out import verdict  # noqa: PLC0415 - imports MLflow, which is slow

        return verdict(self, context)

    def build(self, context: BuildContext) -> Verdict:
        """Begin a rollout, or decide about the next step of the one that is under way; refused if that is rolled back."""
        from ml.models.rolling_out import build  # noqa: PLC0415 - see above

        return build(self, context)

    def registered(self, store: str, name: str) -> frozenset[str]:
        """Return the registered versions of a model; see `Model.registered`."""
        from ml.models.registry.registry import Registry  # noqa: PLC0415 - see above

        return Registry(store).versions(name)


def rollout(  # noqa: PLR0913 - options of a definition
    log: str,
    metrics: Sequence[OutcomeMetric],
    *,
    steps: Sequence[float] = (0.05, 0.25, 0.5),
    every: str | timedelta = "1 day",
    units: int = 1000,
    shadow: str | timedelta | None = None,
    alpha: float = 0.05,
) -> Rollout:
    """Let a new version take over from the champion in steps, and take it back as soon as it does harm.

    `log` is the `prediction_log` of the model, and `metrics` are what is compared: by the units that each of the two versions
    predicted in a step. In each of the `steps`, the new version predicts this share of the units, at least for `every` and until both
    versions have predicted for so many `units`. With `shadow`, it is a shadow for so long before. Each run decides whether the next
    step begins. After the last step, the version is the champion. It is withdrawn if a guardrail shows harm, a goal gets worse, or the
    units are not divided as they should be. `alpha` is the probability that a version without any harm is withdrawn.

    Raises `DefinitionError` without metrics, and for shares, durations and numbers that are invalid.
    """
    place = caller()
    _require_metrics(metrics, place)
    if not _are_growing_shares(steps):
        do = "pass growing shares between 0 and 1, for example (0.05, 0.25, 0.5)"
        raise DefinitionError("steps= of a rollout are not growing shares", got=repr(steps), do=do, place=place)
    number: object = units
    if isinstance(number, bool) or not isinstance(number, int) or number < LEAST_UNITS:
        problem = f"units= of a rollout must be a whole number, at least {LEAST_UNITS}: fewer show nothing"
        raise DefinitionError(problem, got=repr(units), place=place)
    level: object = alpha
    if not isinstance(level, float) or not 0 < level < 1:
        raise DefinitionError("alpha= of a rollout must be between 0 and 1", got=repr(alpha), place=place)
    lengths: dict[str, object] = {"every": every, "shadow": shadow}
    for option, length in lengths.items():
        if not isinstance(length, str | timedelta | None):
            do = "pass a text such as '1 day'"
            raise DefinitionError(f"{option}= of a rollout is not a duration", got=repr(length), do=do, place=place)
    return Rollout(
        log,
        tuple(metrics),
        tuple(steps),
        parse_duration(every, "every", place),
        units,
        None if shadow is None else parse_duration(shadow, "shadow", place),
        alpha,
    )


def _require_metrics(metrics: Sequence[OutcomeMetric], place: Place) -> None:
    given: object = metrics
    every = list(given) if isinstance(given, list | tuple) else []
    if not every or any(not isinstance(each, OutcomeMetric) for each in every):
        raise DefinitionError(
            "a rollout needs metrics", got=repr(given)[:80], do="pass [outcome_metric(…)]", place=place
        )
    names = [each.name for each in every]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DefinitionError(f"two metrics of the rollout are named {twice!r}", do="rename one", place=place)


def _are_growing_shares(steps: object) -> bool:
    if not isinstance(steps, list | tuple) or not steps:
        return False
    return all(isinstance(step, float) and 0 < step < 1 for step in steps) and list(steps) == sorted(set(steps))
