"""The end of a query in the background: a server cancels it, its time is over, or this server stops."""

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
        """Whether the query is to end. This looks for the file by which any server cancels it, and at the clock."""
        if not self.reason:
            if self._marker.exists():
                self.reason = "cancelled"
            elif time.monotonic() >= self._until:
                self.reason = "time"
        return bool(self.reason)

    def cancel(self) -> None:
        """End the query because this server stops."""
        self.reason = self.reason or "stopped"
