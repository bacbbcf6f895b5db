"""The route of GraphQL over HTTP: queries by GET and POST, and subscriptions as server-sent events."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute

from pipeline.core.errors import HeadwaterError
from serve.access.admission import RequestContext
from serve.access.gate import context_of
from serve.backend import Backend
from serve.conditional_requests import entity_tag, not_modified
from serve.graphql.errors import internal, of_problem
from serve.graphql.execution import DocumentError, GraphqlOperation, OperationRunner, PlannedOperation
from serve.graphql.requests import (
    EVENTS,
    PLAIN_JSON,
    RESPONSE_JSON,
    MethodError,
    media_type_of,
    parsed,
    read_body_of,
)
from serve.graphql.schemas import Schemas
from serve.graphql.subscriptions import TableChanges, subscription_of
from serve.graphql.transport_ws import TransportWs
from serve.graphql.trusted import TrustedDocuments
from serve.http_errors import ForbiddenError, HttpError
from serve.problems import status_of
from serve.version_events import OpenSubscriptions, event_stream

_LOG = logging.getLogger("headwater.serve")
PATH = "/v1/graphql"
_SERVER_ERROR = 500


@dataclass(frozen=True)
class GraphqlEndpoint:
    """The parts that requests use."""

    backend: Backend
    schemas: Schemas
    runner: OperationRunner
    trusted: TrustedDocuments
    open: OpenSubscriptions

    async def answer(self, request: Request) -> Response:
        """Return the response to a request; errors have the form of GraphQL."""
        media_type = PLAIN_JSON
        try:
            media_type = media_type_of(request)
            body = await read_body_of(request)
            caller = context_of(request.scope).caller
            response = await self.backend.reading.run(caller, self._answer, request, body, media_type)
        except DocumentError as error:
            # a client that accepts only JSON takes another status for a failure of the server
            return _errors(error.errors, 200 if media_type == PLAIN_JSON else 400, media_type)
        except HeadwaterError as error:
            if not isinstance(error, HttpError):
                _LOG.warning("%s: %s", request.url.path, error)
            shown = [of_problem(error, self.backend.project.settings.lake)]
            headers = {"Allow": "POST"} if isinstance(error, MethodError) else {}
            return _errors(shown, status_of(error), media_type, headers)
        except Exception:  # noqa: BLE001 - the response has the form of GraphQL whatever fails
            _LOG.exception("%s failed", request.url.path)
            return _errors([internal()], _SERVER_ERROR, media_type)
        if isinstance(response, TableChanges):
            return self._events(request, response)
        return response

    async def schema(self, request: Request) -> Response:
        """Return the caller's schema as text; raise `ForbiddenError` if it may not be read."""
        context = context_of(request.scope)
        if not self.runner.may_introspect(context.caller):
            raise ForbiddenError("the schema may not be read by this caller", do="ask for it in another environment")
        api = await to_thread.run_sync(self.schemas.of, context.caller, context.rights)
        headers = {"ETag": entity_tag(api.digest), "Vary": "Authorization", "Cache-Control": "private, no-cache"}
        return not_modified(request.headers, headers) or PlainTextResponse(api.sdl, headers=headers)

    def _answer(self, request: Request, body: bytes, media_type: str) -> Response | TableChanges:
        context = context_of(request.scope)
        asked = self.trusted.resolved(parsed(request, body))
        api = self.schemas.of(context.caller, context.rights)
        operation = self.runner.checked(api, asked, context.caller)
        context.facts["document"] = operation.digest
        if operation.is_subscription:
            if media_type != EVENTS:
                raise HttpError("subscriptions are sent as events", do=f"accept {EVENTS}, or use a WebSocket")
            subscription = subscription_of(self.backend, operation, context.caller)
            context.facts.update(table=subscription.table, why=subscription.reason)
            return subscription
        planned = self.runner.plan(operation, context.caller)
        _note(context, planned)
        context.further_cost = max(0, len(planned.plans) - 1)  # each is a statement
        headers = {"Vary": "Accept, Authorization", "Cache-Control": "no-store"}
        is_cacheable = (
            request.method in {"GET", "HEAD"} and not planned.models and not planned.errors and media_type != EVENTS
        )
        if is_cacheable:
            headers |= {"ETag": _etag(operation, planned, media_type), "Cache-Control": "private, no-cache"}
            unchanged = not_modified(request.headers, headers)
            if unchanged is not None:
                return unchanged
        content, rows = self.runner.run(operation, planned)
        context.facts["rows"] = rows
        if is_cacheable and not planned.errors:
            if planned.snapshot.seen and not planned.snapshot.is_timed:
                context.keep(headers["ETag"], planned.snapshot.newest.items())
        elif is_cacheable:
            headers["Cache-Control"] = "no-store"
            del headers["ETag"]
        if media_type == EVENTS:
            return Response(_event(content) + _COMPLETE, headers=headers, media_type=EVENTS)
        return Response(content, headers=headers, media_type=f"{media_type}; charset=utf-8")

    def _events(self, request: Request, subscription: TableChanges) -> Response:
        def failed(error: HeadwaterError) -> bytes:
            return _event(json.dumps({"errors": [of_problem(error)]}).encode()) + _COMPLETE

        events = (None if event is None else _event(event.encode()) async for event in subscription.events())
        stream = event_stream(self.backend, self.open, request, events, failed)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream, headers=headers, media_type=EVENTS)


_COMPLETE = b"event: complete\ndata:\n\n"


def graphql_routes(backend: Backend, patience: timedelta) -> list[BaseRoute]:
    """Return the routes of GraphQL: `/v1/graphql` for requests and WebSockets, and the schema of the caller as text."""
    settings = backend.project.settings
    folder = settings.serve.graphql_trusted
    endpoint = GraphqlEndpoint(
        backend,
        Schemas(backend),
        OperationRunner(backend, patience, settings.serve.graphql_introspection),
        TrustedDocuments(settings.root / folder if folder else None),
        OpenSubscriptions(),
    )
    sockets = TransportWs(backend, endpoint.schemas, endpoint.runner, endpoint.trusted, endpoint.open)
    return [
        Route(PATH, endpoint.answer, methods=["GET", "POST"]),
        Route(f"{PATH}/schema", endpoint.schema),
        WebSocketRoute(PATH, sockets.serve),
    ]


def _note(context: RequestContext, planned: PlannedOperation) -> None:
    """Note what is read for the audit log."""
    snapshot, facts = planned.snapshot, context.facts
    reasons = [*snapshot.reasons.values(), *(["scope predict"] if planned.models else [])]
    if reasons:
        facts["why"] = "; ".join(dict.fromkeys(reasons))
    if planned.models:
        facts["model"] = ",".join(planned.models)
    tables = list(snapshot.reasons)
    if tables:
        facts["table"] = ",".join(tables)
    if len(tables) == 1:
        facts["version"] = snapshot.numbers.get(tables[0])
    elif tables:
        facts["versions"] = snapshot.numbers


def _etag(operation: GraphqlOperation, planned: PlannedOperation, media_type: str) -> str:
    name = operation.definition.name.value if operation.definition.name else ""
    variables = json.dumps(operation.raw_variables, sort_keys=True)
    return entity_tag(operation.api.digest, operation.digest, name, variables, media_type, planned.snapshot.seen)


def _event(content: bytes) -> bytes:
    return b"event: next\ndata: " + content + b"\n\n"


def _errors(
    errors: list[dict[str, Any]], status: int, media_type: str, headers: Mapping[str, str] | None = None
) -> Response:
    shown = media_type if media_type in {PLAIN_JSON, RESPONSE_JSON} else PLAIN_JSON
    body = json.dumps({"errors": errors}).encode()
    return Response(body, status, {"Cache-Control": "no-store", **(headers or {})}, f"{shown}; charset=utf-8")
