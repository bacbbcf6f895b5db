"""Connects to a database under the guard of its server: temporary failures are tried again, and counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

from pipeline.connectors.databases.address import DatabaseAddress
from pipeline.connectors.guard import guarded
from pipeline.connectors.guard.calls import RetryRule

C = TypeVar("C")
_RETRIES = RetryRule(attempts=3, deadline_s=3.0)
"""Few, because a wrong address does not answer either; a stream waits, and tries again by itself."""


def connecting(address: DatabaseAddress, connect: Callable[[], C]) -> C:
    """Return what a function connects to, which raises `SourceUnavailableError` for failures that may pass.

    Raises `SourceUnavailableError` after some attempts, or at once if the server failed repeatedly a moment ago.
    """
    server = urlsplit(address.public()).netloc or address.public()
    return guarded(server, retries=_RETRIES).call(connect, f"the database on {server}")
