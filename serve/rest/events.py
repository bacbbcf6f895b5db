"""The route of a table's versions: each new one as an event, or the next one for a client that waits."""

from __future__ import annotations

import json

from anyio import move_on_after
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pipeline.core.errors import HeadwaterError
from pipeline.lake import Version
from serve.access.gate import context_of
from serve.backend import Backend
from serve.queries.formats import JSON, negotiate
from serve.queries.parameters import integer, version_number
from serve.rest.catalog import words_of
from serve.version_events import OpenSubscriptions, address_of, event_stream, new_versions

EVENTS = "text/event-stream"
MOST_WAIT_S = 60
"""How long a client may wait for a version, in seconds."""
_HEADERS = {"Cache-Control": "no-store", "Vary": "Accept, Authorization"}


def event_routes(backend: Backend) -> list[Route]:
    """Return the route of the versions of tables."""
    counted = OpenSubscriptions()

    async def tell_versions(request: Request) -> Response:
        context, name = context_of(request.scope), request.path_params["name"]
        grant = backend.reading.authorizer.grant(context.caller, name)
        context.facts.update(table=name, why=grant.reason)
        asked = words_of(request, ("since", "wait"))
        media_type = negotiate(request.headers.get("accept"), (JSON, EVENTS))
        last = request.headers.get("last-event-id", "") if media_type == EVENTS else ""
        text = last or asked.get("since")
        known: frozenset[int | None] = frozenset() if text is None else frozenset({version_number("since", text)})
        wait = integer("wait", asked.get("wait", "0"), 0, MOST_WAIT_S)
        if media_type == EVENTS:
            versions = new_versions(backend.tables, name, known)
            events = (None if version is None else _event(name, version) async for version in versions)
            stream = event_stream(backend, counted, request, events, _failed)
            return StreamingResponse(stream, media_type=EVENTS, headers=_HEADERS | {"X-Accel-Buffering": "no"})
        found = None
        with counted.one(context.caller, address_of(request)), move_on_after(wait or MOST_WAIT_S):
            found = await _next(backend, name, known, once=wait == 0)
        if found is None:
            return Response(None, 204, _HEADERS)
        context.facts["version"] = found
        return JSONResponse({"table": name, "version": found}, headers=_HEADERS)

    return [Route("/v1/tables/{name}/events", tell_versions)]


async def _next(backend: Backend, name: str, known: frozenset[int | None], *, once: bool) -> int | None:
    async for version in new_versions(backend.tables, name, known):
        if version is not None:
            return version.number
        if once:
            return None
    return None


def _event(name: str, version: Version) -> bytes:
    data = json.dumps({"table": name, "version": version.number})
    return f"id: {version.number}\nevent: version\ndata: {data}\n\n".encode()


def _failed(error: HeadwaterError) -> bytes:
    return f"event: error\ndata: {json.dumps({'detail': error.problem})}\n\n".encode()
