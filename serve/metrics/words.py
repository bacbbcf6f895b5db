"""The words of metric queries: `dimensions=dim_airline.name&grain=month&from=2026-01-01&origin=eq.JFK&order=on_time_rate.desc`."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.core.schema import Schema
from serve.access.caller import Caller
from serve.http_errors import HttpError
from serve.metrics.queries import MetricQueries, MetricQuery
from serve.queries.query import MOST_ROWS
from serve.queries.rest_syntax import Parameters, parse
from serve.queries.values import shown

_WORDS = ("dimensions", "grain", "from", "to", "order", "limit")


def metric_query(
    queries: MetricQueries, metrics: Sequence[str], pairs: Sequence[tuple[str, str]], caller: Caller
) -> MetricQuery:
    """Return the query of parameters, of which those that are no word are conditions on dimensions.

    Raises `UnknownError` for a metric that the caller may not ask for, and `HttpError` for the first invalid parameter.
    """
    schema = queries.schema(metrics, caller)
    words: dict[str, str] = {}
    conditions: list[tuple[str, str]] = []
    for name, value in pairs:
        if name not in _WORDS:
            conditions.append((name, value))
        elif name in words:
            raise HttpError(f"{name!r} is given twice", do="give it once, with names separated by commas")
        else:
            words[name] = value
    query = MetricQuery(
        tuple(metrics),
        tuple(each.strip() for each in words["dimensions"].split(",")) if words.get("dimensions") else (),
        words.get("grain", ""),
        parse(Parameters({}, tuple(conditions)), schema, ()).where,
        words.get("from", ""),
        words.get("to", ""),
    )
    for name in ("grain", "from", "to"):
        if name in words and not words[name]:
            raise HttpError(f"{name!r} is empty", got=shown(words[name]), do="omit it")
    rest = {"limit": str(MOST_ROWS)} | {name: words[name] for name in ("order", "limit") if name in words}
    most = None if rest["limit"] == "all" else MOST_ROWS
    result = Schema.of(dict.fromkeys(query.columns, "VARCHAR"))
    page = parse(Parameters(rest, ()), result, (), most_rows=most)
    return MetricQuery(
        query.metrics, query.dimensions, query.grain, query.where, query.begin, query.end, page.order, page.limit
    )
