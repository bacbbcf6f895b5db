"""The route of a table's versions: each new one as an event, or the next one for a client that waits."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from anyio import move_on_after
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from pipeline.core.errors import HeadwaterError
from serve.access.gate import context_of
from serve.backend import Backend
from serve.queries.formats import JSON, negotiate
from serve.queries.parameters import integer, version_number
from serve.rest.catalog import words_of
from serve.version_events import EVERY_S, OpenSubscriptions, caller_of, new_versions, require_session

EVENTS = "text/event-stream"
MOST_WAIT_S = 60
"""How long a client may wait for a version, in seconds."""
_BEAT_S = 15.0
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
            return StreamingResponse(
                events(request, name, known), media_type=EVENTS, headers=_HEADERS | {"X-Accel-Buffering": "no"}
            )
        found = None
        with counted.one(context.caller, _address(request)), move_on_after(wait or MOST_WAIT_S):
            found = await _next(backend, name, known, once=wait == 0)
        if found is None:
            return Response(None, 204, _HEADERS)
        context.facts["version"] = found
        return JSONResponse({"table": name, "version": found}, headers=_HEADERS)

    async def events(request: Request, name: str, known: frozenset[int | None]) -> AsyncIterator[bytes]:
        context, authorization = context_of(request.scope), request.headers.get("authorization")
        try:
            with counted.one(context.caller, _address(request)):
                quiet = _BEAT_S
                async for version in new_versions(backend.tables, name, known):
                    if authorization is not None:
                        await caller_of(backend.admission, authorization, _address(request))
                    await require_session(backend.sessions, context.session)
                    quiet += EVERY_S
                    if version is not None:
                        data = json.dumps({"table": name, "version": version.number})
                        yield f"id: {version.number}\nevent: version\ndata: {data}\n\n".encode()
                    elif quiet > _BEAT_S:  # proxies close connections on which nothing is sent
                        yield b":\n\n"
                        quiet = 0.0
        except HeadwaterError as error:
            yield f"event: error\ndata: {json.dumps({'detail': error.problem})}\n\n".encode()

    return [Route("/v1/tables/{name}/events", tell_versions)]


async def _next(backend: Backend, name: str, known: frozenset[int | None], *, once: bool) -> int | None:
    async for version in new_versions(backend.tables, name, known):
        if version is not None:
            return version.number
        if once:
            return None
    return None


def _address(request: Request) -> str:
    return str((request.scope.get("client") or ("",))[0])
