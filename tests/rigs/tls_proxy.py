"""Proxies in front of a server on loopback: with TLS and a certificate, or with other bytes than those that the server sent."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

Copy = Callable[[socket.socket, socket.socket], None]
"""Passes on what comes from one socket to the other."""


def tls_proxy(port: int, certificate: Path) -> AbstractContextManager[int]:
    """Yield the port of a proxy with this certificate, to a server without TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return proxy(port, lambda plain: context.wrap_socket(plain, server_side=True))


@contextmanager
def proxy(
    port: int,
    accepted: Callable[[socket.socket], socket.socket] = lambda plain: plain,
    requests: Copy | None = None,
    answers: Copy | None = None,
) -> Iterator[int]:
    """Yield the port of a proxy, which passes on bytes as they are unless `requests` or `answers` change them."""
    sockets: list[socket.socket] = []
    copies = (requests or _copy, answers or _copy)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener, accepted, port, sockets, copies), daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for each in sockets:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()


def _serve(
    listener: socket.socket,
    accepted: Callable[[socket.socket], socket.socket],
    port: int,
    sockets: list[socket.socket],
    copies: tuple[Copy, Copy],
) -> None:
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        try:
            client = accepted(plain)
        except OSError:  # the client does not trust the certificate
            plain.close()
            continue
        server = socket.create_connection(("127.0.0.1", port))
        sockets += [client, server]
        for copy, one, other in ((copies[0], client, server), (copies[1], server, client)):
            threading.Thread(target=copy, args=(one, other), daemon=True).start()


def _copy(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(1 << 16):
            other.sendall(data)
    with suppress(OSError):
        other.shutdown(socket.SHUT_RDWR)
