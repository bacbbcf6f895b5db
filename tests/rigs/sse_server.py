"""A stream of events on loopback, which continues after `Last-Event-ID` and may be cut after some events."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from tests.rigs.http_faults import Received, Reply


class EventServer:
    """Sends its events, then waits for more for a time."""

    def __init__(self, stays_s: float = 5.0) -> None:
        self.events: list[str] = []
        self.stays_s = stays_s
        self.cut_after: int | None = None
        """Close each connection after this number of events."""
        self.is_closing = threading.Event()

    def add(self, data: str, **fields: Any) -> None:
        lines = [f"id: {len(self.events) + 1}", *(f"{name}: {text}" for name, text in fields.items()), f"data: {data}"]
        self.events.append("\n".join(lines) + "\n\n")

    def answer(self, received: Received) -> Reply:
        begin = int(received.headers.get("last-event-id", 0))
        return Reply(headers={"Content-Type": "text/event-stream"}, chunks=self._stream(begin))

    def _stream(self, begin: int) -> Iterator[bytes]:
        yield b": welcome\nretry: 10\n\n"
        sent, until = begin, time.monotonic() + self.stays_s
        while time.monotonic() < until and not self.is_closing.is_set():
            for event in self.events[sent:]:
                yield event.encode()
                sent += 1
                if self.cut_after is not None and sent - begin >= self.cut_after:
                    return
            time.sleep(0.01)
