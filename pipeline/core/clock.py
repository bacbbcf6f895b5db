"""The clock, passed as an argument so that tests can control it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)
