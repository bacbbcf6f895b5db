"""Receives events into a durable log. After an interruption, the stream continues after the last event in the log."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx

from pipeline.connectors.http.client import ApiRequest, EventResponse, HttpClient
from pipeline.connectors.json_text import one_line
from pipeline.connectors.spool.receiving import only_receiver
from pipeline.connectors.spool.record_log import RecordLog, parts_of, record
from pipeline.connectors.sse.events import EventParser, ServerEvent
from pipeline.core.logs import logger

if TYPE_CHECKING:
    from pipeline.connectors.sse.source import EventStream

log = logger(__name__)
_RETRY_S, _LEAST_RETRY_S, _MOST_RETRY_S = 1.0, 0.1, 60.0
_NO_CONTENT = 204


class EventReceiver:
    """Receives the events of one source. Only one process does so at a time."""

    def __init__(self, stream: EventStream) -> None:
        """Create a receiver, which is not connected yet."""
        self._stream, self._log = stream, stream.partition()
        self._stop = threading.Event()
        self._socket: socket.socket | None = None
        self._received = 0

    def receive(self, idle_s: float, listen_s: float) -> None:
        """Receive events until none has come for `idle_s`, at most for `listen_s`, or until `stop`.

        Raises `SourceUnavailableError` if no connection can be made, and `SourceError` if the server refuses it.
        """
        self._log.append([])
        with only_receiver(self._log.folder) as is_only:
            if not is_only:
                return  # another process receives them
            end = time.monotonic() + listen_s
            parser = EventParser(last_id=_last_id(self._log))
            with self._stream.client() as client:
                while not self._stop.is_set() and (left_s := end - time.monotonic()) > 0:
                    count = self._received
                    again = self._connection(client, parser, min(idle_s, left_s), end)
                    if not again or (self._received == count and listen_s < float("inf")):
                        return
                    parser = EventParser(last_id=parser.last_id, retry_ms=parser.retry_ms)
                    wanted_s = _RETRY_S if parser.retry_ms is None else parser.retry_ms / 1000
                    pause_s = min(max(wanted_s, _LEAST_RETRY_S), _MOST_RETRY_S)
                    self._stop.wait(min(pause_s, max(0.0, end - time.monotonic())))

    def stop_wait(self, seconds: float) -> None:
        """Wait before the next `receive`, or until `stop`."""
        self._stop.wait(seconds)

    def stop(self) -> None:
        """End `receive`, which may be waiting for events in another thread."""
        self._stop.set()
        connected = self._socket
        if connected is not None:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def _connection(self, client: HttpClient, parser: EventParser, idle_s: float, end: float) -> bool:
        """Receive the events of one connection, and return whether another one should be made."""
        last = {"Last-Event-ID": parser.last_id} if parser.last_id else {}
        request = ApiRequest(self._stream.url, self._stream.params, {"Accept": "text/event-stream", **last})
        with client.events(request, idle_s) as response:
            if response.status == _NO_CONTENT:
                return False
            self._socket = response.socket
            try:
                return self._events(response, parser, end)
            except httpx.ReadTimeout:
                return False
            except httpx.TransportError as error:
                log.info("the stream of events was interrupted", source=self._stream.uri, error=str(error))
                return True
            finally:
                self._socket = None

    def _events(self, response: EventResponse, parser: EventParser, end: float) -> bool:
        for chunk in response.chunks:
            events = parser.feed(chunk)
            if events:
                self._log.append(_records(events), self._stream.kept_s)
                self._received += len(events)
            if self._stop.is_set() or time.monotonic() > end:
                return False
        return True


def _records(events: Sequence[ServerEvent]) -> list[bytes]:
    at_ms = int(time.time() * 1000)
    return [
        record(at_ms, {"id": each.id or None, "event": each.event}, one_line(each.data.encode("utf-8", "replace")))
        for each in events
    ]


def _last_id(records: RecordLog) -> str:
    """Return the id of the last event in a log; empty if it has none."""
    extent = records.extent()
    if extent is None or extent.begin == extent.end:
        return ""
    (line,) = records.records(extent.end - 1, extent.end)
    return str(parts_of(line)[1].get("id") or "")
