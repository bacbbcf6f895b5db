"""Metrics of a project as one SELECT over its tables as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from pipeline.core.errors import RequestError, did_you_mean
from pipeline.kernel.sql_text import listed, literal, quoted
from pipeline.warehouse.modelling.metric_sql import TIME, grouped, parts_of, rows_of, united, values_of
from pipeline.warehouse.modelling.metrics import PERIOD, MetricDefinition


@dataclass(frozen=True)
class MetricBounds:
    """Which rows count: those that satisfy a SQL condition on dimensions, from a time on and before another."""

    where: str = ""
    begin: str = ""
    end: str = ""


def metrics_sql(
    metrics: Sequence[MetricDefinition],
    names: Sequence[str],
    dimensions: Sequence[str],
    grain: str,
    limits: MetricBounds,
) -> str:
    """Return the SELECT of metrics by dimensions and periods; raise `RequestError` for what they do not have."""
    known = {each.name: each for each in metrics}
    for name in names:
        if name not in known:
            raise RequestError(f"there is no metric {name!r}", do=did_you_mean(name, known))
    if not names or len(set(names)) < len(names):
        raise RequestError("name the metrics, each once", got=", ".join(names) or "none")
    condition, filtered = _condition(limits.where)
    wanted = tuple(dict.fromkeys((*dimensions, *filtered)))
    asked = [known[name] for name in names]
    for each in asked:
        _require(each, wanted, grain, limits)
    conditions = [condition] if condition else []
    conditions += [f"{quoted(TIME)} >= {literal(limits.begin)}"] if limits.begin else []
    conditions += [f"{quoted(TIME)} < {literal(limits.end)}"] if limits.end else []
    where = f" where {' and '.join(conditions)}" if conditions else ""
    groups = [*dimensions, *([PERIOD] if grain else [])]
    selects = []
    for part in parts_of(asked):
        rows = rows_of(part, wanted, grain, lambda name: f"select * from {quoted(name)}")
        selects.append(grouped(part, groups, f"select * from ({rows}){where}", values_of(part)))
    order = f" order by {listed(groups)}" if groups else ""
    return f"{united(selects, groups, names)}{order}"


def _require(metric: MetricDefinition, wanted: Sequence[str], grain: str, limits: MetricBounds) -> None:
    for name in wanted:
        if metric.dimension(name) is None:
            raise RequestError(
                f"metric {metric.name!r} has no dimension {name!r}", do=did_you_mean(name, metric.dimension_names)
            )
    if grain and grain not in metric.grains:
        do = did_you_mean(grain, metric.grains) if metric.grains else "leave out grain="
        raise RequestError(f"metric {metric.name!r} has no grain {grain!r}", do=do)
    if (limits.begin or limits.end) and not metric.time:
        raise RequestError(f"metric {metric.name!r} has no time", do="leave out begin= and end=")


def _condition(text: str) -> tuple[str, tuple[str, ...]]:
    """Return a condition with the names of dimensions as columns, and these names."""
    if not text:
        return "", ()
    try:
        tree = sqlglot.parse_one(f"({text}\n)", dialect="duckdb")
    except SqlglotError as error:
        raise RequestError("where= is not a SQL condition", got=repr(text)) from error
    found: dict[str, None] = {}

    def bind(node: exp.Expr) -> exp.Expr:
        if not isinstance(node, exp.Column):
            return node
        name = ".".join(part for part in (node.table, node.name) if part)
        found[name] = None
        return exp.column(exp.to_identifier(name, quoted=True))

    return tree.transform(bind).sql("duckdb", comments=False), tuple(found)
