"""Processes that listen on one port: each answers, and one that ends answers what has begun."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import closing, suppress

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from websockets.sync.client import connect

from cluster.local.ports import unused_port
from serve import connection, create_app
from serve.deployment.direct import DirectServer
from serve.queries.select import Statement
from tests.serve.conftest import TestClient


def app_of(name, *, slow=None):
    app = FastAPI()

    @app.get("/")
    def tell() -> str:
        if slow is not None:
            slow.set()
            time.sleep(0.5)
        return name

    return app


def listens(port):
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_servers_share_a_port():
    port = unused_port()
    servers = [DirectServer(app_of(name), "127.0.0.1", port) for name in ("a", "b")]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Connection": "close"}) as client:
        try:
            assert {client.get("/").json() for _ in range(60)} == {"a", "b"}
            servers[0].close()
            assert {client.get("/").json() for _ in range(20)} == {"b"}
        finally:
            servers[1].close()
        with pytest.raises(httpx.ConnectError):
            client.get("/")


def test_a_request_that_has_begun_is_answered():
    port, begun, answers = unused_port(), threading.Event(), []
    server = DirectServer(app_of("a", slow=begun), "127.0.0.1", port)
    client = threading.Thread(target=lambda: answers.append(httpx.get(f"http://127.0.0.1:{port}/").json()))
    client.start()
    assert begun.wait(10)
    server.close()
    client.join()
    assert answers == ["a"]


def test_connections_are_ended_by_a_response():
    """A client that sends its next request while the server ends gets a response, which says that it is the last."""
    port = unused_port()
    server = DirectServer(app_of("a"), "127.0.0.1", port)
    ending = threading.Thread(target=server.close)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert client.get("/").headers.get("connection") is None
        ending.start()
        while listens(port):
            time.sleep(0.01)
        answer = client.get("/")
        assert (answer.json(), answer.headers["connection"]) == ("a", "close")
        with pytest.raises(httpx.ConnectError):
            client.get("/")
    ending.join()
    assert not server.is_alive


def test_a_client_that_reads_nothing_is_cut(monkeypatch):
    """Also when its response is complete, and when it has sent further requests."""
    monkeypatch.setattr(connection, "READS_WITHIN_S", 0.2)
    body, port = b"x" * (32 << 20), unused_port()
    server = DirectServer(PlainTextResponse(body), "127.0.0.1", port)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
            time.sleep(0.5)
            received = 0
            with suppress(ConnectionError):
                while part := client.recv(1 << 20):
                    received += len(part)
        assert received < len(body)
        assert httpx.get(f"http://127.0.0.1:{port}/").content == body, "others are answered"
    finally:
        server.close()


def test_the_head_of_a_response_does_not_wait_for_its_body():
    """It is written with the body if there is one already."""
    port, goes_on = unused_port(), threading.Event()

    async def parts():
        await asyncio.to_thread(goes_on.wait, 10)
        yield b"late"

    async def tell(request):
        if request.method == "POST":
            return PlainTextResponse(await request.body())
        return Response(None, 304) if "if-none-match" in request.headers else StreamingResponse(parts())

    async def greet(socket):
        await socket.accept()
        await socket.send_text("hello")
        await socket.close()

    routes = [Route("/", tell, methods=["GET", "HEAD", "POST"]), WebSocketRoute("/socket", greet)]
    server = DirectServer(Starlette(routes=routes), "127.0.0.1", port)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            with client.stream("GET", "/") as streamed:
                assert streamed.status_code == 200
                goes_on.set()
                assert streamed.read() == b"late"
            assert client.head("/").status_code == 200
            assert client.get("/", headers={"If-None-Match": "x"}).status_code == 304
            assert client.post("/", content=b"sent", headers={"Expect": "100-continue"}).content == b"sent"
            assert client.get("/").content == b"late", "the connection goes on"
        with connect(f"ws://127.0.0.1:{port}/socket") as socket:
            assert socket.recv() == "hello"
    finally:
        server.close()


def test_an_app_ends_after_its_servers(cafe):
    """What has begun needs the engine."""
    app, order = create_app(cafe.project()), []
    app.state.closing.append(lambda: order.append(app.state.backend.engine.rows(Statement("select 1"))))
    with TestClient(app):
        assert not app.state.backend.tables.is_draining
    assert len(order) == 1
    assert app.state.backend.tables.is_draining


def test_subscriptions_end_with_the_server(cafe):
    app, key = create_app(cafe.project()), cafe.key()
    port = unused_port()
    headers = {"Authorization": f"Bearer {key}", "Accept": "text/event-stream"}
    server = DirectServer(app, "127.0.0.1", port)
    begun = time.monotonic()
    with httpx.stream("GET", f"http://127.0.0.1:{port}/v1/tables/guests/events", headers=headers) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("id: ")
        app.state.backend.tables.is_draining = True
        server.close()
        assert "event: version" in list(lines)
    assert time.monotonic() - begun < 10
    app.state.backend.close()


def test_an_address_that_is_not_ours_is_an_error():
    with pytest.raises(OSError, match="assign requested address"):
        DirectServer(app_of("a"), "192.0.2.1", unused_port())
