"""Reads a page of a table's rows from one version, with a link to the next page."""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from pipeline.core.errors import StorageError
from serve.engine import Engine
from serve.formats import JSON, Page, envelope, negotiate, read_page
from serve.http_errors import TooLongError
from serve.query import Filter, Parameters, Query, bad_value, parse
from serve.select import misfits, page
from serve.tables import Tables, gone

MOST_QUERY_BYTES = 16 << 10


def read_rows(tables: Tables, engine: Engine, name: str, request: Request) -> Response:
    """Return a page of a table's rows in the accepted media type.

    The header `Table-Version` is the version, and `Link` the next page if there is one. The link contains the version
    and a total order, so following the links to the end returns each row of that version once. Raises `HttpError`, or
    `StorageError` if the lake cannot be read.
    """
    if len(request.scope["query_string"]) > MOST_QUERY_BYTES:
        raise TooLongError(f"the query is longer than {MOST_QUERY_BYTES} bytes", do="split it into several requests")
    definition = tables.definition(name)
    media_type = negotiate(request.headers.get("accept"))
    parameters = Parameters.of(request.query_params.multi_items(), tables.version(name).schema.names)
    time = parameters.time
    version = tables.version(name, parameters.version) if time is None else tables.version_at(name, time)
    query = parse(parameters, version.schema, definition.key)
    _require_values(engine, query.filters)
    schema = version.schema.select(query.select)
    try:
        rows = read_page(
            engine, page(tables.scan(name, version, query.filters), query), schema, query.limit, media_type
        )
    except StorageError as error:
        if parameters.version is None and time is None:
            raise
        raise gone(name, version.number) from error
    following = f"{request.url.path}?{_following(parameters, query, version.number)}" if rows.has_next else None
    return _answer(name, version.number, rows, following)


def _require_values(engine: Engine, filters: tuple[Filter, ...]) -> None:
    """Raise `HttpError` for the first value that is well-formed but out of the range of its type."""
    values = [(f.column, value) for f in filters for value in f.values]
    if not values:
        return
    bad = engine.rows(misfits(filters)).column(0)[0].as_py()
    for (column, value), is_bad in zip(values, bad, strict=True):
        if is_bad:
            raise bad_value(column, value)


def _following(parameters: Parameters, query: Query, version: int) -> str:
    words = {
        **parameters.words,
        "order": ",".join(str(term) for term in query.order),
        "limit": str(query.limit),
        "offset": str(query.offset + query.limit),
        "version": str(version),
        "at": "",
    }
    pairs = [*parameters.conditions, *((name, value) for name, value in words.items() if value)]
    return urlencode(pairs, safe=",.():*")


def _answer(name: str, version: int, rows: Page, following: str | None) -> Response:
    headers = {"Table-Version": str(version), "Vary": "Accept"}
    if following is not None:
        headers["Link"] = f'<{following}>; rel="next"'
    body = envelope(name, version, rows, following) if rows.media_type == JSON else rows.rows
    return Response(body, media_type=rows.media_type, headers=headers)
