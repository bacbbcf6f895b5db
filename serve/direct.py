"""A replica that also answers on a port of its own, without Ray Serve's proxy, which costs several times what the app costs.

All replicas of a machine listen on the same port, and the system spreads connections over them. Ray Serve still starts, checks,
replaces and ends the replicas.
"""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import uvicorn

from serve.tls import TlsFiles

if TYPE_CHECKING:
    from starlette.applications import Starlette

_DRAINS_S = 5
_BACKLOG = 2048
_MOST_CONNECTIONS = 1024
"""Further clients get a 503 at once."""


class DirectServer:
    """An app on a port that other processes may listen on too, until `close`."""

    def __init__(self, app: Starlette, host: str, port: int, tls: TlsFiles | None = None) -> None:
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
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_DRAINS_S,
            limit_concurrency=_MOST_CONNECTIONS,
            **({} if tls is None else tls.options()),
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="direct", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Accept no more connections, answer the requests that have begun, and end."""
        self._server.should_exit = True
        self._thread.join(_DRAINS_S + 1)
        self._socket.close()
