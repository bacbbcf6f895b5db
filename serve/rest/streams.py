"""Responses with all rows of a statement, which are sent while they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain

from starlette.concurrency import iterate_in_threadpool
from starlette.responses import StreamingResponse

from serve.access.admission import RequestContext
from serve.http_errors import HttpError
from serve.queries.engine import Engine
from serve.queries.formats import JSON, NDJSON, stream
from serve.queries.select import PageStatement


def require_streamable(media_type: str) -> None:
    """Raise `HttpError` for JSON, in which rows cannot be sent while they are read."""
    if media_type == JSON:
        raise HttpError("'limit' takes all only for a stream", do=f"accept {NDJSON}, CSV, Arrow or Parquet")


def streamed(
    engine: Engine, made: PageStatement, media_type: str, headers: Mapping[str, str], context: RequestContext
) -> StreamingResponse:
    """Return the response with all rows, and count those that were sent.

    Raises as `Engine.batches` for an error before the first row, so that it is a response of its own.
    """

    def chunks() -> Iterator[bytes]:
        rows = 0
        for content, number in stream(engine, made, media_type):
            rows += number
            context.facts["rows"] = rows
            yield content

    context.facts["rows"] = 0
    begun = chunks()
    first = next(begun, b"")
    return StreamingResponse(iterate_in_threadpool(chain((first,), begun)), media_type=media_type, headers=headers)
