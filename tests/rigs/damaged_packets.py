"""A proxy in front of MySQL or MariaDB that changes what the server sends of its binary log."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress

from tests.rigs.tls_proxy import proxy

Damage = Callable[[int, bytes], bytes]
"""Returns what a client gets instead of an event: its number, and its bytes."""
EVENT_HEAD = 20
"""One byte that says that a packet is no error, and the header of the event."""
_LENGTH, _DUMP = 3, 0x12
_BEFORE_FLAGS, _TLS = 13, 0x08
"""The bytes between the version of the server and its flags, and the flag of TLS in their second byte."""


def damaged_packets(port: int, damage: Damage) -> AbstractContextManager[int]:
    """Yield the port of a proxy; the events that a connection gets are numbered from 0."""
    dumping: set[socket.socket] = set()

    def requests(client: socket.socket, server: socket.socket) -> None:
        for number, packet in _packets(client):
            if packet[:1] == bytes([_DUMP]):
                dumping.add(client)
            _send(server, number, packet)
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def answers(server: socket.socket, client: socket.socket) -> None:
        events = itertools.count()
        for place, (number, sent) in enumerate(_packets(server)):
            packet = _without_tls(sent) if place == 0 else sent
            is_event = client in dumping and len(packet) > EVENT_HEAD
            _send(client, number, damage(next(events), packet) if is_event else packet)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    return proxy(port, requests=requests, answers=answers)


def _without_tls(handshake: bytes) -> bytes:
    """Return the first packet of a server without its offer to encrypt what follows."""
    flags = handshake.index(0, 1) + 1 + _BEFORE_FLAGS
    return handshake[: flags + 1] + bytes([handshake[flags + 1] & ~_TLS]) + handshake[flags + 2 :]


def _packets(source: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the content of each packet until the connection ends."""
    with suppress(OSError), source.makefile("rb") as stream:
        while len(head := stream.read(_LENGTH + 1)) == _LENGTH + 1:
            yield head[_LENGTH], stream.read(int.from_bytes(head[:_LENGTH], "little"))


def _send(target: socket.socket, number: int, packet: bytes) -> None:
    with suppress(OSError):
        target.sendall(len(packet).to_bytes(_LENGTH, "little") + bytes([number]) + packet)
