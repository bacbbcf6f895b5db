"""Metrics by `$apply`: `groupby((airline,period_month),aggregate(on_time_rate))`, which OData calls custom aggregates."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starlette.responses import Response

from pipeline.core.errors import did_you_mean
from pipeline.core.schema import Column, Schema
from pipeline.kernel.sql_text import quoted
from pipeline.warehouse.modelling.metrics import PERIOD
from serve.access.admission import RequestContext
from serve.conditional_requests import entity_tag, not_modified
from serve.http_errors import HttpError, UnsupportedError
from serve.metrics.queries import MetricQuery
from serve.odata.entities import as_entities
from serve.odata.filter_syntax import Filter, parse_filter
from serve.odata.headers import json_form
from serve.odata.model import EntitySet, Property, grant_of, identifiers
from serve.odata.resources import Ask
from serve.queries.formats import JSON, read_page
from serve.queries.query import MOST_ROWS, Combination, Condition, Predicate
from serve.queries.select import PageStatement, Statement
from serve.queries.values import shown
from serve.reading import Reading

_APPLY = re.compile(
    r"\s*(?:filter\((?P<filter>.*)\)\s*/\s*)?"
    r"(?:groupby\(\s*\((?P<by>[^()]*)\)\s*,\s*aggregate\((?P<grouped>[^()]*)\)\s*\)|aggregate\((?P<total>[^()]*)\))\s*",
    re.IGNORECASE | re.DOTALL,
)
_GRAIN = "period_"
_DO = "write groupby((DIMENSION,period_month),aggregate(METRIC)), optionally after filter(…)/"


@dataclass(frozen=True)
class _Applied:
    """A query of metrics, and the property of each column of its result."""

    query: MetricQuery
    names: Mapping[str, str]
    uses_clock: bool


def read_metrics(reading: Reading, context: RequestContext, ask: Ask, request: Mapping[str, str]) -> Response:
    """Return metrics of an entity set by dimensions and periods. Raises `HttpError`, as if what a caller may not see did not exist."""
    ask.options.require_only("apply", "orderby", "top", "format")
    form = json_form(ask.accept, ask.options.words.get("format"))
    grant = grant_of(reading, context.caller, ask.resource.set_name)
    applied = _applied(reading, context, ask, grant.definition.name)
    prepared = reading.metrics.prepare(applied.query, context.caller)
    metrics = ",".join(applied.query.metrics)
    context.facts.update(table=",".join(prepared.versions), metrics=metrics, why="policies of the tables")
    headers = {} if applied.uses_clock else {"ETag": entity_tag(prepared.etag, ask)}
    unchanged = not_modified(request, headers)
    if unchanged is not None:
        return unchanged
    schema = prepared.statement.schema
    properties = tuple(Property(applied.names[each.name], each) for each in schema.columns)
    made = _renamed(prepared.statement, properties)
    entities = EntitySet(ask.resource.set_name, grant.definition.name, "", properties)
    page = read_page(
        reading.engine,
        made,
        applied.query.limit or MOST_ROWS,
        JSON,
        lambda made, end: as_entities(made, end, properties=properties, entities=entities, form=form, base=ask.base),
    )
    if page.has_next and "top" not in ask.options.words:
        raise HttpError(f"there are more than {MOST_ROWS} groups", do="filter, or group by less")
    context.facts["rows"] = page.rows
    if not applied.uses_clock:
        context.keep(headers["ETag"], prepared.identities)
    url = f"{ask.base}/$metadata#{entities.name}({','.join(each.name for each in properties)})"
    head = "{" if form.metadata == "none" else json.dumps({"@odata.context": url}, ensure_ascii=False)[:-1] + ", "
    return Response(head.encode() + b'"value": ' + page.content + b"}", headers=headers, media_type=form.media_type)


def _applied(reading: Reading, context: RequestContext, ask: Ask, table: str) -> _Applied:
    text = ask.options.words["apply"]
    match = _APPLY.fullmatch(text)
    if match is None:
        raise UnsupportedError("'$apply' takes metrics by dimensions only", got=shown(text), do=_DO)
    known = {each.metric.name: each for each in reading.metrics.readable(context.caller) if each.metric.table == table}
    metrics = _listed(match["grouped"] if match["grouped"] is not None else match["total"])
    for name in metrics:
        if not re.fullmatch(r"\w+", name):
            raise UnsupportedError("'$apply' aggregates metrics only", got=shown(name), do=_DO)
        if name not in known:
            raise HttpError(f"there is no metric {shown(name)} of this entity set", do=did_you_mean(name[:200], known))
    dimensions = {column.name: column for column in reading.metrics.schema(metrics, context.caller).columns}
    names = identifiers(dimensions)
    columns = {identifier: dimensions[name] for name, identifier in names.items()}
    asked = [each.replace("/", "_") for each in _listed(match["by"])] if match["by"] is not None else []
    grains = [each.removeprefix(_GRAIN) for each in asked if each.startswith(_GRAIN) and each not in columns]
    if len(grains) > 1:
        raise HttpError("'$apply' groups by one length of periods", got=shown(text))
    by = [_dimension(each, columns) for each in asked if each in columns or not each.startswith(_GRAIN)]
    filter_ = None if match["filter"] is None else _filter(match["filter"], columns)
    result = {
        **{name: names[name] for name in by},
        **({PERIOD: _GRAIN + grains[0]} if grains else {}),
        **{n: n for n in metrics},
    }
    query = MetricQuery(
        tuple(metrics),
        tuple(by),
        grains[0] if grains else "",
        None if filter_ is None else filter_.condition,
        order=ask.options.ordering(_result_set(ask, result)),
        limit=min(MOST_ROWS, ask.options.number("top") or MOST_ROWS),
    )
    return _Applied(query, result, filter_ is not None and filter_.uses_clock)


def _result_set(ask: Ask, result: Mapping[str, str]) -> EntitySet:
    """Return the result as an entity set to order by; the types of its columns do not matter for that."""
    properties = tuple(Property(identifier, Column(name, "VARCHAR")) for name, identifier in result.items())
    return EntitySet(ask.resource.set_name, "", "", properties)


def _dimension(identifier: str, columns: Mapping[str, Column]) -> str:
    if identifier not in columns:
        raise HttpError(f"there is no dimension {shown(identifier)}", do=did_you_mean(identifier[:200], columns))
    return columns[identifier].name


def _filter(text: str, columns: Mapping[str, Column]) -> Filter:
    found = parse_filter(text, columns)
    if not _is_simple(found.condition):
        raise UnsupportedError("a filter of metrics compares dimensions with values", got=shown(text))
    return found


def _is_simple(condition: Condition) -> bool:
    if isinstance(condition, Combination):
        return all(_is_simple(each) for each in condition.terms)
    return not isinstance(condition, Predicate)


def _renamed(made: PageStatement, properties: Sequence[Property]) -> PageStatement:
    columns = ", ".join(f"{quoted(each.column.name)} as {quoted(each.name)}" for each in properties)
    statement = Statement(f"select {columns} from ({made.statement.sql})", made.statement.values)
    return PageStatement(statement, Schema(tuple(each.renamed for each in properties)))


def _listed(text: str) -> list[str]:
    names = [each.strip() for each in text.split(",")]
    if not all(names):
        raise HttpError("'$apply' names nothing", got=shown(text), do=_DO)
    return names
