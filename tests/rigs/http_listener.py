"""An HTTP server of tests, which does not print a trace for a client that closes its connection."""

from __future__ import annotations

import sys
from http.server import ThreadingHTTPServer


class HttpListener(ThreadingHTTPServer):
    """A server on loopback; clients that are killed or cancelled in the middle of an answer are no errors."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)
