"""What the client of a request sends: its body, and that it has left, which cancels what is computed for it."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Scope

from serve.queries.cancellation import Cancellation

_LEFT: Message = {"type": "http.disconnect"}


class ClientMessages:
    """The `receive` of an application. Once the body has come, it listens whether the client leaves, until `close`."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        """Listen at once if the request has no body."""
        self.cancellation = Cancellation()
        self._receive = receive
        self._listening: asyncio.Task[None] | None = None
        self._pending: Message | None = None
        names = {name for name, _ in scope["headers"]}
        if names.isdisjoint({b"content-length", b"transfer-encoding"}):
            self._pending = {"type": "http.request", "body": b"", "more_body": False}
            self._listen()

    @property
    def has_left(self) -> bool:
        """Whether the client has closed the connection."""
        return self.cancellation.is_cancelled

    async def __call__(self) -> Message:
        """Return the next message: parts of the body, and after the last that the client has left."""
        if self._pending is not None:
            message, self._pending = self._pending, None
            return message
        if self._listening is not None:
            await asyncio.shield(self._listening)
            return _LEFT
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.cancellation.cancel()
        elif not message.get("more_body", False):
            self._listen()
        return message

    def close(self) -> None:
        """Listen no more. What still runs for the request is cancelled: its response is complete, or nobody gets it."""
        if self._listening is not None:
            self._listening.cancel()
        self.cancellation.cancel()

    def _listen(self) -> None:
        self._listening = asyncio.get_running_loop().create_task(self._until_left())

    async def _until_left(self) -> None:
        for _ in range(2):  # the first may be the empty body of a request without one
            if (await self._receive())["type"] == "http.disconnect":
                self.cancellation.cancel()
                return
        await asyncio.Event().wait()  # a server that repeats the body never says that the client has left
