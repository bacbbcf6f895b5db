"""Reads rows of a table from one version: a page with a link to the next one, or all of them as a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from pipeline.lake import Version
from serve.access.admission import RequestContext
from serve.access.authorization import Grant
from serve.access.gate import context_of
from serve.conditional_requests import entity_tag, not_modified
from serve.http_errors import TooLongError
from serve.queries import cursor as cursors
from serve.queries.cursor import PageCursor
from serve.queries.formats import JSON, Page, envelope, negotiate, read_page
from serve.queries.query import MOST_ROWS, Query
from serve.queries.rest_syntax import Parameters, parse
from serve.queries.select import VisibleRelation, page
from serve.reading import Reading
from serve.rest.streams import require_streamable, streamed
from serve.tables import reading_files

MOST_QUERY_BYTES = 16 << 10
_COUNTS = ("none", "exact", "planned")


@dataclass(frozen=True)
class _Request:
    """A request of rows, checked: by whom, which version, which query, in which form."""

    grant: Grant
    context: RequestContext
    parameters: Parameters
    version: Version
    is_pinned: bool
    """Whether the request names the version, which may be gone."""
    query: Query
    media_type: str
    counts: str


def read_rows(reading: Reading, name: str, request: Request) -> Response:
    """Return rows of a table in the accepted media type.

    The header `Table-Version` is the version, and `Link` the next page if there is one. The link contains the version
    and a total order, so following the links to the end returns each row of that version once. With `limit=all`, all rows
    are sent while they are read, in any media type but JSON. Raises `HttpError`, or `StorageError` if the lake cannot be read.
    """
    if len(request.scope["query_string"]) > MOST_QUERY_BYTES:
        raise TooLongError(f"the query is longer than {MOST_QUERY_BYTES} bytes", do="split it into several requests")
    asked = _asked(reading, name, request)
    context, number = asked.context, asked.version.number
    context.facts.update(table=name, version=number, why=asked.grant.reason)
    relation, related = _relations(reading, asked)
    etag = _etag(request, relation, related, asked)
    headers = {
        "Table-Version": str(number),
        "ETag": etag,
        "Vary": "Accept, Authorization, Prefer",
        "Cache-Control": "private, no-cache",
    }
    unchanged = not_modified(request.headers, headers)
    if unchanged is not None:
        return unchanged
    made = page(relation, asked.query, related)
    reading.engine.require_patterns(asked.query.where)
    if asked.query.limit is None:
        with reading_files(name, number, is_pinned=asked.is_pinned):
            return streamed(reading.engine, made, asked.media_type, headers, context)
    with reading_files(name, number, is_pinned=asked.is_pinned):
        rows = read_page(reading.engine, made, asked.query.limit, asked.media_type)
        total = _count(reading, asked, relation)
    following = f"{request.url.path}?{_following(asked, rows)}" if rows.has_next else None
    context.facts["rows"] = rows.rows
    newest = [*([] if asked.is_pinned else [relation]), *related.values()]  # related rows are always those of now
    context.keep(etag, ((each.table, each.identity) for each in newest))
    return _answer(asked, rows, following, total, headers)


def _asked(reading: Reading, name: str, request: Request) -> _Request:
    context = context_of(request.scope)
    grant = reading.authorizer.grant(context.caller, name)
    media_type = negotiate(request.headers.get("accept"))
    pairs = request.query_params.multi_items()
    version = reading.tables.version(name)
    visible = reading.authorizer.columns(grant, context.caller, version)
    parameters = Parameters.of(pairs, visible.schema.names)
    text = parameters.words.get("cursor")
    cursor = None if text is None else PageCursor.of(text)
    number, time = parameters.version, parameters.time
    if cursor is not None:
        number, time = cursor.version, None
    is_pinned = number is not None or time is not None
    if is_pinned:
        version = reading.tables.version(name, number, time)
        visible = reading.authorizer.columns(grant, context.caller, version)
    query = parse(
        parameters,
        visible.schema,
        visible.key,
        lambda table, hint: reading.related.find(grant.definition, table, hint, context.caller),
        most_rows=None if parameters.words.get("limit") == "all" else MOST_ROWS,
    )
    if query.limit is None:
        require_streamable(media_type)
    if cursor is not None:
        query = cursors.resumed(cursor, query, visible.schema, visible.key, cursors.identity(query))
    return _Request(
        grant, context, parameters, version, is_pinned, query, media_type, _counts(parameters, request.headers)
    )


def _relations(reading: Reading, asked: _Request) -> tuple[VisibleRelation, dict[str, VisibleRelation]]:
    caller = asked.context.caller
    relation = reading.authorizer.relation(asked.grant, caller, asked.version, asked.query.where)
    related = {}
    for each in asked.query.embed:
        grant = reading.authorizer.grant(caller, each.table)
        related[each.table] = reading.authorizer.relation(grant, caller, reading.tables.version(each.table))
    return relation, related


def _etag(request: Request, relation: VisibleRelation, related: Mapping[str, VisibleRelation], asked: _Request) -> str:
    seen = [(each.table, each.identity, each.fingerprint) for each in (relation, *related.values())]
    return entity_tag(seen, request.scope["path"], request.scope["query_string"], asked.media_type, asked.counts)


def _counts(parameters: Parameters, headers: Mapping[str, str]) -> str:
    if "count" in parameters.words:
        return parameters.choice("count", *_COUNTS)
    preferred = [each.strip() for each in headers.get("prefer", "").split(",")]
    return next((word for word in _COUNTS if f"count={word}" in preferred), "none")


def _count(reading: Reading, asked: _Request, relation: VisibleRelation) -> int | None:
    if asked.counts == "exact":
        return reading.count(relation, asked.query)
    if asked.counts == "planned":
        return reading.authorizer.estimate(asked.grant, asked.version, asked.query.where)
    return None


def _following(asked: _Request, rows: Page) -> str:
    query = asked.query
    cursor = PageCursor.following(asked.version.number, cursors.identity(query), query, rows.last, rows.rows)
    words = {
        **asked.parameters.words,
        "order": ",".join(str(term) for term in query.order),
        "limit": str(query.limit),
        "cursor": str(cursor),
    }
    pairs = [
        *asked.parameters.conditions,
        *((n, v) for n, v in words.items() if v and n not in {"offset", "version", "at"}),
    ]
    return urlencode(pairs, safe=",.():*")


def _answer(asked: _Request, rows: Page, following: str | None, total: int | None, headers: dict[str, str]) -> Response:
    if following is not None:
        headers["Link"] = f'<{following}>; rel="next"'
    if asked.counts != "none":
        first = asked.query.offset
        span = f"{first}-{first + rows.rows - 1}" if rows.rows and not asked.query.after else "*"
        headers["Content-Range"] = f"{span}/{total}"
    name, number = asked.grant.definition.name, asked.version.number
    body = rows.content if rows.media_type != JSON else envelope(name, number, rows, following, total)
    return Response(body, media_type=rows.media_type, headers=headers)
