"""What Ray Serve's proxy does with a request whose replica ended: an application that returns without a response."""

from __future__ import annotations

import json

import anyio
import pytest
from starlette.requests import Request

from serve.deployment.proxy_retries import ProxyRetries, middlewares


class Replicas:
    """An application of which the first attempts return without a response, or in the middle of one."""

    def __init__(self, failures, *, begins=False, leaves=False):
        self.failures = failures
        self.begins = begins
        self.leaves = leaves
        self.bodies = []

    async def __call__(self, scope, receive, send):
        if self.leaves:
            await receive()
            return
        self.bodies.append(await Request(scope, receive).body())
        is_last = len(self.bodies) > self.failures
        if self.begins or is_last:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        if is_last:
            await send({"type": "http.response.body", "body": b"answer"})


def ask(replicas, method="GET", body=b"", headers=(), message=None):
    sent, given = [], [message or {"type": "http.request", "body": body, "more_body": False}]
    scope = {"type": "http", "method": method, "path": "/", "query_string": b"", "headers": list(headers)}

    async def receive():
        return given.pop(0) if given else await anyio.sleep_forever()

    async def send(message):
        sent.append(message)

    (middleware,) = middlewares()
    assert middleware.cls is ProxyRetries
    anyio.run(ProxyRetries(replicas), scope, receive, send)
    return sent


@pytest.mark.parametrize(("method", "failures", "attempts"), [("GET", 0, 1), ("GET", 3, 4), ("HEAD", 1, 2)])
def test_a_request_that_reads_is_sent_to_another_replica(method, failures, attempts):
    replicas = Replicas(failures)
    assert [message.get("body") for message in ask(replicas, method)] == [None, b"answer"]
    assert replicas.bodies == [b""] * attempts


@pytest.mark.parametrize(
    ("method", "headers", "body"),
    [
        ("POST", [], b"{}"),
        ("POST", [(b"content-length", b"0")], b""),
        ("GET", [(b"content-length", b"2")], b"{}"),
        ("GET", [(b"transfer-encoding", b"chunked")], b"{}"),
    ],
)
def test_of_other_requests_it_is_not_known_what_became_of_them(method, headers, body):
    replicas = Replicas(1)
    start, end = ask(replicas, method, body, headers)
    assert (start["status"], dict(start["headers"])[b"retry-after"]) == (502, b"1")
    assert json.loads(end["body"])["detail"] == "the replica ended before it answered"
    assert replicas.bodies == [body]


def test_it_gives_up():
    replicas = Replicas(100)
    assert ask(replicas)[0]["status"] == 502
    assert len(replicas.bodies) == 4


def test_a_response_that_breaks_off_is_not_continued_by_another_one():
    replicas = Replicas(100, begins=True)
    assert [message["type"] for message in ask(replicas)] == ["http.response.start"]
    assert len(replicas.bodies) == 1


def test_a_client_that_has_left_gets_nothing():
    assert ask(Replicas(0, leaves=True), message={"type": "http.disconnect"}) == [], "its replica was told"
