"""Subscriptions over WebSockets, by the protocol `graphql-transport-ws`; no other protocol is spoken.

The caller is checked before anything else: by the `Authorization` header of the handshake, or by the entry `Authorization` of the
payload of `connection_init`, which browsers can send. It is checked again while events are sent.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio import CancelScope, to_thread
from anyio.abc import TaskGroup
from starlette.websockets import WebSocket, WebSocketDisconnect

from pipeline.core.errors import HeadwaterError
from serve.access.admission import RequestContext
from serve.access.caller import ANONYMOUS, Caller
from serve.backend import Backend
from serve.graphql.errors import internal, of_problem
from serve.graphql.execution import DocumentError, OperationRunner
from serve.graphql.requests import MOST_BODY_BYTES, message_of, request_of
from serve.graphql.schemas import Schemas
from serve.graphql.subscriptions import TableChanges, subscription_of
from serve.graphql.trusted import TrustedDocuments
from serve.http_errors import HttpError, OverloadError, TooManyError, UnauthenticatedError
from serve.version_events import OpenSubscriptions, address_of, caller_of

_LOG = logging.getLogger("headwater.serve")
PROTOCOL = "graphql-transport-ws"
_INIT_S = 5.0
_MOST_ID = 200
_BAD, _UNAUTHORIZED, _FORBIDDEN, _NO_PROTOCOL, _TIMEOUT, _SAME_ID, _AGAIN = 4400, 4401, 4403, 4406, 4408, 4409, 4429
_TOO_LARGE, _OVERLOADED = 1009, 1013


class _CloseError(Exception):
    """The connection ends, with a code of the protocol."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


@dataclass
class _Connection:
    """A connection after its handshake."""

    socket: WebSocket
    address: str
    authorization: str | None
    caller: Caller = ANONYMOUS
    rights: str = ""
    is_acknowledged: bool = False
    running: dict[str, CancelScope] = field(default_factory=dict)

    async def send(self, message: dict[str, Any]) -> None:
        await self.socket.send_text(json.dumps(message))


class TransportWs:
    """The route of WebSockets."""

    def __init__(
        self,
        backend: Backend,
        schemas: Schemas,
        runner: OperationRunner,
        trusted: TrustedDocuments,
        counted: OpenSubscriptions,
    ) -> None:
        """Use the parts that requests use."""
        self._backend = backend
        self._schemas = schemas
        self._runner = runner
        self._trusted = trusted
        self._open = counted
        self._connections = OpenSubscriptions()

    async def serve(self, socket: WebSocket) -> None:
        """Serve a connection until one side closes it."""
        if PROTOCOL not in socket.scope.get("subprotocols", ()):
            await socket.accept()
            await socket.close(_NO_PROTOCOL, "Subprotocol not acceptable")
            return
        await socket.accept(subprotocol=PROTOCOL)
        address = address_of(socket)
        connection = _Connection(socket, address, socket.headers.get("authorization"))
        try:
            await self._initialize(connection)
            with self._connections.one(connection.caller, address):
                async with anyio.create_task_group() as tasks:
                    try:
                        await self._receive(connection, tasks)
                    finally:
                        tasks.cancel_scope.cancel()
        except* WebSocketDisconnect:
            pass
        except* TooManyError:
            await _closed(socket, _AGAIN, "there are too many connections")
        except* _CloseError as group:
            error = _first(group)
            await _closed(socket, error.code, error.reason)
        except* Exception:  # noqa: BLE001 - the client is told by the code of the protocol
            _LOG.exception("a WebSocket failed")
            await _closed(socket, 1011, "internal error")

    async def _initialize(self, connection: _Connection) -> None:
        with anyio.move_on_after(_INIT_S):
            message = await self._message(connection)
            kind = message.get("type")
            if kind == "subscribe":
                raise _CloseError(_UNAUTHORIZED, "Unauthorized")
            if kind != "connection_init":
                raise _CloseError(_BAD, "the first message must be connection_init")
            await self._authenticate(connection, message.get("payload"))
            await connection.send({"type": "connection_ack"})
            connection.is_acknowledged = True
        if not connection.is_acknowledged:
            raise _CloseError(_TIMEOUT, "Connection initialisation timeout")

    async def _authenticate(self, connection: _Connection, payload: object) -> None:
        entries = payload if isinstance(payload, dict) else {}
        given = [value for name, value in entries.items() if name.lower() == "authorization"]
        if given:
            if len(given) > 1 or not isinstance(given[0], str):
                raise _CloseError(_FORBIDDEN, "Forbidden")
            connection.authorization = given[0]
        connection.caller = await self._caller(connection)
        connection.rights = self._backend.admission.rights(connection.caller)
        await self._take(connection)

    async def _caller(self, connection: _Connection) -> Caller:
        """Return the caller as it is known now; close the connection if its key or token is not valid."""
        try:
            return await caller_of(self._backend.admission, connection.authorization, connection.address)
        except (UnauthenticatedError, TooManyError) as error:
            raise _CloseError(_FORBIDDEN, "Forbidden") from error
        except OverloadError as error:
            raise _CloseError(_OVERLOADED, error.problem) from error

    async def _receive(self, connection: _Connection, tasks: TaskGroup) -> None:
        while True:
            message = await self._message(connection)
            kind = message.get("type")
            if kind == "connection_init":
                raise _CloseError(_AGAIN, "Too many initialisation requests")
            if kind == "ping":
                await self._take(connection)
                await connection.send({"type": "pong"})
            elif kind == "subscribe":
                await self._take(connection)
                identifier = _id_of(message)
                if identifier in connection.running:
                    raise _CloseError(_SAME_ID, f"Subscriber for {identifier} already exists")
                connection.running[identifier] = CancelScope()
                tasks.start_soon(self._run, connection, identifier, message.get("payload"))
            elif kind == "complete":
                scope = connection.running.pop(_id_of(message), None)
                if scope is not None:
                    scope.cancel()
            elif kind != "pong":
                raise _CloseError(_BAD, "Invalid message")

    async def _message(self, connection: _Connection) -> dict[str, Any]:
        try:
            text = await connection.socket.receive_text()
        except KeyError as error:  # a binary message
            raise _CloseError(_BAD, "Invalid message") from error
        if len(text) > MOST_BODY_BYTES:
            raise _CloseError(_TOO_LARGE, "the message is too large")
        try:
            message = message_of(text)
        except HttpError as error:
            raise _CloseError(_BAD, "Invalid message") from error
        if not isinstance(message, dict):
            raise _CloseError(_BAD, "Invalid message")
        return message

    async def _take(self, connection: _Connection) -> None:
        admission = self._backend.admission
        charges = admission.charges(connection.caller, connection.address, "graphql")
        if not (await admission.admit(charges)).is_granted:
            raise _CloseError(_AGAIN, "there are too many messages")

    async def _run(self, connection: _Connection, identifier: str, payload: object) -> None:
        """Send the events of a subscription until it, the connection or the caller's rights end."""
        scope = connection.running[identifier]
        try:
            with scope, self._open.one(connection.caller, connection.address):
                subscription = await to_thread.run_sync(self._subscription, connection, payload)
                async for event in subscription.events():
                    await self._caller(connection)
                    if event is not None:
                        await connection.socket.send_text(
                            f'{{"id":{json.dumps(identifier)},"type":"next","payload":{event}}}'
                        )
        except DocumentError as error:
            await self._fail(connection, identifier, scope, error.errors)
        except HeadwaterError as error:
            await self._fail(connection, identifier, scope, [of_problem(error, self._backend.project.settings.lake)])
        except (WebSocketDisconnect, _CloseError):
            raise
        except Exception:  # noqa: BLE001 - other subscriptions go on
            _LOG.exception("a subscription failed")
            await self._fail(connection, identifier, scope, [internal()])

    async def _fail(
        self, connection: _Connection, identifier: str, scope: CancelScope, errors: list[dict[str, Any]]
    ) -> None:
        if connection.running.get(identifier) is scope:  # otherwise the client has ended it
            del connection.running[identifier]
            await connection.send({"id": identifier, "type": "error", "payload": errors})

    def _subscription(self, connection: _Connection, payload: object) -> TableChanges:
        context = RequestContext(uuid.uuid4().hex, connection.caller, connection.rights, time.perf_counter())
        status = 400
        try:
            request = self._trusted.resolved(request_of(payload))
            api = self._schemas.of(connection.caller, connection.rights)
            operation = self._runner.checked(api, request, connection.caller)
            context.facts["document"] = operation.digest
            subscription = subscription_of(self._backend, operation, connection.caller)
            context.facts.update(table=subscription.table, why=subscription.reason)
            status = 101
            return subscription
        finally:
            path = connection.socket.scope["path"]
            self._backend.admission.record(context, "SUBSCRIBE", path, {"status": status, "bytes": 0})


def _id_of(message: dict[str, Any]) -> str:
    identifier = message.get("id")
    if not isinstance(identifier, str) or not 0 < len(identifier) <= _MOST_ID:
        raise _CloseError(_BAD, "Invalid message")
    return identifier


def _first(group: BaseExceptionGroup[_CloseError]) -> _CloseError:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, _CloseError)  # noqa: S101 - the group has no others
    return found


async def _closed(socket: WebSocket, code: int, reason: str) -> None:
    try:
        await socket.close(code, reason[:120])
    except RuntimeError:
        return  # the client has closed it
