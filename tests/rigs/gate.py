"""A gate in front of a server on loopback. While closed, it refuses connections; closing it drops existing ones."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Gate:
    """Forwards bytes in both directions between its port and the server's while it is open."""

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._sockets: set[socket.socket] = set()
        self.port = 0
        self.open()

    def open(self) -> None:
        """Accept connections, on the same port as before."""
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def close(self) -> None:
        """Refuse connections, and drop existing ones."""
        with self._lock:
            listener, self._listener = self._listener, None
            ended, self._sockets = self._sockets, set()
        for each in (*ended, *([] if listener is None else [listener])):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:  # closed
                return
            far = socket.create_connection(("127.0.0.1", self._upstream_port))
            with self._lock:
                self._sockets |= {near, far}
                is_closed = self._listener is not listener
            if is_closed:
                self.close()
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(1 << 16):
                target.sendall(content)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
            with self._lock:
                self._sockets.discard(each)


@contextmanager
def gated(upstream_port: int) -> Iterator[Gate]:
    """Open a gate in front of a local port, and close it at the end."""
    gate = Gate(upstream_port)
    try:
        yield gate
    finally:
        gate.close()
