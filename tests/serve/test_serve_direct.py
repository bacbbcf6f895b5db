"""Processes that listen on one port: each answers, and one that ends answers what has begun."""

from __future__ import annotations

import threading
import time

import httpx
import pytest
from fastapi import FastAPI

from cluster.local.ports import unused_port
from serve.direct import DirectServer


def app_of(name, *, slow=None):
    app = FastAPI()

    @app.get("/")
    def tell() -> str:
        if slow is not None:
            slow.set()
            time.sleep(0.5)
        return name

    return app


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


def test_an_address_that_is_not_ours_is_an_error():
    with pytest.raises(OSError, match="assign requested address"):
        DirectServer(app_of("a"), "192.0.2.1", unused_port())
