"""Monitors of performance: how good predictions were in each window, once enough of its rows have labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from ml.companions import CompanionTable, StatementTransform
from ml.monitoring.alarm_rules import Alarms
from ml.monitoring.counts import segment_key, window_key, window_length
from ml.monitoring.performance_options import INVALID, METRICS, SCORE_BINS, PerformanceOptions, PerformanceTask
from pipeline.core.definitions import Chart, Definition, Layer, Table, caller, names
from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.fingerprint import fingerprint
from pipeline.kernel.sql_text import quoted

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class PerformanceTransform:
    """Computes the metrics of each window from counts; called with all rows of its input."""

    inputs: tuple[str, ...]
    options: PerformanceOptions

    @property
    def fingerprint(self) -> str:
        """A hash of what the metrics depend on besides the counts."""
        return fingerprint("performance", repr(self.options))

    @property
    def language(self) -> str:
        """`arrow`."""
        return "arrow"

    def __call__(self, *args: Any, **tables: Any) -> pa.Table:
        """Return the metrics and the states."""
        from ml.monitoring.performance_results import performance_results  # noqa: PLC0415 - imports NumPy

        given = {**dict(zip(self.inputs, args, strict=False)), **tables}
        return performance_results(given[self.inputs[0]], self.options)


@dataclass(frozen=True, kw_only=True)
class PerformanceMonitor(Table):
    """The performance of predictions: a row for each window and segment."""

    transform: PerformanceTransform
    of: str
    time: str
    prediction: str
    label: str
    segment: str

    @cached_property
    def companions(self) -> tuple[Definition, ...]:
        """The table of counts that it is computed from."""
        options = self.transform.options
        by = {name: quoted(name) for name in options.by}
        keys = {"window_start": window_key(self.time, options.window), **by, **segment_key(self.segment)}
        columns = (self.prediction, self.label)
        text = counted(options.task, self.of, columns, keys)
        counts = CompanionTable(
            place=self.place,
            name=f"{self.name}_counts",
            description=f"Counts of the monitor {self.name}.",
            transform=StatementTransform(text, (self.of,), tuple((self.of, sql) for sql in (*columns, *keys.values()))),
            layer="silver",
            role="monitor counts",
            belongs_to=self.name,
        )
        return (counts,)

    def named(self, name: str) -> Self:
        """Return the monitor with this name, and with the input that is named after it."""
        monitor = super().named(name)
        return replace(monitor, transform=replace(monitor.transform, inputs=(f"{monitor.name}_counts",)))


def counted(task: PerformanceTask, of: str, columns: tuple[str, str], keys: dict[str, str]) -> str:
    """Return the SELECT of sums per key and, for a binary task, bin of the score; `columns` are prediction and label."""
    kind = "varchar" if task == "multiclass" else "double"
    prediction, label = (f"({column})::{kind}" for column in columns)
    inner = "".join(f"{sql} as {quoted(name)}, " for name, sql in keys.items())
    listed = "".join(f"{quoted(name)}, " for name in keys)
    rows = f"(select {inner}{prediction} as p, {label} as y from {quoted(of)}) as each_row"
    known = "filter (where y is not null)"
    if task == "multiclass":
        valid = f"case when p is null then {INVALID} else 0 end"
        return f"""
            select {listed}{valid} as bin, count(*) as rows, count(*) {known} as labelled,
                   count(*) filter (where p = y) as correct
            from {rows} group by {listed}{valid}
        """
    if task == "regression":
        valid = "p is not null and not isnan(p)"
        values = f"""count(*) {known} as labelled, sum(abs(p - y)) as absolute, sum((p - y) * (p - y)) as squared,
                   sum(p - y) as difference, sum(p) filter (where {valid}) as predicted, sum(y) as actual"""
        return f"""
            select {listed}case when {valid} then 0 else {INVALID} end as bin, count(*) as rows, {values}
            from {rows} group by {listed}case when {valid} then 0 else {INVALID} end
        """
    valid = "p between 0 and 1 and (y is null or y in (0, 1))"
    bin_ = f"case when {valid} then least(floor(p * {SCORE_BINS})::int, {SCORE_BINS - 1}) else {INVALID} end"
    clipped = "least(greatest(p, 1e-15), 1 - 1e-15)"
    loss = f"-(y * ln({clipped}) + (1 - y) * ln(1 - {clipped}))"
    return f"""
        select {listed}{bin_} as bin, count(*) as rows, count(*) {known} as labelled,
               sum(y) as actual, sum(p) as predicted, sum(p) {known} as predicted_labelled,
               sum((p - y) * (p - y)) as squared, sum({loss}) as loss
        from {rows} group by {listed}{bin_}
    """


def performance(  # noqa: PLR0913 - options of a definition, all keyword-only
    *,
    of: str,
    time: str,
    prediction: str,
    label: str,
    task: PerformanceTask = "binary",
    metric: str = "",
    at_least: float | None = None,
    at_most: float | None = None,
    maturity: float = 0.8,
    threshold: float = 0.5,
    min_rows: int = 200,
    window: str | timedelta = "1 day",
    segment: str = "",
    by: str | Sequence[str] = (),
    alarms: Alarms | None = None,
    layer: Layer = "gold",
    description: str = "",
) -> PerformanceMonitor:
    """Measure predictions against labels by the window of their time; see `docs/monitoring.md`.

    `of` is a table of predictions, joined to labels as far as these are known: `prediction` is the probability of a binary
    task, the class of a multi-class one or the number of a regression, `label` is null until it is known. A window is judged once the share `maturity` of its
    rows has labels, and `min_rows` of them. `at_least`, or `at_most` for a metric of which lower values are better, is the
    limit of `metric`. `threshold` is the probability from which on the prediction is positive, for the accuracy, in steps of 0.005. Of
    `alarms`, only the numbers of windows apply.

    | task | metrics, the default first |
    | --- | --- |
    | binary | auc, accuracy, brier, log_loss; auc and accuracy are also estimated before labels are known |
    | multiclass | accuracy |
    | regression | mae, rmse, bias |

    Raises `DefinitionError` for an unknown task or metric, for a limit on the wrong side, and for `alarms` with thresholds.
    """
    place = caller()
    if task not in METRICS:
        raise DefinitionError(f"unknown task {task!r}", do=did_you_mean(str(task), METRICS), place=place)
    chosen = metric or next(iter(METRICS[task]))
    if chosen not in METRICS[task]:
        problem = f"unknown metric {chosen!r} of a {task} task"
        raise DefinitionError(problem, do=did_you_mean(chosen, METRICS[task]), place=place)
    limit = _limit(chosen, METRICS[task][chosen], at_least, at_most, place)
    for name, value in {"maturity": maturity, "threshold": threshold}.items():
        if not 0 < value <= 1:
            raise DefinitionError(f"{name}= must be over 0 and at most 1", got=f"{value:g}", place=place)
    rule = alarms or Alarms()
    if replace(rule, windows=Alarms.windows, of=Alarms.of) != Alarms():
        do = "limit the metric by at_least= or at_most="
        raise DefinitionError("of alarms(…), performance(…) uses only windows=", got=repr(rule), do=do, place=place)
    length = window_length(window, place)
    options = PerformanceOptions(
        task, chosen, limit, maturity, threshold, min_rows, length, rule, names(by), bool(segment)
    )
    return PerformanceMonitor(
        place=place,
        description=description or f"The {chosen} of {prediction} in {of} by {window}.",
        transform=PerformanceTransform((), options),
        layer=layer,
        role="monitor",
        chart=Chart("line", x="window_start", y=chosen, by="segment" if segment else None),
        of=of,
        time=quoted(time),
        prediction=quoted(prediction),
        label=quoted(label),
        segment=segment,
    )


def _limit(metric: str, is_higher_better: bool, at_least: float | None, at_most: float | None, place: Place) -> float:  # noqa: FBT001 - a fact of the metric
    name, given, other = ("at_least", at_least, at_most) if is_higher_better else ("at_most", at_most, at_least)
    if given is None or other is not None:
        raise DefinitionError(
            f"the metric {metric!r} needs {name}=", got=f"at_least={at_least}, at_most={at_most}", place=place
        )
    return given
