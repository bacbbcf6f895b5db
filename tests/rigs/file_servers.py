"""Servers of files on loopback, each over a folder: SFTP, FTP, FTPS, and HTTP with ranges and entity tags, or without either."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from http.server import BaseHTTPRequestHandler
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.rigs.http_listener import HttpListener

USER, PASSWORD = "reader", "a-secret-word"


@dataclass(frozen=True)
class FileServer:
    """A running server: the URI of its folder, and the options of a reader."""

    uri: str
    folder: Path
    options: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    """What an HTTP server was asked for: method, path and range."""


@dataclass(frozen=True)
class FileServers:
    """The running SFTP, FTP and FTPS servers, which share a folder; `ca` issued the certificate of FTPS."""

    folder: Path
    ca: Path
    ports: dict[str, str]

    def server(self, scheme: str, below: str) -> FileServer:
        """Return the server of a scheme, for a folder of its own."""
        options = {"username": USER, "password": PASSWORD}
        if scheme == "sftp":
            options["host_key"] = self.ports["fingerprint"]
        if scheme == "ftps":
            options["ca"] = str(self.ca)
        (self.folder / below).mkdir(exist_ok=True)
        return FileServer(
            f"{scheme.partition(' ')[0]}://127.0.0.1:{self.ports[scheme]}/{below}", self.folder / below, options
        )


@pytest.fixture(scope="session")
def file_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileServers]:
    """SFTP, FTP and FTPS on loopback, in one process."""
    for name in ("asyncssh", "pyftpdlib", "paramiko", "OpenSSL", "cryptography"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    from cluster.local.kafka.certificates import CertificateAuthority  # noqa: PLC0415 - needs cryptography

    folder = tmp_path_factory.mktemp("served")
    authority = CertificateAuthority(tmp_path_factory.mktemp("certificates"))
    certificate = authority.issue("ftp", ("127.0.0.1",))
    program = Path(__file__).with_name("file_server_process.py")
    command = [sys.executable, str(program), str(folder), USER, PASSWORD, str(certificate)]
    with (folder.parent / "file-servers.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
    try:
        line = process.stdout.readline() if process.stdout else b""
        if not line:
            pytest.fail(f"the servers did not start: {(folder.parent / 'file-servers.log').read_text()[-2000:]}")
        yield FileServers(folder, authority.file, json.loads(line))
    finally:
        process.kill()
        process.communicate()


class HttpServer(HttpListener):
    """Serves a folder; a plain one has neither ranges, nor tags, nor times, nor lengths."""

    def __init__(self, folder: Path, *, is_plain: bool, login: str) -> None:
        super().__init__(("127.0.0.1", 0), HttpHandler)
        self.folder, self.is_plain, self.login = folder, is_plain, login
        self.requests: list[str] = []


class HttpHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HttpServer

    def do_HEAD(self) -> None:
        self._answer(is_head=True)

    def do_GET(self) -> None:
        self._answer(is_head=False)

    def _answer(self, *, is_head: bool) -> None:
        self.server.requests.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".rstrip())
        path = self.server.folder / unquote(urlsplit(self.path).path).lstrip("/")
        is_allowed = not self.server.login or self.headers.get("Authorization") == f"Bearer {self.server.login}"
        if not is_allowed or not path.is_file():
            self._begin(401 if not is_allowed else 404, {"Content-Length": "0"})
            return
        content = path.read_bytes()
        body = self._chunked(content) if self.server.is_plain else self._ranged(path, content)
        if not is_head:
            self.wfile.write(body)

    def _ranged(self, path: Path, content: bytes) -> bytes:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        begin, end = 0, len(content)
        headers = {
            "Accept-Ranges": "bytes",
            "ETag": f'"{hashlib.sha256(content).hexdigest()[:16]}"',
            "Last-Modified": formatdate(path.stat().st_mtime, usegmt=True),
        }
        if wanted:
            begin, end = int(wanted[1]), min(int(wanted[2] or len(content)) + 1, len(content))
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(content)}"
        self._begin(206 if wanted else 200, {**headers, "Content-Length": str(end - begin)})
        return content[begin:end]

    def _chunked(self, content: bytes) -> bytes:
        self._begin(200, {"Transfer-Encoding": "chunked"})
        return (b"%x\r\n%s\r\n" % (len(content), content) if content else b"") + b"0\r\n\r\n"

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def http_server(folder: Path, *, is_plain: bool = False, login: str = "") -> Iterator[FileServer]:
    """Serve a folder; with `login`, to requests with this bearer token."""
    with HttpServer(folder, is_plain=is_plain, login=login) as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.05), daemon=True)
        thread.start()
        try:
            yield FileServer(f"http://127.0.0.1:{server.server_port}", folder, requests=server.requests)
        finally:
            server.shutdown()
            thread.join(30)
