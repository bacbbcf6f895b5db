"""The route of SQL: one SELECT over the tables that the caller may read, as its policies show them."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve.access.authorization import require_scope
from serve.access.gate import context_of
from serve.background.queries import BackgroundQueries
from serve.conditional_requests import entity_tag, not_modified
from serve.http_errors import HttpError
from serve.prepared_sql import prepare
from serve.queries.formats import JSON, described_columns, negotiate, read_page, with_rows
from serve.queries.parameters import integer
from serve.queries.query import MOST_ROWS
from serve.queries.values import shown
from serve.reading import Reading
from serve.request_body import json_object, read_body
from serve.rest.background import prefers_async, sql_of, submit
from serve.rest.streams import require_streamable, streamed

_MOST_BODY = 256 << 10  # more than the longest statement takes if JSON escapes each of its characters


def sql_routes(reading: Reading, background: BackgroundQueries | None) -> list[Route]:
    """Return the route of SQL: the rows of a statement, or with `Prefer: respond-async` where they will be."""

    async def query(request: Request) -> Response:
        if request.method == "GET":
            asked: Mapping[str, object] = dict(request.query_params)
        else:
            body = await read_body(request, _MOST_BODY, do="send a shorter statement")
            asked = json_object(body, '{"sql": "select …"}')
            if background is not None and prefers_async(request.headers):
                return await reading.run(context_of(request.scope).caller, submit, background, request, asked)
        return await reading.run(context_of(request.scope).caller, _answer, reading, request, asked)

    return [Route("/v1/query", query, methods=["GET", "POST"])]


def _answer(reading: Reading, request: Request, asked: Mapping[str, object]) -> Response:
    context = context_of(request.scope)
    require_scope(context.caller, "query")
    sql = sql_of(asked)
    media_type = negotiate(request.headers.get("accept"))
    limit = _limit(asked, media_type, is_text=request.method == "GET")
    prepared = prepare(reading, context.caller, sql, limit)
    context.facts.update(table=",".join(prepared.versions), why="scope query")
    headers = {"Vary": "Accept, Authorization", "Cache-Control": "private, no-cache"}
    if prepared.is_stable:
        headers["ETag"] = entity_tag(prepared.etag, media_type)
    unchanged = not_modified(request.headers, headers)
    if unchanged is not None:
        return unchanged
    if limit is None:
        return streamed(reading.engine, prepared.statement, media_type, headers, context)
    page = read_page(reading.engine, prepared.statement, limit, media_type)
    context.facts["rows"] = page.rows
    if prepared.is_stable:
        context.keep(headers["ETag"], prepared.identities)
    if media_type != JSON:
        return Response(page.content, media_type=media_type, headers=headers)
    head = {
        "columns": described_columns(prepared.statement.schema.columns),
        "versions": dict(prepared.versions),
        "is_truncated": page.has_next,
    }
    return Response(with_rows(head, page.content), media_type=JSON, headers=headers)


def _limit(asked: Mapping[str, object], media_type: str, *, is_text: bool) -> int | None:
    """Return the number of rows, as a text in a URL and as a number in a body; `None` for all."""
    value = asked.get("limit", str(MOST_ROWS) if is_text else MOST_ROWS)
    if value == "all":
        require_streamable(media_type)
        return None
    if isinstance(value, bool) or not isinstance(value, str if is_text else int):
        raise HttpError(f"'limit' takes an integer from 1 to {MOST_ROWS}, or all", got=shown(str(value)))
    return integer("limit", str(value), 1, MOST_ROWS)
