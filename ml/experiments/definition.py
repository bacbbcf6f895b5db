"""Experiments as definitions: results by metric and variant, computed from exposures and outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from ml.companions import CompanionTable, StatementTransform
from ml.experiments.assignment import Assignment
from ml.experiments.auto_stop import ExperimentStop
from ml.experiments.bandit import ExperimentWeights
from ml.experiments.moments import EARLIER, INCOMPLETE, SEVERAL
from ml.experiments.options import moment, require_number, require_plan, require_text
from pipeline.core.definitions import Definition, Layer, Table, caller
from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.event_time import parse_duration
from pipeline.core.fingerprint import fingerprint
from pipeline.kernel.sql_text import literal, quoted
from pipeline.kernel.windows.sql import interval

if TYPE_CHECKING:
    import pyarrow as pa

PerUnit = Literal["sum", "count", "any", "max", "mean"]
_AGGREGATES: dict[str, str] = {
    "sum": "sum(o.value)",
    "count": "count(o.value)",
    "any": "max(o.value)",
    "max": "max(o.value)",
}


@dataclass(frozen=True)
class OutcomeMetric:
    """What is measured of a unit after its exposure, and which direction is better."""

    name: str
    of: str
    value: str
    per_unit: PerUnit
    unit: str
    time: str
    is_higher_better: bool
    margin: float | None
    """For a guardrail, the relative harm that is tolerated; `None` for a goal."""
    before: timedelta | None
    within: timedelta | None

    @property
    def expressions(self) -> tuple[tuple[str, str], ...]:
        """The table of outcomes with each expression over it."""
        return tuple((self.of, sql) for sql in (quoted(self.unit), quoted(self.time), self.value))

    @property
    def is_ratio(self) -> bool:
        """Whether it is a ratio of sums over units, for example the share of late requests."""
        return self.per_unit == "mean"

    def moments(self, units: str, *, of_text: bool = False) -> str:
        """Return the SELECT of its sums per variant, over a SELECT of exposed units; with `of_text`, these are texts."""
        # a day begins before the exposures of that day, so that it cannot be told which of its outcomes are later
        days = f"metric {self.name}: {self.time} of {self.of} is a date, which does not say whether a row is after an exposure of that day"
        is_day = "typeof(o.time) = 'DATE' and typeof(u.exposed_at) <> 'DATE'"
        after = f"case when {is_day} then error({literal(days)})::boolean else o.time >= u.exposed_at end"
        if self.within is not None:
            after += f" and o.time < u.exposed_at + {_interval(self.within)}"
        if self.is_ratio:
            columns = (
                f"coalesce(sum(o.value) filter (where {after}), 0) as y, count(o.value) filter (where {after}) as x"
            )
        else:
            aggregate, covariate = _AGGREGATES[self.per_unit], "0"
            if self.before is not None:
                known = f"o.time < u.exposed_at and o.time >= u.exposed_at - {_interval(self.before)}"
                covariate = f"coalesce({aggregate} filter (where {known}), 0)"
            columns = f"coalesce({aggregate} filter (where {after}), 0) as y, {covariate} as x"
        value = f"({self.value})::{'boolean::int' if self.per_unit == 'any' else 'double'} as value"
        unit = f"{quoted(self.unit)}::varchar" if of_text else quoted(self.unit)
        outcomes = f"select {unit} as unit, {quoted(self.time)} as time, {value} from {quoted(self.of)}"
        return f"""
            select {literal(self.name)} as metric, variant::varchar as variant, count(*) as units, sum(y) as y, sum(y * y) as yy, sum(x) as x,
                   sum(x * x) as xx, sum(x * y) as xy
            from (
                select u.unit, u.variant, {columns}
                from ({units}) as u left join ({outcomes}) as o on o.unit = u.unit
                group by u.unit, u.variant
            ) as of_units
            group by variant
        """


@dataclass(frozen=True)
class ResultTransform:
    """Computes results from sums per metric and variant; called with all rows of its input."""

    inputs: tuple[str, ...]
    variants: tuple[tuple[str, float], ...]
    metrics: tuple[OutcomeMetric, ...]
    units: int
    alpha: float
    bandit: str = ""

    @property
    def fingerprint(self) -> str:
        """A hash of what the results depend on besides the sums."""
        return fingerprint("experiment", repr(replace(self, inputs=())))

    @property
    def language(self) -> str:
        """`arrow`."""
        return "arrow"

    def __call__(self, *args: Any, **tables: Any) -> pa.Table:
        """Return the results."""
        from ml.experiments.results import means, results  # noqa: PLC0415 - needed only when results are computed

        given = {**dict(zip(self.inputs, args, strict=False)), **tables}
        if self.bandit:
            return means(given[self.inputs[0]], self.variants, self.metrics)
        return results(given[self.inputs[0]], self.variants, self.metrics, self.units, self.alpha)


@dataclass(frozen=True, kw_only=True)
class Experiment(Table):
    """The results of an experiment: a row for each metric and variant, and one for the ratio of the variants."""

    transform: ResultTransform
    assignment: Assignment
    exposures: str
    unit: str
    variant: str
    time: str
    stops: bool = True
    """Whether a run stops it if it does harm."""
    since: str = ""
    """The SQL of the time before which exposures do not count; empty if all do."""

    @cached_property
    def companions(self) -> tuple[Definition, ...]:
        """The table of sums that it is computed from, and what stops it."""
        columns = (self.unit, self.variant, self.time)
        tables = dict.fromkeys((self.exposures, *(metric.of for metric in self.transform.metrics)))
        expressions = [(self.exposures, quoted(name)) for name in (self.unit, self.variant, self.time)]
        expressions += [each for metric in self.transform.metrics for each in metric.expressions]
        sums = CompanionTable(
            place=self.place,
            name=f"{self.name}_sums",
            description=f"Sums of the experiment {self.name}, by metric and variant.",
            transform=StatementTransform(
                sums_of(quoted(self.exposures), columns, self.transform.metrics, since=self.since),
                tuple(tables),
                tuple(expressions),
            ),
            layer="silver",
            role="experiment sums",
            belongs_to=self.name,
        )
        words = f"Stops the experiment {self.name} if it does harm."
        stop = ExperimentStop(place=self.place, name=f"{self.name}_stop", description=words, experiment=self.name)
        stops = (stop,) if self.stops else ()
        if not self.bandit:
            return (sums, *stops)
        metric = next(each for each in self.transform.metrics if each.name == self.bandit)
        weights = ExperimentWeights(
            place=self.place,
            name=f"{self.name}_weights",
            description=f"Weighs the variants of {self.name} by {metric.name}.",
            experiment=self.name,
            variants=tuple(self.assignment.variants),
            metric=metric,
        )
        return (sums, *stops, weights)

    @property
    def bandit(self) -> str:
        """The metric that its weights follow; empty if they are fixed."""
        return self.transform.bandit

    def assignment_by(self, weights: Mapping[str, float] | None) -> Assignment:
        """Return how units are divided by the weights of a bandit, if it is one and they are of its variants."""
        if not self.bandit or weights is None or set(weights) != set(self.assignment.variants):
            return self.assignment
        return replace(self.assignment, variants={name: weights[name] for name in self.assignment.variants})

    def named(self, name: str) -> Self:
        """Return the experiment with this name, which units are assigned by, and with its input."""
        experiment = super().named(name)
        transform = replace(experiment.transform, inputs=(f"{experiment.name}_sums",))
        assignment = replace(experiment.assignment, experiment=experiment.name)
        return replace(experiment, transform=transform, assignment=assignment)


def sums_of(
    exposures: str,
    columns: tuple[str, str, str],
    metrics: Sequence[OutcomeMetric],
    *,
    of_text: bool = False,
    since: str = "",
) -> str:
    """Return the SELECT of sums by metric and variant, over the text of a relation of exposures.

    `columns` are those of the unit, the variant and the time. With `of_text`, units are texts, and may be numbers in the tables of the
    metrics. Exposures before `since`, the SQL of a time, do not count; how many there are is a row of its own.
    """
    unit, variant, time = map(quoted, columns)
    none = "null::double as y, null::double as yy, null::double as x, null::double as xx, null::double as xy"
    earlier = []
    if since:
        row = f"select {literal(EARLIER)} as metric, null::varchar as variant, count(*) as units, {none}"
        earlier = [f"{row} from {exposures} where {time} < {since}"]
        exposures = f"(select * from {exposures} where {time} is null or {time} >= {since}) as counted"
    units = f"""
        select {unit} as unit, arg_min({variant}, {time}) as variant, min({time}) as exposed_at, count(distinct {variant}) as variants
        from {exposures} where {unit} is not null and {variant} is not null and {time} is not null group by {unit}
    """
    clean = f"select * from ({units}) as each_unit where variants = 1"
    exposed = f"""
        select case when variants = 1 then '' else {literal(SEVERAL)} end as metric, variant::varchar as variant, count(*) as units, {none}
        from ({units}) as each_unit group by all
    """
    incomplete = f"""
        select {literal(INCOMPLETE)} as metric, null::varchar as variant, count(*) as units, {none} from {exposures}
        where {unit} is null or {variant} is null or {time} is null
    """
    of_metrics = (metric.moments(clean, of_text=of_text) for metric in metrics)
    return " union all ".join([exposed, incomplete, *earlier, *of_metrics])


def outcome_metric(  # noqa: PLR0913 - options of a definition, all keyword-only
    name: str,
    *,
    of: str,
    value: str = "1",
    per_unit: PerUnit = "sum",
    unit: str,
    time: str,
    better: Literal["higher", "lower"] = "higher",
    guardrail: float | None = None,
    before: str | timedelta | None = None,
    within: str | timedelta | None = None,
) -> OutcomeMetric:
    """Measure units by the rows of a table; see `docs/experiments.md`.

    The rows of `of` whose column `unit` is the unit, and whose `time` is at or after its exposure, count: all, or those `within`
    a duration. `value` is a SQL expression of a row; `per_unit` makes it one number of the unit, 0 without rows: `sum`, `count`,
    `any` (whether the condition holds for any row), `max`, or `mean`: then the metric is the ratio of all rows' sum and count.
    With `before`, the same of the rows before the exposure makes the result more precise (CUPED). `guardrail` is the relative
    harm that is tolerated: the metric is no goal, but stops the experiment.

    Raises `DefinitionError` for an unknown aggregate or direction, for texts that are empty, for a guardrail that is negative or no
    number, and for durations of 0.
    """
    place = caller()
    require_text(name, "the name of a metric", place)
    if name in {SEVERAL, INCOMPLETE, EARLIER}:
        raise DefinitionError(f"{name!r} is the name of counts in the sums of experiments", do="rename it", place=place)
    for option, text in {"of": of, "value": value, "unit": unit, "time": time}.items():
        require_text(text, f"{option}= of metric {name!r}", place)
    if per_unit not in get_args(PerUnit):
        do = did_you_mean(str(per_unit), get_args(PerUnit))
        raise DefinitionError(f"unknown per_unit={per_unit!r} of metric {name!r}", do=do, place=place)
    if better not in {"higher", "lower"}:
        raise DefinitionError(f"better= of metric {name!r} must be 'higher' or 'lower'", got=repr(better), place=place)
    if guardrail is not None:
        require_number(guardrail, f"guardrail= of metric {name!r}", place)
    if guardrail is not None and guardrail < 0:
        raise DefinitionError(f"guardrail= of metric {name!r} must not be negative", got=f"{guardrail:g}", place=place)
    if before is not None and per_unit == "mean":
        problem = f"before= of metric {name!r} does not apply to per_unit='mean'"
        raise DefinitionError(problem, do="remove before=", place=place)
    spans = {"before": before, "within": within}
    lengths = {key: None if span is None else parse_duration(span, key, place) for key, span in spans.items()}
    empty = next((key for key, length in lengths.items() if length == timedelta()), None)
    if empty is not None:
        problem = f"{empty}= of metric {name!r} is 0, so no row would count"
        raise DefinitionError(problem, got=repr(spans[empty]), do=f"remove {empty}= to count all rows", place=place)
    return OutcomeMetric(name, of, value, per_unit, unit, time, better == "higher", guardrail, **lengths)


def experiment(  # noqa: PLR0913 - options of a definition, all keyword-only
    *,
    variants: Mapping[str, float],
    exposures: str,
    unit: str,
    variant: str = "variant",
    time: str,
    metrics: Sequence[OutcomeMetric],
    units: int = 20_000,
    alpha: float = 0.05,
    traffic: float = 1.0,
    namespace: str = "",
    slots: tuple[float, float] = (0.0, 1.0),
    holdout: float = 0.0,
    salt: str = "",
    stops: bool = True,
    since: str | datetime | None = None,
    bandit: str = "",
    layer: Layer = "gold",
    description: str = "",
) -> Experiment:
    """Compare variants by the outcomes of the units that were exposed to them; see `docs/experiments.md`.

    `variants` are the names with their weights, the control first. `exposures` is a table with a row whenever a unit saw its
    variant: its columns `unit`, `variant` and `time`. Of a unit, the first exposure counts; units that saw several variants are
    excluded and counted. `units` is the planned number of units, at which the intervals are the shortest; `units_needed` tells
    how many a difference needs. Exposures before `since` do not count. `alpha` is the probability of a wrong result, at any time
    and for all goals together. With `stops`, a run stops an experiment that was started if it does harm. With the name of a metric
    as `bandit`, runs give more units to the variant that seems best, and results have no tests. The other options are those of
    `Assignment`, which `experiment.assignment` is.

    Raises `DefinitionError` for weights and shares that are none, for no metric and for two of one name, for a bandit with
    guardrails or without its metric, and for a `since` that is no time.
    """
    place = caller()
    known = _require_metrics(metrics, place)
    require_plan(units, alpha, place)
    _require_bandit(bandit, metrics, place)
    try:
        assignment = Assignment("", variants, traffic, namespace, slots, holdout, salt)
    except DefinitionError as error:
        raise DefinitionError(error.problem, got=error.got, do=error.do, place=place) from error
    return Experiment(
        place=place,
        description=description or f"Results of {', '.join(variants)} by {', '.join(known)}.",
        transform=ResultTransform((), tuple(variants.items()), tuple(metrics), units, alpha, bandit),
        layer=layer,
        role="experiment",
        assignment=assignment,
        exposures=exposures,
        unit=unit,
        variant=variant,
        time=time,
        stops=stops,
        since="" if since is None else moment(since, "since=", place),
    )


def _require_metrics(metrics: Sequence[OutcomeMetric], place: Place) -> list[str]:
    """Return the names of metrics; raise `DefinitionError` unless there are some, each with a name of its own."""
    if not isinstance(metrics, Sequence) or not metrics:
        raise DefinitionError(
            "the experiment has no metrics", got=repr(metrics), do="pass metrics=[outcome_metric(…)]", place=place
        )
    other = next((each for each in metrics if not isinstance(each, OutcomeMetric)), None)
    if other is not None:
        raise DefinitionError(
            "an experiment has a metric that is none", got=repr(other), do="pass outcome_metric(…)", place=place
        )
    known = [each.name for each in metrics]
    twice = next((name for name in known if known.count(name) > 1), None)
    if twice is not None:
        raise DefinitionError(f"two metrics are named {twice!r}", do="rename one", place=place)
    return known


def _require_bandit(bandit: str, metrics: Sequence[OutcomeMetric], place: Place) -> None:
    known = {each.name: each for each in metrics}
    if bandit and bandit not in known:
        do = did_you_mean(bandit, known)
        raise DefinitionError(f"bandit= names no metric: {bandit!r}", do=do, place=place)
    guardrail = next((each.name for each in metrics if bandit and each.margin is not None), None)
    if guardrail is not None:
        problem = f"metric {guardrail!r} cannot be a guardrail of a bandit, whose moving weights allow no tests"
        raise DefinitionError(problem, do="remove guardrail= or bandit=", place=place)


def _interval(duration: timedelta) -> str:
    return interval(duration // timedelta(microseconds=1))
