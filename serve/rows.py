"""A page of a table's rows: the request's query, read from one version, with the link to the next page."""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from pipeline.core.errors import StorageError
from serve.engine import Engine
from serve.formats import JSON, Page, envelope, negotiate, read_page
from serve.query import Filter, Parameters, Query, bad_value, parse
from serve.refusals import TooLongError
from serve.select import misfits, page
from serve.tables import Tables, gone

MOST_QUERY_BYTES = 16 << 10


def read_rows(tables: Tables, engine: Engine, name: str, request: Request) -> Response:
    """Return a page of a table's rows in the media type that is accepted.

    The header `Table-Version` tells the version, `Link` the next page if there is one: it names the version and
    an order, so that following it to the end gives each row of that version once. Raises `Refusal`, or
    `StorageError` when the lake cannot be read.
    """
    if len(request.scope["query_string"]) > MOST_QUERY_BYTES:
        raise TooLongError(f"the query is longer than {MOST_QUERY_BYTES} bytes", do="ask in several requests")
    definition = tables.definition(name)
    media_type = negotiate(request.headers.get("accept"))
    parameters = Parameters.of(request.query_params.multi_items(), tables.version(name).schema.names)
    version = tables.version(name, parameters.version)
    query = parse(parameters, version.schema, definition.key)
    _require_values(engine, query.filters)
    schema = version.schema.select(query.select)
    try:
        rows = read_page(engine, page(version.scan(), query), schema, query.limit, media_type)
    except StorageError as error:
        if parameters.version is None:
            raise
        raise gone(name, parameters.version) from error
    following = f"{request.url.path}?{_following(parameters, query, version.number)}" if rows.has_next else None
    return _answer(name, version.number, rows, following)


def _require_values(engine: Engine, filters: tuple[Filter, ...]) -> None:
    """Raise `Refusal` naming the first value that has its type's form and is yet out of its range."""
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
    }
    pairs = [*parameters.conditions, *((name, value) for name, value in words.items() if value)]
    return urlencode(pairs, safe=",.():*")


def _answer(name: str, version: int, rows: Page, following: str | None) -> Response:
    headers = {"Table-Version": str(version), "Vary": "Accept"}
    if following is not None:
        headers["Link"] = f'<{following}>; rel="next"'
    body = envelope(name, version, rows, following) if rows.media_type == JSON else rows.rows
    return Response(body, media_type=rows.media_type, headers=headers)
