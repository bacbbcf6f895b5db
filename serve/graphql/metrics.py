"""The fields of metrics: the values of one by the dimensions that are selected, and by periods. Each is one statement."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.warehouse.modelling.metrics import PERIOD
from serve.graphql.filters import condition_of, one_of, ordering, orders_of
from serve.graphql.naming import NamedMetric
from serve.graphql.rows import count_of
from serve.graphql.scalars import is_text
from serve.graphql.selection import Selected
from serve.graphql.snapshot import ReadSnapshot
from serve.graphql.tables import Run
from serve.http_errors import HttpError
from serve.metrics.queries import MetricQuery, PreparedMetrics
from serve.queries.objects import ObjectMember, as_objects
from serve.queries.query import MOST_ROWS, Ordering


@dataclass(frozen=True)
class MetricPlan:
    """The values of a metric as the value of a field."""

    field: Selected
    prepared: PreparedMetrics
    limit: int
    shapes: tuple[tuple[ObjectMember, ...], ...]

    def run(self, run: Run) -> tuple[str, int]:
        """Return the value as JSON, and the number of rows that it has."""
        rows = run(as_objects(self.prepared.statement, self.shapes))
        number = min(rows.num_rows, self.limit)
        parts, shape = [], 0
        for each in self.field.fields:
            if each.name == "rows":
                value = f"[{','.join(rows.column(f'row{shape}').slice(0, number).to_pylist())}]"
                shape += 1
            elif each.name == "isTruncated":
                value = json.dumps(rows.num_rows > number)
            elif each.name == "answeredBy":
                value = json.dumps(next(iter(self.prepared.answered_by.values()), None))
            else:
                value = json.dumps(self.field.type)
            parts.append(f"{json.dumps(each.key)}:{value}")
        return f"{{{','.join(parts)}}}", number


def plan_metric(named: NamedMetric, snapshot: ReadSnapshot, field: Selected) -> MetricPlan:
    """Return the plan of a field; raise `HttpError` for an argument that is not valid."""
    arguments, metric = field.arguments, named.metric
    where = condition_of(arguments.get("where"), named.dimensions)
    selections = [each for each in field.fields if each.name == "rows"]
    grain = arguments.get("grain") or ""
    query = MetricQuery(
        metrics=(metric,),
        dimensions=tuple(dict.fromkeys(_selected(named, selections))),
        grain=grain,
        where=where,
        begin=arguments.get("begin") or "",
        end=arguments.get("end") or "",
        limit=count_of(arguments, MOST_ROWS),
    )
    query = replace(query, order=tuple(_ordering(named, query, term) for term in arguments.get("orderBy") or ()))
    prepared = snapshot.metrics(query)
    kinds = prepared.statement.schema.as_dict()
    shapes = tuple(tuple(_member(named, part, kinds) for part in each.fields) for each in selections)
    return MetricPlan(field, prepared, query.limit or 0, shapes)


def _selected(named: NamedMetric, selections: Iterable[Selected]) -> Iterable[str]:
    """Yield the dimensions that are selected: the values are by these."""
    for each in selections:
        for part in each.fields:
            for one in part.fields:
                if one.name in named.dimensions.columns:
                    yield named.dimensions.columns[one.name].name


def _ordering(named: NamedMetric, query: MetricQuery, term: Mapping[str, Any]) -> Ordering:
    word, value = one_of(term, "orderBy")
    if word == "value":
        return ordering(named.metric, value)
    if word == "period":
        if not query.grain:
            raise HttpError("values are ordered by 'period', and there is no grain", do="write grain: month")
        return ordering(PERIOD, value)
    (order,) = orders_of([value], named.dimensions)
    if order.column not in query.dimensions:
        raise HttpError(f"values are ordered by {order.column!r}, by which they are not", do="select it in `by`")
    return order


def _member(named: NamedMetric, part: Selected, kinds: Mapping[str, str]) -> ObjectMember:
    if part.name == "value":
        return ObjectMember(part.key, named.metric, kinds[named.metric])
    if part.name == "period":
        # without a grain, there is one period: all time
        return (
            ObjectMember(part.key, PERIOD, kinds[PERIOD]) if PERIOD in kinds else ObjectMember(part.key, is_null=True)
        )
    if part.name == "__typename":
        return ObjectMember(part.key, constant=f"{named.dimensions.type}Row")
    members = []
    for each in part.fields:
        column = named.dimensions.columns.get(each.name)
        if column is None:
            members.append(ObjectMember(each.key, constant=part.type))
        else:
            members.append(ObjectMember(each.key, column.name, kinds[column.name], is_text=is_text(column.type)))
    return ObjectMember(part.key, members=tuple(members))
