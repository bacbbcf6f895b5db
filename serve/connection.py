"""A connection of the direct server, which is ended if its client reads nothing."""

from __future__ import annotations

from asyncio import TimerHandle

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

READS_WITHIN_S = 60.0
"""How long a client may take to read what was written."""


class ClientConnection(HttpToolsProtocol):
    """Aborts when its client does not read: otherwise its requests would wait for that without an end."""

    _ending: TimerHandle | None = None

    def pause_writing(self) -> None:
        """Wait for the client for a bounded time; called when much is written that the client has not read."""
        super().pause_writing()
        self._ending = self.loop.call_later(READS_WITHIN_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Wait no longer; called when the client has read most of it."""
        super().resume_writing()
        self._wait_no_longer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        super().connection_lost(exc)
        self._wait_no_longer()

    def _wait_no_longer(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
