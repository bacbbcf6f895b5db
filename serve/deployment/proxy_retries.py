"""Runs in Ray Serve's proxy: a request whose replica ended before the response began is sent to another one.

Without it, the proxy answers 500 although the request was never answered. `deploy` names this module when it starts Serve.
"""

from __future__ import annotations

import json
import logging

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOG = logging.getLogger("ray.serve")
_SAFE = ("GET", "HEAD")
_MOST_ATTEMPTS = 4
_BAD_GATEWAY = 502
_PROBLEM = {
    "type": "about:blank",
    "title": "Bad Gateway",
    "status": _BAD_GATEWAY,
    "detail": "the replica ended before it answered",
    "do": "send the request again if it changes nothing, or has an Idempotency-Key",
}


def middlewares() -> list[Middleware]:
    """Return what Serve wraps its proxy in."""
    return [Middleware(ProxyRetries)]


class ProxyRetries:
    """Sends requests that only read again, and answers others with 502: what became of them is not known."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap the proxy's application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, until a response has begun or the client has left."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = has_left = False

        async def begin(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        async def listen() -> Message:
            nonlocal has_left
            message = await receive()
            has_left = has_left or message["type"] == "http.disconnect"
            return message

        attempts = _MOST_ATTEMPTS if scope["method"] in _SAFE and not _has_body(scope) else 1
        for attempt in range(attempts):
            await self._app(dict(scope), listen if attempt == 0 else _Again(listen), begin)
            if has_begun or has_left:
                return  # the server closes the connection if the response is not complete
        await _answer(send)


class _Again:
    """What the client sent, once more: a request without a body."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_read = False

    async def __call__(self) -> Message:
        if self._is_read:
            return await self._receive()
        self._is_read = True
        return {"type": "http.request", "body": b"", "more_body": False}


def _has_body(scope: Scope) -> bool:
    """Return whether a body was sent, which can be read once."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


async def _answer(send: Send) -> None:
    body = json.dumps(_PROBLEM).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", b"1"),
    ]
    await send({"type": "http.response.start", "status": _BAD_GATEWAY, "headers": headers})
    await send({"type": "http.response.body", "body": body})
