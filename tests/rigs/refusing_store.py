"""A store on loopback that refuses every request with a code of S3, and records who asked."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler

from tests.rigs.http_listener import HttpListener

_CREDENTIAL = re.compile(r"Credential=([^/]*)/\d+/([^/]*)/")


@dataclass(frozen=True)
class SignedRequest:
    """The identity of a request: its access key, the region it was signed for, and its session token."""

    access_key: str
    region: str
    token: str | None


@dataclass(frozen=True)
class Refusal:
    """The response to every request."""

    status: int
    code: str
    message: str = "refused"


class RefusingStore:
    """The current response, and the requests so far."""

    def __init__(self) -> None:
        self.refusal = Refusal(403, "AccessDenied")
        self.requests: list[SignedRequest] = []
        self.endpoint = ""


@contextmanager
def refusing_store() -> Iterator[RefusingStore]:
    """Run the store."""
    store = RefusingStore()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            signed = _CREDENTIAL.search(self.headers.get("Authorization", ""))
            key, region = ("", "") if signed is None else (signed[1], signed[2])
            store.requests.append(SignedRequest(key, region, self.headers.get("x-amz-security-token")))
            refusal = store.refusal
            text = f"<Error><Code>{refusal.code}</Code><Message>{refusal.message}</Message></Error>"
            content = f'<?xml version="1.0"?>{text}'.encode()
            self.send_response_only(refusal.status)
            self.send_header("Content-Length", str(len(content)))
            if refusal.status == HTTPStatus.MOVED_PERMANENTLY:
                self.send_header("x-amz-bucket-region", "eu-central-1")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815 - the library's names

        def log_message(self, *_: object) -> None: ...

    server = HttpListener(("127.0.0.1", 0), Handler)
    server.block_on_close = False
    store.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
