"""The route of sources that callers with a key write to: rows are checked, and on disk when the response is sent."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping
from typing import NoReturn

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.connectors.json_text import one_line
from pipeline.connectors.webhook.source import Webhook
from pipeline.connectors.webhook.submissions import Submissions
from pipeline.core.definitions import Feed, Source
from pipeline.core.errors import HeadwaterError, SchemaError, did_you_mean
from pipeline.project.project import Project
from serve.access.authorization import require_scope
from serve.access.gate import context_of
from serve.http_errors import HttpError, OverloadError, RowsError, TooLargeError, UnknownError
from serve.queries.values import shown
from serve.request_body import read_body

_LOG = logging.getLogger("headwater.serve")
MOST_SENT = 10_000
"""The most rows of a request."""
_MOST_SHOWN = 10
_KEY = re.compile(r'"([\x20\x21\x23-\x5b\x5d-\x7e]{1,255})"|([A-Za-z0-9:._/+-]{1,255})')
"""An item of a structured field that is a text, or the same without quotation marks, as many clients send it."""
_BLANKS = " \t\n\r"
_EXAMPLE = 'send {"column": 1}, or a list of such objects'


def source_routes(project: Project) -> list[Route]:
    """Return the route of the sources whose callers have keys."""
    sources = sources_of(project)
    stores = {
        name: Submissions(each.reader, time.time) for name, each in sources.items() if isinstance(each.reader, Webhook)
    }

    async def receive(request: Request) -> Response:
        context, name = context_of(request.scope), request.path_params["name"]
        require_scope(context.caller, "write", name)
        if name not in sources:
            writable = [each for each in sources if context.caller.may("write", each)]
            raise UnknownError(f"there is no source {shown(name)} to write to", do=did_you_mean(name[:200], writable))
        source = sources[name]
        assert isinstance(source.reader, Webhook)  # noqa: S101 - they were selected so
        context.facts.update(table=name, why="scope write")
        key = _key(request)
        body = await read_body(
            request, source.reader.most_bytes, do="send fewer rows, or raise most_bytes= of the source"
        )
        rows = await run_in_threadpool(_checked, source, source.reader, body)
        caller = f"{context.caller.kind} {context.caller.id}"
        try:
            is_stored = await run_in_threadpool(stores[name].store, rows, caller, key)
        except HeadwaterError as error:
            _LOG.warning("source %s: %s", name, error)
            raise OverloadError("the rows could not be stored", do="send them again later") from error
        if not is_stored:
            raise RowsError("this Idempotency-Key was sent with other rows", do="use a new key for other rows")
        context.facts["rows"] = len(rows)
        return JSONResponse({"result": "accepted", "rows": len(rows)}, 202)

    return [Route("/v1/sources/{name}", receive, methods=["POST"])]


def sources_of(project: Project) -> Mapping[str, Source | Feed]:
    """Return the sources that callers with a key write to, by their names."""
    every: tuple[Source | Feed, ...] = (*project.graph.all_of(Source), *project.graph.all_of(Feed))
    return {each.name: each for each in every if isinstance(each.reader, Webhook) and each.reader.keyed}


def _key(request: Request) -> str:
    given = request.headers.getlist("idempotency-key")
    if not given:
        return ""
    found = _KEY.fullmatch(given[0].strip()) if len(given) == 1 else None
    if found is None:
        raise HttpError(
            "the header Idempotency-Key cannot be read", got=shown(", ".join(given)), do='send one text: "8e03978e"'
        )
    return found[1] or found[2]


def _checked(source: Source | Feed, reader: Webhook, body: bytes) -> list[bytes]:
    """Return the rows of a body as lines; raise `HttpError` for one that is not JSON, `RowsError` for rows that do not fit."""
    texts = _objects(body)
    if source.schema is not None:
        try:
            rejected = reader.parse(texts, source.schema).rejected
        except SchemaError as error:
            raise RowsError(error.problem, got=error.got, do="send the columns of the source's schema") from error
        if rejected.num_rows:
            pairs = zip(rejected.column("_position").to_pylist(), rejected.column("reason").to_pylist(), strict=True)
            listed = [f"row {position - 1}: {reason}" for position, reason in pairs]
            more = f"; and {len(listed) - _MOST_SHOWN} more" if len(listed) > _MOST_SHOWN else ""
            raise RowsError("rows do not fit the source", got="; ".join(listed[:_MOST_SHOWN])[:2000] + more)
    return [one_line(text.encode()) for text in texts]


def _objects(body: bytes) -> list[str]:
    """Return the texts of the objects of a body, whose numbers stay as they were sent."""
    try:
        text = body.decode().strip(_BLANKS)
        found = _listed(text) if text.startswith("[") else [text]
        if len(found) > MOST_SENT:
            raise TooLargeError(f"a request may have at most {MOST_SENT} rows", do="send several requests")
        wrong = next((each for each in found if not isinstance(_DECODER.decode(each), dict)), None)
    except (ValueError, RecursionError) as error:
        raise HttpError("the body is not JSON", do=_EXAMPLE) from error
    if wrong is not None:
        raise HttpError("each row must be a JSON object", got=shown(wrong[:50]), do=_EXAMPLE)
    if not found:
        raise HttpError("the body has no rows", do=_EXAMPLE)
    return found


def _listed(text: str) -> list[str]:
    """Return the texts of the values of a list; raise `ValueError` if it is not valid."""
    found: list[str] = []
    at = _after_blanks(text, 1)
    while text[at : at + 1] != "]" or found:
        _, end = _DECODER.raw_decode(text, at)
        found.append(text[at:end])
        at = _after_blanks(text, end)
        if text[at : at + 1] != ",":
            break
        at = _after_blanks(text, at + 1)
    if text[at:] != "]":
        raise ValueError(text[at : at + 1])
    return found


def _after_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANKS:
        at += 1
    return at


def _refused(constant: str) -> NoReturn:
    raise ValueError(constant)


_DECODER = json.JSONDecoder(parse_constant=_refused)
