"""A connection of the direct server: it writes a short response at once, and ends if its client reads nothing."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

READS_WITHIN_S = 60.0
"""How long a client may take to read what was written."""


class ClientConnection(HttpToolsProtocol):
    """Aborts when its client does not read: otherwise its requests would wait for that without an end."""

    _ending: asyncio.TimerHandle | None = None

    def on_headers_complete(self) -> None:
        """Begin a request."""
        super().on_headers_complete()
        if self.cycle is not None:  # a request of a WebSocket has none
            self.cycle.transport = _ResponseTransport(self.transport, self.loop)

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


class _ResponseTransport(asyncio.Transport):
    """Writes the head of a response together with its first part, if that comes before the event loop's next iteration.

    So most responses take one call of the system, and wake their client once. It can do what a response needs: write and close.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""
        self._has_head = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write the head soon, and all other parts now."""
        if self._head:
            self._transport.writelines((self._head, data))
            self._head = b""
        elif self._has_head:
            self._transport.write(data)
        else:
            self._head, self._has_head = bytes(data), True
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Write what was not yet, and close the connection."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the connection is closed, or will be."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._head:
            if not self._transport.is_closing():
                self._transport.write(self._head)
            self._head = b""
