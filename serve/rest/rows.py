"""Reads rows of a table from one version, or how they differ from an earlier one: a page with a link to the next, or a stream."""

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
from serve.http_errors import GoneError, HttpError, TooLongError
from serve.queries import cursor as cursors
from serve.queries.cursor import PageCursor
from serve.queries.formats import JSON, Page, envelope, negotiate, read_page
from serve.queries.parameters import time_of, version_number
from serve.queries.query import MOST_ROWS, Query
from serve.queries.rest_syntax import WORDS, Parameters, parse
from serve.queries.select import VisibleRelation, page
from serve.reading import Reading
from serve.rest.streams import require_streamable, streamed
from serve.tables import identity_of, reading_files

MOST_QUERY_BYTES = 16 << 10
SINCE = "since"
"""The parameter of changes that names the earlier version."""
_COUNTS = ("none", "exact", "planned")


@dataclass(frozen=True)
class _Request:
    """A request of rows, checked: by whom, which version, which query, in which form."""

    grant: Grant
    context: RequestContext
    parameters: Parameters
    version: Version
    since: Version | None
    """The earlier version; only for changes."""
    relation: VisibleRelation
    query: Query
    media_type: str
    counts: str
    is_newest: bool
    """Whether the version is the newest, and not one that the request names."""
    is_timed: bool
    """Whether it names a version by a time, so that it may be another one later."""


def read_rows(reading: Reading, name: str, request: Request, *, changes: bool = False) -> Response:
    """Return rows of a table, or those that differ from an earlier version, in the accepted media type.

    The header `Table-Version` is the version, and `Link` the next page if there is one. The link contains the version
    and a total order, so following the links to the end returns each row of that version once. With `limit=all`, all rows
    are sent while they are read, in any media type but JSON. Raises `HttpError`, or `StorageError` if the lake cannot be read.
    """
    if len(request.scope["query_string"]) > MOST_QUERY_BYTES:
        raise TooLongError(f"the query is longer than {MOST_QUERY_BYTES} bytes", do="split it into several requests")
    asked = _asked(reading, name, request, of_changes=changes)
    context, number = asked.context, asked.version.number
    context.facts.update(table=name, version=number, why=asked.grant.reason)
    if asked.since is not None:
        context.facts["since"] = asked.since.number
    related = _related(reading, asked)
    etag = _etag(request, related, asked)
    headers = {
        "Table-Version": str(number),
        "ETag": etag,
        "Vary": "Accept, Authorization, Prefer",
        "Cache-Control": "private, no-cache",
    }
    unchanged = not_modified(request.headers, headers)
    if unchanged is not None:
        return unchanged
    made = page(asked.relation, asked.query, related)
    reading.engine.require_patterns(asked.query.where)
    oldest = asked.since or asked.version
    with reading_files(name, oldest.number, is_pinned=not asked.is_newest or asked.since is not None):
        if asked.query.limit is None:
            return streamed(reading.engine, made, asked.media_type, headers, context)
        rows = read_page(reading.engine, made, asked.query.limit, asked.media_type)
        total = _count(reading, asked)
    following = f"{request.url.path}?{_following(asked, rows)}" if rows.has_next else None
    context.facts["rows"] = rows.rows
    if not asked.is_timed:
        newest = {name: identity_of(asked.version)} if asked.is_newest else {}
        context.keep(etag, (newest | {each.table: each.identity for each in related.values()}).items())
    return _answer(asked, rows, following, total, headers)


def _asked(reading: Reading, name: str, request: Request, *, of_changes: bool) -> _Request:
    context = context_of(request.scope)
    caller, grant = context.caller, reading.authorizer.grant(context.caller, name)
    media_type = negotiate(request.headers.get("accept"))
    version = reading.tables.version(name)
    columns = reading.authorizer.columns(grant, caller, version)
    words = (*WORDS, SINCE) if of_changes else WORDS
    parameters = Parameters.of(request.query_params.multi_items(), columns.schema.names, words)
    text = parameters.words.get("cursor")
    cursor = None if text is None else PageCursor.of(text)
    number, time = parameters.version, parameters.time
    if cursor is not None:
        number, time = cursor.version, None
    if number is not None or time is not None:
        version = reading.tables.version(name, number, time)
        columns = reading.authorizer.columns(grant, caller, version)
    since = _since(reading, name, parameters.words.get(SINCE), version) if of_changes else None
    changes = None if since is None else reading.authorizer.changes(grant, caller, since, version)
    schema, key = (columns.schema, columns.key) if changes is None else (changes.schema, changes.key)
    query = parse(
        parameters,
        schema,
        key,
        None if of_changes else lambda table, hint: reading.related.find(grant.definition, table, hint, caller),
        most_rows=None if parameters.words.get("limit") == "all" else MOST_ROWS,
    )
    if query.limit is None:
        require_streamable(media_type)
    if cursor is not None:
        query = cursors.resumed(cursor, query, schema, key, cursors.identity(query))
    return _Request(
        grant=grant,
        context=context,
        parameters=parameters,
        version=version,
        since=since,
        relation=changes or reading.authorizer.relation(grant, caller, version, query.where),
        query=query,
        media_type=media_type,
        counts=_counts(parameters, request.headers),
        is_newest=number is None and time is None,
        is_timed=time is not None or not parameters.words.get(SINCE, "0").isdecimal(),
    )


def _since(reading: Reading, name: str, text: str | None, version: Version) -> Version:
    """Return the version whose rows are compared; raise `HttpError` if it is later than the other one, or not there."""
    if text is None:
        raise HttpError("'since' is missing", do=f"write {SINCE}=VERSION, or a time or a duration ago such as -2h")
    is_number = text.isdecimal()
    number, time = (version_number(SINCE, text), None) if is_number else (None, time_of(SINCE, text))
    try:
        since = reading.tables.version(name, number, time)
    except GoneError as error:
        raise GoneError(
            error.problem, got=error.got, do="read all rows, then the changes since their version"
        ) from error
    if since.number > version.number:
        raise HttpError(f"'since' is later than version {version.number}", got=str(since.number))
    return since


def _related(reading: Reading, asked: _Request) -> dict[str, VisibleRelation]:
    related = {}
    for each in asked.query.embed:
        grant = reading.authorizer.grant(asked.context.caller, each.table)
        version = reading.tables.version(each.table)
        related[each.table] = reading.authorizer.relation(grant, asked.context.caller, version)
    return related


def _etag(request: Request, related: Mapping[str, VisibleRelation], asked: _Request) -> str:
    seen = [(each.table, each.identity, each.fingerprint) for each in (asked.relation, *related.values())]
    return entity_tag(seen, request.scope["path"], request.scope["query_string"], asked.media_type, asked.counts)


def _counts(parameters: Parameters, headers: Mapping[str, str]) -> str:
    if "count" in parameters.words:
        return parameters.choice("count", *_COUNTS)
    preferred = [each.strip() for each in headers.get("prefer", "").split(",")]
    return next((word for word in _COUNTS if f"count={word}" in preferred), "none")


def _count(reading: Reading, asked: _Request) -> int | None:
    if asked.counts == "exact":
        return reading.count(asked.relation, asked.query)
    if asked.counts == "planned" and asked.since is None:
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
        SINCE: "" if asked.since is None else str(asked.since.number),
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
        headers["Content-Range"] = f"{span}/{'*' if total is None else total}"
    name, number = asked.grant.definition.name, asked.version.number
    body = rows.content if rows.media_type != JSON else envelope(name, number, rows, following, total)
    return Response(body, media_type=rows.media_type, headers=headers)
