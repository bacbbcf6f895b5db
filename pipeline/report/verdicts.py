"""The verdict on each model: its metrics next to those of the baseline, and the threshold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.core.definitions import Verdict
from pipeline.report import words
from pipeline.report.facts import TableSummary

BASELINE = "baseline_"


@dataclass(frozen=True)
class Metric:
    """A metric of a model, with the baseline's value if there is one."""

    name: str
    value: float
    baseline: float | None = None
    threshold: float | None = None

    @property
    def difference(self) -> float | None:
        """The model's value minus the baseline's."""
        return None if self.baseline is None else self.value - self.baseline


@dataclass(frozen=True)
class Judged:
    """A model with its verdict. `metrics` have a baseline or threshold, the deciding one first; `others` have neither."""

    table: TableSummary
    verdict: Verdict
    metrics: tuple[Metric, ...]
    others: tuple[Metric, ...]

    @property
    def headline(self) -> Metric | None:
        """The deciding metric, or the first one."""
        return next(iter((*self.metrics, *self.others)), None)


def judged(tables: Iterable[TableSummary]) -> tuple[Judged, ...]:
    """Return the last verdict of each model, in the order of the definitions."""
    return tuple(_judged(t, t.built.verdict) for t in tables if t.built is not None and t.built.verdict is not None)


def paired(metrics: Mapping[str, float], decides: str | None = None, threshold: float | None = None) -> list[Metric]:
    """Return each metric with the value of its `baseline_` counterpart, the deciding metric first.

    A baseline value without a metric of that name is listed as a metric.
    """
    pairs = []
    for name, value in metrics.items():
        if name.startswith(BASELINE) and name.removeprefix(BASELINE) in metrics:
            continue
        pairs.append(Metric(name, value, metrics.get(BASELINE + name), threshold if name == decides else None))
    return sorted(pairs, key=lambda metric: metric.name != decides)


def worded(name: str, value: float | None) -> str:
    """Format the value of a metric according to its name: rows, a share, or four decimal places."""
    if value is None:
        return words.ABSENT
    if name.endswith("rows"):
        return words.figure(value)
    return words.percent(value) if words.is_share(name) and 0 <= value <= 1 else f"{value:,.4f}"


def _judged(table: TableSummary, verdict: Verdict) -> Judged:
    # an artifact declares the deciding metric in `metric` and `at_least`, directly or in its evaluation
    rule = getattr(table.definition, "evaluation", table.definition)
    metrics = paired(verdict.metrics, getattr(rule, "metric", None), getattr(rule, "at_least", None))
    compared = tuple(m for m in metrics if m.baseline is not None or m.threshold is not None)
    return Judged(table, verdict, compared, tuple(m for m in metrics if m not in compared))
