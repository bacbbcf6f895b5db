"""The routes of metrics: which there are, and their values by dimensions and periods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serve.access.gate import context_of
from serve.conditional_requests import entity_tag, not_modified
from serve.http_errors import HttpError, TooLongError
from serve.metrics.queries import MetricQuery, PreparedMetrics, VisibleMetric
from serve.metrics.words import metric_query
from serve.queries.formats import JSON, described_columns, negotiate, read_page, with_rows
from serve.reading import Reading
from serve.rest.rows import MOST_QUERY_BYTES
from serve.rest.streams import require_streamable, streamed


def metric_routes(reading: Reading) -> list[Route]:
    """Return the routes of the metrics that callers may ask for."""

    async def list_or_read(request: Request) -> Response:
        pairs, caller = request.query_params.multi_items(), context_of(request.scope).caller
        names = [value for name, value in pairs if name == "metrics"]
        if not pairs:
            found = await reading.run(caller, reading.metrics.readable, caller)
            return JSONResponse({"metrics": [describe(each) for each in found]})
        if len(names) != 1:
            raise HttpError("no metric is named", do="write metrics=a,b, once")
        others = [pair for pair in pairs if pair[0] != "metrics"]
        asked = [each.strip() for each in names[0].split(",")]
        return await reading.run(caller, _read, reading, asked, others, request)

    async def read_one(request: Request) -> Response:
        pairs = request.query_params.multi_items()
        caller = context_of(request.scope).caller
        return await reading.run(caller, _read, reading, [request.path_params["name"]], pairs, request)

    return [Route("/v1/metrics", list_or_read), Route("/v1/metrics/{name}", read_one)]


def describe(each: VisibleMetric) -> dict[str, Any]:
    """Return a metric with the dimensions that a caller sees."""
    metric = each.metric
    return {
        "name": metric.name,
        "description": metric.description,
        "owner": metric.owner,
        "format": metric.format,
        "table": metric.table,
        "expression": metric.expression,
        "where": metric.where or None,
        "time": None if each.time is None else each.time.name,
        "grains": list(each.grains),
        "dimensions": described_columns(each.dimensions),
    }


def _read(reading: Reading, names: Sequence[str], pairs: Sequence[tuple[str, str]], request: Request) -> Response:
    if len(request.scope["query_string"]) > MOST_QUERY_BYTES:
        raise TooLongError(f"the query is longer than {MOST_QUERY_BYTES} bytes", do="split it into several requests")
    context = context_of(request.scope)
    media_type = negotiate(request.headers.get("accept"))
    query = metric_query(reading.metrics, names, pairs, context.caller)
    if query.limit is None:
        require_streamable(media_type)
    prepared = reading.metrics.prepare(query, context.caller)
    context.facts.update(table=",".join(prepared.versions), metrics=",".join(names), why="policies of the tables")
    etag = entity_tag(prepared.etag, media_type)
    headers = {"ETag": etag, "Vary": "Accept, Authorization", "Cache-Control": "private, no-cache"}
    unchanged = not_modified(request.headers, headers)
    if unchanged is not None:
        return unchanged
    if query.limit is None:
        return streamed(reading.engine, prepared.statement, media_type, headers, context)
    page = read_page(reading.engine, prepared.statement, query.limit, media_type)
    context.facts["rows"] = page.rows
    context.keep(etag, prepared.identities)
    body = page.content if media_type != JSON else _envelope(query, prepared, page.content, is_truncated=page.has_next)
    return Response(body, media_type=media_type, headers=headers)


def _envelope(query: MetricQuery, prepared: PreparedMetrics, rows: bytes, *, is_truncated: bool) -> bytes:
    head = {
        "metrics": list(query.metrics),
        "columns": described_columns(prepared.statement.schema.columns),
        "versions": dict(prepared.versions),
        "answered_by": dict(prepared.answered_by),
        "is_truncated": is_truncated,
    }
    return with_rows(head, rows)
