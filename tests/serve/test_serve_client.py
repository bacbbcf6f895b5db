"""The client of the endpoints, against a server on loopback."""

from __future__ import annotations

import subprocess
import sys
import time

import anyio
import httpx
import pytest

from cluster.local.ports import unused_port
from pipeline.core.errors import UnavailableError
from serve.client import ApiClient, ApiError, AsyncApiClient
from tests.rigs.http_faults import Reply, http_server
from tests.rigs.in_process_server import served
from tests.serve.conftest import open_cafe


@pytest.fixture(scope="module")
def cafe(tmp_path_factory):
    return open_cafe(tmp_path_factory.mktemp("cafe"))


@pytest.fixture(scope="module")
def url(cafe):
    with served(cafe.project()) as url:
        yield url


def test_rows_arrow_and_sql(url, cafe, monkeypatch):
    monkeypatch.setenv("HEADWATER_API_KEY", cafe.key())
    with ApiClient(url) as client:
        assert "cafe_orders" in [table["name"] for table in client.tables()]
        rows = list(client.rows("cafe_orders", limit=2, order="cups.desc", cups=["gte.1", "lte.2"]))
        assert [row["order_id"] for row in rows] == [2, 1, 4]
        assert client.arrow("cafe_orders", select="order_id", order="order_id").to_pydict() == {
            "order_id": [1, 2, 3, 4, 5]
        }
        assert client.query("select max(cups) as most from cafe_orders").to_pylist() == [{"most": 3}]
        with pytest.raises(ApiError, match="there is no table 'cafe_order'; did you mean 'cafe_orders'") as caught:
            client.arrow("cafe_order")
        assert caught.value.status == 404
    with ApiClient(url, key="") as client, pytest.raises(ApiError, match="there is no table"):
        list(client.rows("cafe_orders"))


def test_the_same_to_await(url, cafe):
    async def ask():
        async with AsyncApiClient(url, cafe.key()) as client:
            assert len(await client.tables()) > 3
            assert [row["order_id"] async for row in client.rows("cafe_orders", limit=1)] == [1, 2, 3, 4, 5]
            assert (await client.arrow("guests")).num_rows == 5
            assert (await client.query("select 1 as x")).to_pylist() == [{"x": 1}]
            with pytest.raises(ApiError, match="there is no model"):
                await client.predict("mood", [{}])

    anyio.run(ask)


def test_queries_in_the_background(url, cafe):
    sql, key = "select order_id from cafe_orders order by 1", cafe.key()
    expected = {"order_id": [1, 2, 3, 4, 5]}

    async def ask():
        async with AsyncApiClient(url, key) as client:
            assert (await client.query(sql, background=True)).to_pydict() == expected
            query_id = await client.submit(sql, limit=2)
            assert (await client.result(query_id)).num_rows == 2
            assert (await client.query_status(query_id))["is_truncated"]
            await client.end_query(query_id)
            with pytest.raises(ApiError, match="there is no such query"):
                await client.result(query_id)

    anyio.run(ask)
    with ApiClient(url, key) as client:
        assert client.query(sql, background=True).to_pydict() == expected
        query_id = client.submit(sql, limit=2)
        assert client.result(query_id).num_rows == 2
        client.end_query(query_id)
        with pytest.raises(ApiError, match="there is no such query"):
            client.query_status(query_id)
        with pytest.raises(ApiError, match="the query cannot be computed"):
            client.query("select cast(guest as integer) as x from cafe_orders", background=True)
    assert not list((cafe.root / ".headwater" / "queries" / "dev").glob("[0-9a-f]*/*.parquet"))


def test_graphql(url, cafe):
    document = "query($n: Int) { guests(first: $n) { nodes { guest orders } } }"

    async def ask():
        async with AsyncApiClient(url, cafe.key()) as client:
            return await client.graphql(document, n=1)

    with ApiClient(url, cafe.key()) as client:
        assert client.graphql(document, n=1) == {"guests": {"nodes": [{"guest": "100%", "orders": "1"}]}}
        assert client.graphql(document, n=1) == anyio.run(ask)
        with pytest.raises(ApiError, match="Cannot query field 'guest'"):
            client.graphql("{ guest }")
        with pytest.raises(ApiError, match="'first' takes an integer from 1 to 10000: got 0"):
            client.graphql(document, n=0)
        with pytest.raises(ApiError, match="the document is longer than 20000 bytes") as caught:
            client.graphql("#" * 30_000)
        assert caught.value.status == 413


def test_a_busy_server_is_asked_again_and_an_absent_one_is_named(monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with http_server() as server:
        server.script = [Reply(b"", 503), Reply(b"{}", 429, headers={"Retry-After": "7"}), Reply({"tables": []})]
        with ApiClient(server.url, "k") as client:
            assert client.tables() == []
        assert server.received[0].headers["authorization"] == "Bearer k"
        server.script = [Reply(b"<html>", 500)]
        with (
            ApiClient(server.url, "k") as client,
            pytest.raises(ApiError, match=r"the server returned 500: got '<html>'"),
        ):
            client.tables()
    assert 7 in slept
    absent = ApiClient(f"http://127.0.0.1:{unused_port()}", "k", patience_s=0)
    with absent, pytest.raises(UnavailableError, match=r"does not answer: got .*refused"):
        absent.tables()


def test_a_response_that_breaks_off_is_asked_for_again(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    whole, lost = Reply({"tables": []}), Reply(b"Internal Server Error", 500, headers={"Content-Type": "text/plain"})
    with http_server() as server, ApiClient(server.url, "k") as client:
        server.script = [Reply({"tables": []}, cut_at=5), Reply(closes=True), lost, whole]
        assert client.tables() == []
        assert len(server.received) == 4


def test_rows_are_sent_again_by_the_same_key(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)

    async def write(url):
        async with AsyncApiClient(url, "k") as client:
            return await client.write("orders", [{"id": 1}], "mine")

    with http_server() as server, ApiClient(server.url, "k") as client:
        server.script = [Reply(closes=True), Reply({"rows": 1}, 202), Reply({"rows": 1}, 202), Reply({"rows": 1}, 202)]
        assert [client.write("orders", [{"id": 1}]) for _ in range(2)] == [1, 1]
        assert anyio.run(write, server.url) == 1
        keys = [each.headers["idempotency-key"] for each in server.received]
        assert [each.path for each in server.received] == ["/v1/sources/orders"] * 4
    assert keys[0] == keys[1] != keys[2]
    assert keys[3] == "mine"


def test_the_client_imports_no_server():
    code = "import sys, serve.client; print([m for m in ('ray', 'fastapi', 'duckdb', 'mlflow', 'starlette') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "[]\n"
    assert httpx
