"""Serves metrics for Prometheus over HTTP on loopback."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pipeline.core.errors import RequestError


@contextmanager
def metrics_at(
    port: int | None, text: Callable[[], str], is_ready: Callable[[], bool] = lambda: True
) -> Iterator[int | None]:
    """Serve a text at `http://127.0.0.1:PORT/metrics` inside the context, and yield the port; 0 selects a free one.

    `/ready` returns 200, or 503 while not ready. Without a port nothing is served. Raises `RequestError` if the port is
    in use.
    """
    if port is None:
        yield None
        return

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = self._answer(self.path.partition("?")[0])
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _answer(self, path: str) -> tuple[int, bytes]:
            if path == "/metrics":
                return 200, text().encode()
            if path == "/ready":
                return (200, b"ready\n") if is_ready() else (503, b"waiting\n")
            return 404, b"see /metrics and /ready\n"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
            """Do not log requests."""

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise RequestError(
            f"cannot serve metrics on port {port}", got=str(error), do="choose another --metrics-port"
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="headwater-metrics", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
