"""Ports for servers that are started on this machine."""

from __future__ import annotations

import random
import socket
from contextlib import closing
from pathlib import Path

_FIRST = 12_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_TRIES = 1000


def unused_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return ports that no process listens on, in random order; raise `OSError` if there are not enough.

    They are below those that the system gives to outgoing connections, one of which could otherwise take a port before
    its server listens.
    """
    begin = int(_EPHEMERAL.read_text(encoding="ascii").split()[0]) if _EPHEMERAL.is_file() else 32_768
    candidates = range(_FIRST, begin) if begin > _FIRST + _TRIES else range(_FIRST, 1 << 16)
    found: list[int] = []
    for port in random.sample(candidates, min(_TRIES, len(candidates))):
        if len(found) < count and _can_listen(host, port):
            found.append(port)
    if len(found) < count:
        raise OSError(f"{count} ports are needed, and only {len(found)} are unused")
    return found


def unused_port(host: str = "127.0.0.1") -> int:
    """Return one such port."""
    return unused_ports(1, host)[0]


def _can_listen(host: str, port: int) -> bool:
    try:
        with closing(socket.create_server((host, port))):
            return True
    except OSError:
        return False
