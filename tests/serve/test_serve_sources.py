"""Rows that callers with a key send: checked, on disk before the response, and once for each idempotency key."""

from __future__ import annotations

import json
import multiprocessing
import time
from itertools import pairwise

import pytest

from pipeline.connectors.spool.record_log import RecordLog
from pipeline.connectors.webhook.source import webhook
from pipeline.connectors.webhook.submissions import Submissions
from pipeline.project.workspace import Workspace
from pipeline.runner.runner import Runner
from tests.serve.conftest import Cafe, problem_of

DEFINITIONS = """
from pipeline import source, webhook

orders = source(
    webhook("shop-orders", keyed=True, metadata=("id",)),
    schema={"id": "bigint", "price": "decimal(10, 2)", "at": "timestamptz", "_id": "varchar"},
)
strict = source(webhook("strict", keyed=True), schema={"id": "bigint"}, new_columns="freeze")
small = source(webhook("small", keyed=True, most_bytes=100), schema={"id": "bigint"})
signed_by_others = source(webhook("others", unsigned=True), schema={"id": "bigint"})
"""


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "shop"\ndefinitions = "shop.py"\n')
    (tmp_path / "shop.py").write_text(DEFINITIONS)
    return Cafe(tmp_path)


@pytest.fixture
def post(shop):
    with shop.client(key=shop.key(scopes=["write"])) as client:

        def send(rows, name="orders", key=None, **headers):
            content = rows if isinstance(rows, bytes) else json.dumps(rows).encode()
            named = {} if key is None else {"Idempotency-Key": key}
            return client.post(f"/v1/sources/{name}", content=content, headers={**named, **headers})

        send.client = client
        yield send


def read(shop, sql):
    project = shop.project()
    Runner(project).run()
    return Workspace(project).query(sql).to_pylist()


def test_rows_are_read_by_the_next_run(shop, post):
    one = post(b'{"id": 1, "price": 12.30, "at": "2026-05-01T12:00:00Z"}')
    assert (one.status_code, one.json()) == (202, {"result": "accepted", "rows": 1})
    several = post(b' [ {"id": 2, "price": 0.10},\n{"id": 3, "price": "7.5", "other": {"a": [1]}} ] ', key='"k-1"')
    assert several.json() == {"result": "accepted", "rows": 2}
    rows = read(shop, "select id, price::varchar as price, _id from orders order by id")
    assert [tuple(row.values()) for row in rows] == [(1, "12.30", None), (2, "0.10", "k-1"), (3, "7.50", "k-1")]


def test_a_repeated_request_is_answered_alike_and_stored_once(shop, post):
    rows = [{"id": 1}, {"id": 2}]
    first, again, bare = post(rows, key='"a b"'), post(rows, key='"a b"'), post(rows, key="a-b")
    assert (first.status_code, first.content) == (again.status_code, again.content) == (202, bare.content)
    changed = post([{"id": 1}, {"id": 3}], key='"a b"')
    assert changed.status_code == 422
    assert problem_of(changed)["problem"] == "this Idempotency-Key was sent with other rows"
    other = {"Authorization": f"Bearer {shop.key(scopes=['write:orders'])}"}
    assert post([{"id": 9}], key='"a b"', **other).status_code == 202, "keys belong to their callers"
    assert [row["id"] for row in read(shop, "select id from orders order by all")] == [1, 1, 2, 2, 9]


def test_keys_are_recognized_after_a_restart(shop):
    key = shop.key(scopes=["write"])
    for expected in ({"id": 1}, {"id": 1}):
        with shop.client(key=key) as client:
            answer = client.post("/v1/sources/orders", json=expected, headers={"Idempotency-Key": "x"})
            assert answer.status_code == 202
    with shop.client(key=key) as client:
        answer = client.post("/v1/sources/orders", json={"id": 2}, headers={"Idempotency-Key": "x"})
        assert answer.status_code == 422
    assert len(read(shop, "select * from orders")) == 1


@pytest.mark.parametrize("kept", range(4))
def test_a_request_that_was_stored_in_part_is_completed(tmp_path, kept):
    """As after a failure of the machine between two records of a request."""
    reader, rows = webhook("w", keyed=True).within(tmp_path), [b'{"id": %d}' % number for number in range(3)]
    Submissions(reader, time.time).store(rows, "key a", "k")
    (segment,) = [path for _, path in reader.partition().segments()]
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:kept]) + lines[-1][:5] * (kept < 3))
    store = Submissions(reader, time.time)
    assert not store.store([*rows, b"{}"], "key a", "k") or kept == 0
    if kept == 0:
        return  # nothing of the first request is left, so the second one is the first
    assert store.store(rows, "key a", "k")
    assert len(RecordLog(segment.parent).records(0, 10)) == 3


def _send(folder, number, ready):
    store = Submissions(webhook("w", keyed=True).within(folder), time.time)
    ready.wait()
    for key in range(20):
        assert store.store([b'{"id": %d}' % key, b'{"more": %d}' % key], "key a", f"k{key}")
    store.store([b'{"own": %d}' % number], "key a", f"own{number}")


def test_processes_that_send_the_same_store_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(3)
    senders = [context.Process(target=_send, args=(tmp_path, number, ready)) for number in range(3)]
    for each in senders:
        each.start()
    for each in senders:
        each.join(60)
        assert each.exitcode == 0
    log = webhook("w", keyed=True).within(tmp_path).partition()
    bodies = [line.partition(b'"body":')[2] for line in log.records(0, 1000)]
    assert len(bodies) == len(set(bodies)) == 43
    positions = {body: number for number, body in enumerate(bodies)}
    for key in range(20):  # the rows of a request stay together
        first, second = (positions[b'{"%s": %d}}' % (name, key)] for name in (b"id", b"more"))
        assert second == first + 1


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        (b"", 400, "the body is not JSON"),
        (b"[]", 400, "the body has no rows"),
        (b"{", 400, "the body is not JSON"),
        (b"\xff", 400, "the body is not JSON"),
        (b'{"id": 1} {"id": 2}', 400, "the body is not JSON"),
        (b'[{"id": 1},]', 400, "the body is not JSON"),
        (b'[{"id": 1}', 400, "the body is not JSON"),
        (b'[{"id": 1}] 1', 400, "the body is not JSON"),
        (b'{"id": NaN}', 400, "the body is not JSON"),
        (b"[" * 100_000, 400, "the body is not JSON"),
        (b"1", 400, "each row must be a JSON object"),
        (b'[{"id": 1}, null]', 400, "each row must be a JSON object"),
        (b'{"id": "x"}', 422, "rows do not fit the source"),
        (b'[{"id": 1}, {"id": 1.5}]', 422, "rows do not fit the source"),
        (b'{"price": 123456789012}', 422, "rows do not fit the source"),
        (b'{"at": "yesterday"}', 422, "rows do not fit the source"),
        (b"[" + b",".join([b'{"id":1}'] * 10_001) + b"]", 413, "a request may have at most 10000 rows"),
    ],
)
def test_what_is_refused_is_not_stored(shop, post, body, status, problem):
    answer = post(body, key="k")
    assert answer.status_code == status, answer.text
    assert problem_of(answer)["problem"] == problem
    assert post({"id": 1}, key="k").status_code == 202, "the key was not used up"
    assert not list((shop.root / ".headwater").rglob("*.ndjson")) or len(_lines(shop)) == 1


def _lines(shop):
    return [line for path in (shop.root / ".headwater").rglob("*.ndjson") for line in path.read_bytes().splitlines()]


def test_the_reason_names_the_row(post):
    answer = post([{"id": 1}, {"id": "x"}])
    assert problem_of(answer)["got"].startswith("row 1: ")
    unknown = post({"id": 1, "other": 2}, name="strict")
    assert unknown.status_code == 422
    assert "other" in unknown.text
    assert post(b'{"id": 1' + b" " * 100 + b"}", name="small").status_code == 413


@pytest.mark.parametrize("key", ["", '""', '"a', 'a"', "ü", "a b", '"' + "x" * 256 + '"', '"a", "b"'])
def test_keys_that_cannot_be_read(post, key):
    answer = post({"id": 1}, key=key.encode("utf-8"))
    assert answer.status_code == 400
    assert problem_of(answer)["problem"] == "the header Idempotency-Key cannot be read"


def test_only_callers_that_may_write_do(shop, post):
    client = post.client
    for scopes in (["read"], ["write:other*"], ["operate", "query", "predict"]):
        headers = {"Authorization": f"Bearer {shop.key(scopes=scopes)}"}
        for name in ("orders", "no_such_source"):
            answer = client.post(f"/v1/sources/{name}", json={"id": 1}, headers=headers)
            assert answer.status_code == 403
    assert client.post("/v1/sources/orders", json={"id": 1}, headers={"Authorization": ""}).status_code == 401
    for name in ("no_such_source", "signed_by_others", "shop-orders"):
        assert post({"id": 1}, name=name).status_code == 404
    assert client.post("/webhooks/shop-orders", json={"id": 1}).status_code == 404, "it needs a key"
    assert client.get("/v1/sources/orders").status_code == 405
    described = client.get("/openapi.json").json()["paths"]
    assert [path for path in described if "sources" in path] == [
        "/v1/sources/orders",
        "/v1/sources/strict",
        "/v1/sources/small",
    ]
    assert _lines(shop) == []


def test_the_examples_of_the_document_are_accepted(post):
    paths = post.client.get("/openapi.json").json()["paths"]
    bodies = {name: paths[f"/v1/sources/{name}"]["post"]["requestBody"] for name in ("orders", "strict")}
    examples = {name: each["content"]["application/json"]["example"] for name, each in bodies.items()}
    assert examples == {"orders": [{"id": 1, "price": 1.5, "at": "2013-07-01T12:00:00Z"}], "strict": [{"id": 1}]}
    assert [post(rows, name=name).status_code for name, rows in examples.items()] == [202, 202]


def test_the_order_of_requests_is_kept(shop, post):
    for number in range(5):
        assert post({"id": number}).status_code == 202
    rows = read(shop, "select id, _position from orders order by _position")
    assert all(a["id"] + 1 == b["id"] for a, b in pairwise(rows))
