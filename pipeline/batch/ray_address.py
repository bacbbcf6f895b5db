"""The address of a Ray cluster, in `RAY_ADDRESS`: whether it is set, and whether something listens there."""

from __future__ import annotations

import os
import socket

from pipeline.core.errors import UnavailableError

_CONNECT_S = 5.0


def has_address() -> bool:
    """Return whether `RAY_ADDRESS` is set, as it is in a Ray job."""
    return bool(os.environ.get("RAY_ADDRESS"))


def require_reachable(address: str) -> None:
    """Raise `UnavailableError` if nothing listens at `host:port` or `ray://host:port`. Ray itself waits for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # `auto` or `local`
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UnavailableError(
            f"the Ray cluster {address!r} cannot be reached", got=str(error), do="start it, or check RAY_ADDRESS"
        ) from error
