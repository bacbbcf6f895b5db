"""An HTTP server on loopback whose responses a test writes, also those that are slow, cut, wrong or too large."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.rigs.http_listener import HttpListener


@dataclass(frozen=True)
class Received:
    """A request; names of headers are in lower case."""

    method: str
    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """A response, and how it is sent."""

    body: Any = b""
    """Bytes, or a value that is sent as JSON."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_at: int | None = None
    """Send this many bytes, then close the connection."""
    pause_s: float = 0.0
    """Wait this long before each tenth of the body."""
    closes: bool = False
    """Close the connection without a response."""
    length: int | None = None
    """A wrong `Content-Length`."""
    chunks: Iterable[bytes] | None = None
    """A body without a length, sent piece by piece; then the connection is closed."""

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()

    @property
    def is_last(self) -> bool:
        """Whether the connection is closed after it."""
        return self.closes or self.cut_at is not None or self.length is not None or self.chunks is not None

    def pieces(self) -> Iterator[bytes]:
        """Yield what is sent, after the waits."""
        if self.chunks is not None:
            yield from self.chunks
            return
        sent = self.content[: self.cut_at]
        step = len(sent) if not self.pause_s else max(1, len(sent) // 10)
        for begin in range(0, len(sent), step or 1):
            time.sleep(self.pause_s)
            yield sent[begin : begin + step]


def too_many(retry_after: str | None = None, **headers: str) -> Reply:
    """Return a response that asks to wait."""
    after = {} if retry_after is None else {"Retry-After": retry_after}
    return Reply({"error": "too many requests"}, 429, {**after, **{k.replace("_", "-"): v for k, v in headers.items()}})


def unavailable() -> Reply:
    return Reply(b"<html>Service Unavailable</html>", 503, {"Content-Type": "text/html"})


def redirect(to: str, status: int = 302) -> Reply:
    return Reply(b"", status, {"Location": to})


def zipped(size: int) -> Reply:
    """Return a small response that is large once it is decompressed."""
    return Reply(gzip.compress(b"[" + b" " * size + b"]"), headers={"Content-Encoding": "gzip"})


Route = Callable[[Received], Reply]


class HttpServer:
    """A server; `script` has the next responses, after which `routes` answer by path."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.routes: dict[str, Route] = {}
        self.script: list[Reply] = []
        self.received: list[Received] = []
        self._lock = threading.Lock()

    def reply_to(self, received: Received) -> Reply:
        with self._lock:
            self.received.append(received)
            if self.script:
                return self.script.pop(0)
        route = self.routes.get(received.path)
        return Reply({"error": "not found"}, 404) if route is None else route(received)


class _Handler(BaseHTTPRequestHandler):
    """Sends the replies of a server."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # headers and body in one packet: the second one would wait for 40 ms
    answers: HttpServer

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): text for name, text in self.headers.items()}
        params = dict(parse_qsl(parts.query, keep_blank_values=True))
        with suppress(ConnectionError):
            self.send(self.answers.reply_to(Received(self.command, parts.path, params, headers, body)))

    do_POST = do_GET  # noqa: N815 - the name of the base class

    def send(self, reply: Reply) -> None:
        self.close_connection = self.close_connection or reply.is_last
        if reply.closes:
            return
        self.send_response_only(reply.status)
        if "Date" not in reply.headers:
            self.send_header("Date", self.date_time_string())
        for name, text in reply.headers.items():
            self.send_header(name, text)
        if reply.chunks is None:
            self.send_header("Content-Length", str(len(reply.content) if reply.length is None else reply.length))
        self.end_headers()
        if reply.chunks is not None or reply.pause_s:
            self.wfile.flush()
        for piece in reply.pieces():
            self.wfile.write(piece)
            self.wfile.flush()

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


@contextmanager
def http_server() -> Iterator[HttpServer]:
    """Run a server on a free port."""
    handler = type("Handler", (_Handler,), {})
    listening = HttpListener(("127.0.0.1", 0), handler)
    server = handler.answers = HttpServer(listening.server_address[1])
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join(timeout=10)
