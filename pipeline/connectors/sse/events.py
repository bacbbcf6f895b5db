"""Parses a stream of server-sent events, as the HTML standard defines it."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field

from pipeline.core.errors import SourceError

_LINE_END = re.compile(r"\r\n|\r|\n")
MOST_CHARACTERS = 16 << 20
"""Maximum size of an event."""


@dataclass(frozen=True)
class ServerEvent:
    """An event: its data, its type, and the last id that the stream has set."""

    data: str
    event: str = "message"
    id: str = ""


@dataclass
class EventParser:
    """The state of a stream: complete events are returned, the rest is kept for the next bytes."""

    last_id: str = ""
    """The id of the last complete event, after which the next connection continues."""
    retry_ms: int | None = None
    """How long to wait before the next connection, if the server has said so."""
    _id: str = ""
    _text: str = ""
    _data: list[str] = field(default_factory=list)
    _event: str = ""
    _size: int = 0
    _is_first: bool = True
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )

    def __post_init__(self) -> None:
        """Begin with the id of the connection before."""
        self._id = self.last_id

    def feed(self, data: bytes) -> list[ServerEvent]:
        """Return the events that are complete after these bytes; raise `SourceError` for one that is too large."""
        self._text += self._decoder.decode(data)
        if self._is_first and self._text:
            self._text, self._is_first = self._text.removeprefix("\ufeff"), False
        events: list[ServerEvent] = []
        begin = 0
        for match in _LINE_END.finditer(self._text):
            if match[0] == "\r" and match.end() == len(self._text):
                break  # a line feed may follow
            event = self._line(self._text[begin : match.start()])
            events += [] if event is None else [event]
            begin = match.end()
        self._text = self._text[begin:]
        if self._size + len(self._text) > MOST_CHARACTERS:
            raise SourceError("an event is too large", got=f"more than {MOST_CHARACTERS:,} characters")
        return events

    def _line(self, line: str) -> ServerEvent | None:
        if not line:
            return self._dispatched()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
            self._size += len(value) + 1
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_ms = int(value[:9])
        return None

    def _dispatched(self) -> ServerEvent | None:
        """Return the event that ends with an empty line, if it has data."""
        data, event = self._data, self._event
        self._data, self._event, self._size, self.last_id = [], "", 0, self._id
        return ServerEvent("\n".join(data), event or "message", self.last_id) if data else None
