"""A proxy in front of an object store that loses, fakes or delays responses, according to the rules of a test.

Requests are forwarded unchanged, including `Host`, so that signatures remain valid. The first matching rule is applied; a
rule applies to `times` requests. Requests and the status of their responses are recorded in `seen`.
"""

from __future__ import annotations

import http.client
import random
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import Enum
from http.server import BaseHTTPRequestHandler

from tests.rigs.http_listener import HttpListener

_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})
_CODES = {
    403: "AccessDenied",
    409: "ConditionalRequestConflict",
    412: "PreconditionFailed",
    500: "InternalError",
    503: "SlowDown",
}


class Fault(Enum):
    """The fault of a request."""

    LIE = "apply it, then respond with another status"
    DROP = "apply it, then close the connection without a response"
    HANG = "apply it, then never respond"
    REFUSE = "do not apply it, respond with a status"
    DELAY = "apply it after a delay"


@dataclass(frozen=True)
class Rule:
    """A fault for the next requests with a method whose path and query contain a pattern."""

    method: str
    pattern: str
    fault: Fault
    status: int = 500
    times: int = 1
    delay_s: float = 0.0
    then: tuple[Rule, ...] = ()
    """The rules that replace all others once this one has been applied."""

    def fits(self, method: str, path: str) -> bool:
        return self.times > 0 and self.method == method and re.search(self.pattern, path) is not None


@dataclass(frozen=True)
class Seen:
    """A received request, the status of the store's response (`None`: not forwarded), and its fault."""

    method: str
    path: str
    status: int | None
    fault: Fault | None
    access_key: str = ""
    """The id of the key that has signed it."""


class Proxy:
    """The current rules and the requests received so far, shared by all threads."""

    def __init__(self, upstream_port: int) -> None:
        self.upstream_port = upstream_port
        self.port = 0
        self.closing = threading.Event()
        self.latency_s, self.jitter_s = 0.0, 0.0
        """How long each request waits, and a random time in addition, as on the way to a store in another building."""
        self._rules: list[Rule] = []
        self._seen: list[Seen] = []
        self._lock = threading.Lock()

    def rule(self, *rules: Rule) -> None:
        """Replace the rules."""
        with self._lock:
            self._rules = list(rules)

    @property
    def seen(self) -> tuple[Seen, ...]:
        with self._lock:
            return tuple(self._seen)

    def faults(self, method: str, pattern: str) -> int:
        """Return the number of matching requests with a fault."""
        return sum(s.fault is not None for s in self.requests(method, pattern))

    def requests(self, method: str, pattern: str) -> list[Seen]:
        return [s for s in self.seen if s.method == method and re.search(pattern, s.path)]

    def take(self, method: str, path: str) -> Rule | None:
        with self._lock:
            for number, rule in enumerate(self._rules):
                if rule.fits(method, path):
                    self._rules[number] = replace(rule, times=rule.times - 1)
                    self._rules = list(rule.then) or self._rules
                    return rule
        return None

    def note(self, seen: Seen) -> None:
        with self._lock:
            self._seen.append(seen)


@contextmanager
def proxied(upstream_port: int) -> Iterator[Proxy]:
    """Run a proxy in front of a local port; all its connections are closed at the end."""
    proxy = Proxy(upstream_port)

    class Handler(_Handler):
        rules = proxy

    server = HttpListener(("127.0.0.1", 0), Handler)
    server.block_on_close = False
    proxy.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="proxy", daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    rules: Proxy

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        rule = self.rules.take(self.command, self.path)
        fault = None if rule is None else rule.fault
        if rule is not None and fault is Fault.REFUSE:
            self.rules.note(Seen(self.command, self.path, None, fault))
            self._answer(rule.status, [], _error(rule.status))
            return
        if rule is not None and fault is Fault.DELAY:
            self.rules.closing.wait(rule.delay_s)
        if self.rules.latency_s:
            self.rules.closing.wait(self.rules.latency_s + random.uniform(0, self.rules.jitter_s))  # noqa: S311 - no secret
        status, headers, content = self._forward(body)
        signed = re.search(r"Credential=([^/]+)/", self.headers.get("Authorization", ""))
        self.rules.note(Seen(self.command, self.path, status, fault, signed[1] if signed else ""))
        if rule is not None and fault is Fault.LIE:
            self._answer(rule.status, [], _error(rule.status))
        elif fault in {Fault.DROP, Fault.HANG}:
            if fault is Fault.HANG:
                self.rules.closing.wait()
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self._answer(status, headers, content)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _handle  # noqa: N815 - the library's names

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection("127.0.0.1", self.rules.upstream_port, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {"connection", "expect"}:
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            content = answer.read()
            headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _HOP]
            if self.command == "HEAD":
                headers.append(("Content-Length", answer.getheader("Content-Length", "0")))
            return answer.status, headers, content
        finally:
            upstream.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        with suppress(ConnectionError):  # the client did not wait for the response
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            if self.command != "HEAD" or not headers:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Log nothing; tests read `seen`."""


def _error(status: int) -> bytes:
    code = _CODES.get(status, "Error")
    return f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>by the proxy</Message></Error>'.encode()
