"""Ends a query in the background: when it is cancelled, by any server, when its time is over, and when this server stops."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from serve.queries.cancellation import Cancellation

MARKER = "cancelled"
"""The file in the folder of a query by which it is cancelled."""


class BackgroundCancellation(Cancellation):
    """Whether a query is to end. Thread-safe."""

    def __init__(self, folder: Path, most_seconds: float) -> None:
        """Begin the time of the query."""
        super().__init__()
        self._marker = folder / MARKER
        self._until = time.monotonic() + most_seconds
        self.reason: Literal["", "cancelled", "time", "stopped"] = ""

    @property
    def is_cancelled(self) -> bool:
        """Whether the query is to end; looks whether it was cancelled, or its time is over."""
        if not self.reason:
            if self._marker.exists():
                self.reason = "cancelled"
            elif time.monotonic() >= self._until:
                self.reason = "time"
        return bool(self.reason)

    def cancel(self) -> None:
        """End the query because this server stops."""
        self.reason = self.reason or "stopped"
