"""Connects to a database under the guard of its server: temporary failures are tried again, and counted."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import parse_qsl, urlsplit

from pipeline.connectors.databases.address import DatabaseAddress
from pipeline.connectors.guard import guarded
from pipeline.connectors.guard.calls import RetryRule

C = TypeVar("C")
_RETRIES = RetryRule(attempts=3, deadline_s=3.0)
"""Few, because a wrong address does not answer either; a stream waits, and tries again by itself."""

CONNECTS_WITHIN_S = 10
ANSWERS_WITHIN_S = 3600
"""After this time without a byte, a connection is given up; the first row of a long query comes earlier."""
_ASKED_AFTER_S, _ASKED_EVERY_S, _ASKED_TIMES = 30, 10, 6
"""TCP asks a silent peer whether it is still there, so a network that is gone ends a read after 90 s, and no long query does."""

LIBPQ_LIMITS = {
    "connect_timeout": CONNECTS_WITHIN_S,
    "keepalives_idle": _ASKED_AFTER_S,
    "keepalives_interval": _ASKED_EVERY_S,
    "keepalives_count": _ASKED_TIMES,
    "tcp_user_timeout": 1000 * (_ASKED_AFTER_S + _ASKED_EVERY_S * _ASKED_TIMES),
}


def libpq_url(address: DatabaseAddress) -> str:
    """Return the URL for libpq, without the driver that one of SQLAlchemy names, and with limits that notice a dead peer.

    Settings that the URL has already remain.
    """
    scheme, colon, rest = address.connection_url().partition(":")
    url = scheme.partition("+")[0] + colon + rest
    given = {name for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True)}
    added = "&".join(f"{name}={value}" for name, value in LIBPQ_LIMITS.items() if name not in given)
    return f"{url}{'&' if urlsplit(url).query else '?'}{added}" if added else url


def connectorx_limits() -> str:
    """Return options of connectorx's URLs of MySQL that notice a peer that is gone."""
    limits = {"tcp_connect_timeout_ms": 1000 * CONNECTS_WITHIN_S, "tcp_keepalive_time_ms": 1000 * _ASKED_AFTER_S}
    if sys.platform == "linux":  # the only system for which it knows the others
        limits |= {
            "tcp_keepalive_probe_interval_secs": _ASKED_EVERY_S,
            "tcp_keepalive_probe_count": _ASKED_TIMES,
            "tcp_user_timeout_ms": LIBPQ_LIMITS["tcp_user_timeout"],
        }
    return "&".join(f"{name}={value}" for name, value in limits.items())


def keep_alive(connected: socket.socket) -> None:
    """Let TCP notice a peer that is gone."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {"TCP_KEEPIDLE": _ASKED_AFTER_S, "TCP_KEEPINTVL": _ASKED_EVERY_S, "TCP_KEEPCNT": _ASKED_TIMES}
    for name, value in options.items():
        if hasattr(socket, name):  # macOS lacks the first
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def connecting(address: DatabaseAddress, connect: Callable[[], C]) -> C:
    """Return what a function connects to, or reads; it raises `SourceUnavailableError` for failures that may pass.

    It may be called several times. Raises `SourceUnavailableError` after some attempts, or at once if the server failed repeatedly a moment ago.
    """
    server = urlsplit(address.public()).netloc or address.public()
    return guarded(server, retries=_RETRIES).call(connect, f"the database on {server}")
