"""Clients that ask for too much, or too slowly, are refused or cut, and hold up no other."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx
import pytest

from pipeline.governance.audit_records import records
from serve import request_body
from serve.access import gate
from serve.queries.engine import Engine
from tests.rigs.in_process_server import served
from tests.serve.conftest import open_cafe


@contextmanager
def listening(project):
    """Serve a project; the value is the port."""
    with served(project, log_level="critical") as url:
        yield int(url.rpartition(":")[2])


@pytest.fixture(scope="module")
def cafe(tmp_path_factory):
    return open_cafe(tmp_path_factory.mktemp("cafe"))


def test_a_body_that_does_not_come_ends_with_408(cafe, monkeypatch):
    monkeypatch.setattr(request_body, "PATIENCE_S", 0.3)
    with listening(cafe.project()) as port, socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        head = (
            f"POST /v1/query HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {cafe.key()}\r\nContent-Length: 100\r\n\r\n{{"
        )
        client.sendall(head.encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_does_not_read_is_cut(cafe, monkeypatch):
    monkeypatch.setattr(gate, "_SENT_WITHIN_S", 0.5)
    sql = (
        "select a.guest || b.guest || c.guest || d.guest || e.guest || f.guest || g.guest || h.guest || i.guest as x from "
        + ", ".join(f"cafe_orders {name}" for name in "abcdefghi")
    )
    key = cafe.key()
    with listening(cafe.project()) as port, socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        body = f'{{"sql": "{sql}", "limit": "all"}}'
        head = f"POST /v1/query HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nAccept: text/csv\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall((head + body).encode())
        time.sleep(2.0)  # longer than it may take to read a part
        other = httpx.get(f"http://127.0.0.1:{port}/v1/tables/guests", headers={"Authorization": f"Bearer {key}"})
        assert other.status_code == 200
        received = b""
        with suppress(ConnectionError):
            while part := client.recv(1 << 20):
                received += part
        assert not received.endswith(b"0\r\n\r\n"), "the response is not complete"
    [record] = [
        each
        for each in records(cafe.root / ".headwater" / "audit" / "dev")
        if each["path"] == "/v1/query" and each["status"] == 200
    ]
    assert record["is_cut"]
    assert 0 < record["rows"] < 5**9


def test_exports_are_bounded(cafe):
    with cafe.client() as client:
        engine = client.app.state.backend.engine
        for _ in range(16):
            assert engine._exports.acquire(blocking=False)  # noqa: SLF001 - as if they were sent
        headers = {"Accept": "text/csv"}
        refused = client.get("/v1/tables/guests?limit=all", headers=headers)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        engine._exports.release()  # noqa: SLF001 - as above
        for _ in range(3):
            assert client.get("/v1/tables/guests?limit=all", headers=headers).status_code == 200, "each is released"


def test_responses_from_memory_over_a_real_connection(cafe):
    with listening(cafe.project()) as port, httpx.Client(headers={"Authorization": f"Bearer {cafe.key()}"}) as client:
        url = f"http://127.0.0.1:{port}/v1/tables/guests"
        first, _, hit = (client.get(url) for _ in range(3))
        assert hit.headers["cache-status"] == "headwater; hit"
        assert hit.content == first.content
        same = client.get(url, headers={"If-None-Match": hit.headers["etag"]})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", hit.headers["etag"])
        assert client.get(url).content == first.content, "the connection goes on"
        assert client.head(url).status_code == 200


def test_equal_requests_at_once_are_computed_once(cafe, monkeypatch):
    computed, begins = [], threading.Event()
    real = Engine.tuples

    def slow(self, statement):
        if "guests" in statement.sql:
            computed.append(statement)
            begins.set()
            time.sleep(0.5)
        return real(self, statement)

    monkeypatch.setattr(Engine, "tuples", slow)
    keys = [cafe.key(), cafe.key(), cafe.key(scopes=["read"])]
    with listening(cafe.project()) as port, ThreadPoolExecutor(12) as threads:
        url = f"http://127.0.0.1:{port}/v1/tables/guests?limit=3"

        def ask(key):
            return httpx.get(url, headers={"Authorization": f"Bearer {key}"})

        first = threads.submit(ask, keys[0])
        assert begins.wait(30)
        others = [threads.submit(ask, key) for key in keys[:2] * 4]
        assert {each.result().content for each in [first, *others]} == {first.result().content}
        assert len(computed) == 1, "also of another key with the same rights"
        ask(keys[2])
        assert len(computed) == 2, "other rights"
        failing = [threads.submit(httpx.get, url.replace("limit=3", "limit=x")) for _ in range(4)]
        assert {each.result().status_code for each in failing} == {404}, (
            "errors are not shared, and nobody waits for them"
        )


def test_headers_of_all_responses(cafe):
    with cafe.client() as client:
        for path in ("/v1/tables/guests", "/v1/tables/no", "/health", "/docs", "/nothing", "/openapi.json"):
            headers = client.get(path).headers
            assert headers["x-content-type-options"] == "nosniff", path
            assert headers["x-frame-options"] == "DENY", path
            assert "server" not in headers, path
            assert headers["strict-transport-security"], path
    with cafe.client(key="") as client:
        answer = client.options(
            "/v1/tables", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
        )
        assert "access-control-allow-origin" not in answer.headers
