"""The routes of queries in the background: their status, their rows, and their end."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.core.errors import StorageError
from serve.access.authorization import require_scope
from serve.access.gate import context_of
from serve.background.queries import BackgroundQueries
from serve.background.records import ACTIVE, BackgroundQuery, QueryStatus
from serve.background.rows import MOST_RESULT_ROWS
from serve.conditional_requests import entity_tag, not_modified
from serve.http_errors import HttpError, UnknownError
from serve.queries.formats import JSON, described_columns, negotiate, read_page, with_rows
from serve.queries.parameters import integer
from serve.queries.query import MOST_ROWS
from serve.queries.values import shown
from serve.reading import Reading
from serve.rest.catalog import words_of
from serve.rest.streams import require_streamable, streamed

PATH = "/v1/query/{query_id}"
DEFAULT_ROWS = 1_000
"""The rows of a page if the client does not say how many."""
_NOT_KEPT = {"Cache-Control": "no-store"}


def prefers_async(headers: Mapping[str, str]) -> bool:
    """Return whether a client prefers a response before the work is done, as in RFC 7240."""
    words = (each.partition(";")[0].strip().lower() for each in headers.get("prefer", "").split(","))
    return "respond-async" in words


def sql_of(asked: Mapping[str, object]) -> str:
    """Return the statement of a request; raise `HttpError` if it has none, or something else beside a limit."""
    unknown = set(asked) - {"sql", "limit"}
    if unknown or not isinstance(asked.get("sql"), str):
        raise HttpError(
            "a query has the members 'sql' and optionally 'limit'", got=", ".join(sorted(map(str, asked)))[:200]
        )
    return str(asked["sql"])


def submit(background: BackgroundQueries, request: Request, asked: Mapping[str, object]) -> Response:
    """Let a statement run in the background; return where its status is."""
    context = context_of(request.scope)
    require_scope(context.caller, "query")
    sql, limit = sql_of(asked), asked.get("limit", "all")
    if limit != "all" and (isinstance(limit, bool) or not isinstance(limit, int)):
        raise HttpError(f"'limit' takes an integer from 1 to {MOST_RESULT_ROWS}, or all", got=shown(str(limit)))
    most_rows = None if limit == "all" else integer("limit", str(limit), 1, MOST_RESULT_ROWS)
    query, status = background.submit(context.caller, sql, most_rows)
    context.facts.update(table=",".join(query.versions), why="scope query", query=query.id)
    headers = {"Location": f"/v1/query/{query.id}", "Preference-Applied": "respond-async", **_NOT_KEPT}
    return JSONResponse(described(query, status), 202, headers)


def background_routes(reading: Reading, background: BackgroundQueries | None) -> list[Route]:
    """Return the routes; none if there are no queries in the background."""
    if background is None:
        return []

    async def answer(request: Request) -> Response:
        function = _end if request.method == "DELETE" else _status
        return await reading.run(context_of(request.scope).caller, function, background, request)

    async def list_queries(request: Request) -> Response:
        return await reading.run(context_of(request.scope).caller, _listed, background, request)

    async def rows(request: Request) -> Response:
        return await reading.run(context_of(request.scope).caller, _rows, reading, background, request)

    return [
        Route("/v1/queries", list_queries),
        Route(PATH, answer, methods=["GET", "DELETE"]),
        Route(PATH + "/rows", rows),
    ]


def described(query: BackgroundQuery, status: QueryStatus) -> dict[str, Any]:
    """Return a query as JSON has it."""
    found = {
        "id": query.id,
        "status": status.state,
        "columns": described_columns(query.schema.columns),
        "versions": dict(query.versions),
        "row_count": status.rows,
        "bytes": status.bytes,
        "is_truncated": status.is_truncated,
        "submitted_at": _time(query.submitted_at),
        "started_at": _time(status.started_at),
        "ended_at": _time(status.ended_at),
        "expires_at": _time(status.expires_at),
    }
    if status.problem:
        found["problem"] = dict(status.problem)
    return found


def _found(background: BackgroundQueries, request: Request) -> tuple[BackgroundQuery, QueryStatus]:
    context, query_id = context_of(request.scope), request.path_params["query_id"]
    require_scope(context.caller, "query")
    query, status = background.store.find(query_id, context.caller)
    context.facts.update(table=",".join(query.versions), why="scope query", query=query.id)
    return query, status


def _listed(background: BackgroundQueries, request: Request) -> Response:
    context = context_of(request.scope)
    require_scope(context.caller, "query")
    words_of(request, ())
    context.facts["why"] = "scope query"
    found = [described(query, status) for query, status in background.store.of(context.caller)]
    return JSONResponse({"queries": found}, headers=_NOT_KEPT)


def _status(background: BackgroundQueries, request: Request) -> Response:
    words_of(request, ())
    query, status = _found(background, request)
    waits = {"Retry-After": "1"} if status.state in ACTIVE else {}
    return JSONResponse(described(query, status), headers=_NOT_KEPT | waits)


def _end(background: BackgroundQueries, request: Request) -> Response:
    words_of(request, ())
    query, status = _found(background, request)
    if status.state in ACTIVE:
        background.store.cancel(query.id)
        return JSONResponse(described(query, status), 202, _NOT_KEPT)
    background.store.remove(query.id)
    return Response(None, 204, _NOT_KEPT)


def _rows(reading: Reading, background: BackgroundQueries, request: Request) -> Response:
    query, status = _found(background, request)
    asked = words_of(request, ("limit", "offset"))
    media_type = negotiate(request.headers.get("accept"))
    span = _span(asked)
    if span is None:
        require_streamable(media_type)
    made = background.rows(query, status, context_of(request.scope).caller, span)
    headers = {"Vary": "Accept, Authorization", "Cache-Control": "private, no-cache"}
    headers["ETag"] = entity_tag((query.id, span), media_type)
    unchanged = not_modified(request.headers, headers)
    if unchanged is not None:
        return unchanged
    context = context_of(request.scope)
    try:
        if span is None:
            return streamed(reading.engine, made, media_type, headers, context)
        page = read_page(reading.engine, made, span[1], media_type)
    except StorageError as error:
        raise UnknownError("there is no such query", do="it was removed: submit it again") from error
    context.facts["rows"] = page.rows
    following = f"/v1/query/{query.id}/rows?offset={sum(span)}&limit={span[1]}" if page.has_next else None
    if following is not None:
        headers["Link"] = f'<{following}>; rel="next"'
    if media_type != JSON:
        return Response(page.content, media_type=media_type, headers=headers)
    told = described(query, status)
    head = {name: told[name] for name in ("columns", "versions", "row_count", "is_truncated")} | {"next": following}
    return Response(with_rows(head, page.content), media_type=JSON, headers=headers)


def _span(asked: Mapping[str, str]) -> tuple[int, int] | None:
    """Return the number of the first row, and how many; `None` for all rows."""
    offset = integer("offset", asked.get("offset", "0"), 0, MOST_RESULT_ROWS)
    limit = asked.get("limit", str(DEFAULT_ROWS))
    if limit == "all":
        if offset:
            raise HttpError("'offset' is for pages", do="leave it out with limit=all")
        return None
    return offset, integer("limit", limit, 1, MOST_ROWS)


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
