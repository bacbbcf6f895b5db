"""What is computed for a client that leaves is interrupted, over a real connection."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from urllib.parse import quote

import httpx
import pytest

from pipeline.governance.audit_records import records
from serve.access.fair_queue import FairQueue
from serve.http_errors import AbandonedError
from serve.queries.cancellation import CURRENT, Cancellation
from tests.rigs.served_project import served_project
from tests.serve.conftest import TOML, open_cafe
from tests.serve.test_serve_protection import listening

NAMES = "abcdefghijklmnop"
LONG = (
    f"select count(*) as n from {', '.join(f'cafe_orders {name}' for name in NAMES)} "
    f"where {' + '.join(f'{name}.cups' for name in NAMES)} = 47"
)
"""5 ** 16 rows: hours."""


@pytest.fixture(scope="module")
def cafe(tmp_path_factory):
    cafe = open_cafe(tmp_path_factory.mktemp("cafe"))
    (cafe.root / "headwater.toml").write_text(TOML + "concurrent_queries = 1\n")
    return cafe


def request(method, path, key, body="", **headers):
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {key}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}"] if body else []
    return ("\r\n".join([*lines, "", ""]) + body).encode()


def cut(cafe):
    found = records(cafe.root / ".headwater" / "audit" / "dev")
    return [each for each in found if each.get("is_cut")]


QUERY = json.dumps({"sql": LONG})
STREAM = json.dumps({"sql": LONG, "limit": "all"})


@pytest.mark.parametrize(
    ("method", "path", "body", "headers"),
    [
        ("POST", "/v1/query", QUERY, {}),
        ("POST", "/v1/query", STREAM, {"Accept": "text/csv"}),
        ("GET", f"/v1/query?sql={quote(LONG)}", "", {}),
    ],
    ids=["body", "stream", "url"],
)
def test_a_statement_ends_when_its_client_leaves(cafe, method, path, body, headers):
    """Only one statement runs at a time, so that the second client would wait for 30 s."""
    key = cafe.key()
    before = len(cut(cafe))
    with listening(cafe.project()) as port:
        table = f"http://127.0.0.1:{port}/v1/tables/guests?limit=1"
        assert httpx.get(table, headers={"Authorization": f"Bearer {key}"}).status_code == 200
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(request(method, path, key, body, **headers))
            time.sleep(0.3)  # it runs
        begun = time.monotonic()
        with httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=40) as other:
            assert other.get(f"{table}&offset={time.time_ns() % 1000}").status_code == 200
        assert time.monotonic() - begun < 5
    assert len(cut(cafe)) == before + 1


def test_one_that_leaves_the_queue_is_replaced_by_the_next():
    queue = FairQueue(1, 10, 10.0)

    async def main():
        async def wait(caller, cancellation, order):
            CURRENT.set(cancellation)
            async with queue.turn(caller):
                order.append(caller)

        order: list[str] = []
        cancellations = [Cancellation() for _ in range(3)]
        async with queue.turn("a"):
            tasks = [
                asyncio.create_task(wait(name, each, order)) for name, each in zip("bcd", cancellations, strict=True)
            ]
            await asyncio.sleep(0.05)
            cancellations[0].cancel()
            outcome = await asyncio.gather(tasks[0], return_exceptions=True)
            assert isinstance(outcome[0], AbandonedError)
            assert order == []
        cancellations[1].cancel()  # it has its turn already, and leaves in the same moment
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order[-1] == "d"
        async with queue.turn("e"):
            order.append("e")
        return order

    assert asyncio.run(main())[-2:] == ["d", "e"]


def test_callbacks_are_called_once_and_only_within_their_context():
    calls: list[str] = []
    cancellation = Cancellation()
    with cancellation.calling(lambda: calls.append("ended before")):
        pass
    with cancellation.calling(lambda: calls.append("one")):
        cancellation.cancel()
        cancellation.cancel()
    with cancellation.calling(lambda: calls.append("late")):
        assert calls == ["one", "late"]


def ask_after_leaving(url, key):
    """Leave while a statement runs; return how long another request takes, which needs its place."""
    address = url.removeprefix("http://")
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(request("POST", "/v1/query", key, QUERY))
        time.sleep(1.5)
    begun = time.monotonic()
    other = f"{url}/v1/tables/guests?limit=1&offset={time.time_ns() % 100_000}"
    assert httpx.get(other, headers={"Authorization": f"Bearer {key}"}, timeout=60).status_code == 200
    return time.monotonic() - begun


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_statement_ends_whether_its_client_came_through_the_proxy_or_not(cafe):
    key = cafe.key()
    with served_project(cafe.root, least=1, most=1) as served:
        assert httpx.get(f"{served.url}/health", timeout=60).status_code == 200
        assert ask_after_leaving(served.url, key) < 10
        assert ask_after_leaving(served.direct_url, key) < 10


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_query_in_the_background_is_known_to_all_replicas_and_fails_with_its_own(cafe):
    headers = {"Authorization": f"Bearer {cafe.key()}", "Prefer": "respond-async"}
    with (
        served_project(cafe.root, least=2, most=2) as served,
        httpx.Client(base_url=served.url, headers=headers, timeout=60) as client,
    ):
        path = client.post("/v1/query", json={"sql": LONG}).headers["location"]
        until = time.monotonic() + 120
        while client.get(path).json()["status"] != "running":
            assert time.monotonic() < until
            time.sleep(0.1)
        assert {client.get(path).json()["status"] for _ in range(20)} == {"running"}
        before = client.get(path).json()["started_at"]
        served.deploy(2)  # both replicas end in order
        while (told := client.get(path).json())["status"] != "running" or told["started_at"] == before:
            assert told["status"] in {"queued", "running"}, told
            assert time.monotonic() < until, told
            time.sleep(0.1)
        for process in served.wait_for_replicas(2):
            os.kill(process, signal.SIGKILL)
        served.wait_for_replicas(2)
        until = time.monotonic() + 60
        while (answer := client.get(path)).status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.2)
        assert answer.json()["problem"]["detail"] == "the server was stopped"
        done = client.post("/v1/query", json={"sql": "select count(*) as n from guests"}).headers["location"]
        while client.get(done).json()["status"] in {"queued", "running"}:
            assert time.monotonic() < until
            time.sleep(0.1)
        for _ in range(10):
            assert client.get(f"{done}/rows").json()["rows"] == [{"n": 5}]
