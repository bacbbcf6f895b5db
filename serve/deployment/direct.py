"""A replica that also answers on a port of its own, without Ray Serve's proxy, which costs several times what the app costs.

All replicas of a machine listen on the same port, and the system spreads connections over them. Ray Serve still starts, checks,
replaces and ends the replicas.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.connection import ClientConnection
from serve.tls import TlsFiles

_DRAINS_S = 30
"""How long requests that have begun may take: as long as any may."""
_LINGERS_S = 1.0
"""How long connections stay open on which nothing is under way: their next request is answered, and ends them."""
_LOOKS_S = 0.05
_BACKLOG = 2048
_MOST_CONNECTIONS = 1024
"""Further clients get a 503 at once."""


class DirectServer:
    """An app on a port that other processes may listen on too, until `close`."""

    def __init__(self, app: ASGIApp, host: str, port: int, tls: TlsFiles | None = None) -> None:
        """Listen, with TLS if there are files for it; raise `OSError` if that is not possible.

        `app` is started and ended by others.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._socket.bind((host, port))
            self._socket.listen(_BACKLOG)
        except OSError:
            self._socket.close()
            raise
        self._requests = _Requests(app)
        config = uvicorn.Config(
            self._requests,
            lifespan="off",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_DRAINS_S,
            limit_concurrency=_MOST_CONNECTIONS,
            **({"http": ClientConnection} if tls is None else tls.options()),
        )
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="direct", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it answers."""
        return self._thread.is_alive()

    def mean_requests(self) -> float:
        """Return how many requests were under way on average since the last call."""
        return self._requests.mean()

    def close(self) -> None:
        """Accept no more connections, answer the requests that have begun, and end."""
        self._server.should_exit = True
        self._thread.join(_LINGERS_S + _DRAINS_S + 1)
        self._socket.close()


class _Requests:
    """An app, and how many of its requests are under way, over time. `mean` may be called by another thread."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._count, self._seconds = 0, 0.0
        self._at = self._since = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._add(1)
        try:
            await self._app(scope, receive, send)
        finally:
            self._add(-1)

    def mean(self) -> float:
        with self._lock:
            now = time.monotonic()
            seconds = self._seconds + self._count * (now - self._at)
            lasted = now - self._since
            self._seconds, self._at, self._since = 0.0, now, now
            return seconds / lasted if lasted > 0 else float(self._count)

    def _add(self, number: int) -> None:
        with self._lock:
            now = time.monotonic()
            self._seconds += self._count * (now - self._at)
            self._at = now
            self._count += number


class _Server(uvicorn.Server):
    """Ends without a reset connection where that is possible: a client may send a request while a connection is closed."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._end_connections()
        for _ in range(2):  # the system has accepted connections that this loop has not seen yet
            await asyncio.sleep(0)
        for each in (*self.servers, *(sockets or ())):
            each.close()
        for _ in range(round(_LINGERS_S / _LOOKS_S)):
            if any(each.cycle is None or each.cycle.response_complete for each in self._connections()):
                await asyncio.sleep(_LOOKS_S)
        await super().shutdown(sockets)

    def _end_connections(self) -> None:
        """Let each response from now on say that it is the last one of its connection."""
        headers = [*self.server_state.default_headers, (b"connection", b"close")]
        self.server_state.default_headers = headers
        for each in self._connections():
            if each.cycle is not None:
                each.cycle.default_headers = headers

    def _connections(self) -> list[ClientConnection]:
        """Return all connections but those of WebSockets."""
        return [each for each in self.server_state.connections if isinstance(each, ClientConnection)]
