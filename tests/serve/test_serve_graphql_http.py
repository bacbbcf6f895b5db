"""GraphQL over HTTP: entity tags, media types, and requests that are not well-formed."""

from __future__ import annotations

import json
import logging

import pytest

from tests.serve.graphql_requests import ACCEPT, PATH, asked, data


def get(client, document, headers=ACCEPT, **more):
    return client.get(PATH, params={"query": document, **more}, headers=headers)


def test_a_get_has_an_entity_tag_and_is_kept(cafe):
    document = "{ cafe_orders(first: 2) { nodes { order_id } } }"
    with cafe.client() as client:
        first = get(client, document)
        assert get(client, document, ACCEPT | {"If-None-Match": first.headers["etag"]}).status_code == 304
        get(client, document)
        kept = get(client, document)
        assert kept.headers["cache-status"] == "headwater; hit"
        assert (kept.json(), kept.headers["etag"]) == (first.json(), first.headers["etag"])
        assert get(client, document, variables='{"a": 1}').headers["etag"] != first.headers["etag"]
        assert get(client, document, {"Accept": "application/json"}).headers["etag"] != first.headers["etag"]
        failing = get(client, "{ cafe_orders(first: 0) { version } }")
        assert "etag" not in failing.headers
        assert failing.headers["cache-control"] == "no-store"
        cafe.add("more", "6,2026-01-08,2026-01-08T08:00:00Z,Ed,1,1.00,1,true\n")
        cafe.run()
        backend = client.app.state.backend
        backend.tables._newest.clear()  # noqa: SLF001 - instead of waiting for a second
        document = "{ cafe_orders(where: {order_id: {eq: 6}}) { nodes { guest } } }"
        assert get(client, document).json()["data"]["cafe_orders"]["nodes"] == [{"guest": "Ed"}]
        newer = get(client, "{ cafe_orders(first: 2) { nodes { order_id } } }")
        assert "cache-status" not in newer.headers
        assert newer.headers["etag"] != first.headers["etag"]
        old = "{ cafe_orders(version: 0) { version totalCount nodes { order_id } } cafe_orders_groups { version nodes { count } } }"
        both = data(client, old)
        assert (both["cafe_orders"]["totalCount"], both["cafe_orders_groups"]["nodes"]) == (5, [{"count": 6}])


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        ("{", 400, "the body is not JSON"),
        ("[]", 400, "several operations cannot be sent at once"),
        ('[{"query": "{ __typename }"}]', 400, "several operations cannot be sent at once"),
        ("null", 400, "the body is not an object"),
        ("{}", 400, "the request has no document"),
        ('{"query": 1}', 400, "'query' takes a text"),
        ('{"query": "{a}", "variables": []}', 400, "'variables' takes an object"),
        ('{"query": "{a}", "operationName": 1}', 400, "'operationName' takes a text"),
        ('{"query": "{a}", "variables": {"a": NaN}}', 400, "the body is not JSON"),
        ('{"query": "{a}", "variables": {"a": ' + "[" * 40 + "]" * 40 + "}}", 400, "the variables are more than 16 levels deep"),
        ('{"query": "{a}", "variables": {"a": ' + "[" * 9000 + "]" * 9000 + "}}", 400, None),
        ('{"query": "{a}", "variables": {"a": [' + ",".join("1" * 11_000) + "]}}", 413, "the variables have more than 10000 parts"),
        ('{"query": "{a}", "x": "' + "x" * 70_000 + '"}', 413, "the body is longer than 65536 bytes"),
        ('{"query": "\\ud800"}', 400, "the document is not valid text"),
        ('{"documentId": "sha256:00"}', 404, "there is no document 'sha256:00'"),
        ('{"query": "{ __typename", "variables": {}}', 400, "Syntax Error: Expected Name, found <EOF>."),
        ('{"query": "{ __typename } }"}', 400, "Syntax Error: Unexpected '}'."),
        ('{"query": "query A { __typename } query B { __typename }"}', 400, "the document has several operations"),
        ('{"query": "query A { __typename }", "operationName": "B"}', 400, "the document has no operation of this name"),
        ('{"query": "fragment f on Query { __typename }"}', 400, None),
        ('{"query": "subscription { tableChanged(table: guests) { version } }"}', 400, "subscriptions are sent as events"),
        ('{"query": "mutation { a }"}', 400, None),
        ('{"query": "type Query { a: Int }"}', 400, None),
    ],
)  # fmt: skip
def test_requests_that_are_not_well_formed(client, body, status, problem):
    answer = client.post(PATH, content=body, headers={"Content-Type": "application/json", **ACCEPT})
    assert answer.status_code == status, answer.text
    assert "data" not in answer.json()
    assert problem in {None, answer.json()["errors"][0]["message"]}


def test_media_types_and_methods(client):
    body = b'{"query": "{ __typename }"}'
    for content_type in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-16",
        "",
    ):
        answer = client.post(PATH, content=body, headers={"Content-Type": content_type})
        assert (answer.status_code, answer.json()["errors"][0]["extensions"]["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
    good = client.post(PATH, content=body, headers={"Content-Type": "application/json;charset=UTF-8", "Accept": "*/*"})
    assert (good.status_code, good.headers["content-type"]) == (200, "application/json; charset=utf-8")
    assert (
        client.post(PATH, content=body, headers={"Content-Type": "application/json", "Accept": "text/html"}).status_code
        == 406
    )
    assert client.put(PATH, content=body).status_code == 405
    legacy = client.post(PATH, json={"query": "{ nope }"}, headers={"Accept": "application/json"})
    assert (legacy.status_code, "errors" in legacy.json()) == (200, True)
    assert client.get(PATH, params=[("query", "{a}"), ("query", "{b}")]).status_code == 400
    assert client.get(PATH, params={"query": "{ __typename }", "variables": "{"}).status_code == 400
    assert client.get(PATH, params={"query": "#" * 17_000}).status_code == 414
    events = client.post(PATH, json={"query": "{ __typename }"}, headers={"Accept": "text/event-stream"})
    assert events.text == 'event: next\ndata: {"data":{"__typename":"Query"}}\n\nevent: complete\ndata:\n\n'


def test_no_document_and_no_text_of_the_engine_is_logged_or_returned(client, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG, logger="headwater.serve")
    written = "hunter2"
    for document in (
        f'{{ cafe_orders(where: {{guest: {{eq: "{written}"}}}}) {{ nodes {{ order_id }} }} }}',
        f"{{ {written} }}",
        f"{{ {written}",
    ):
        client.post(PATH, json={"query": document})
    assert written not in caplog.text

    def fails(*_):
        raise RuntimeError("engine text")

    monkeypatch.setattr(client.app.state.backend.engine, "rows", fails)
    body = asked(client, "{ cafe_orders { nodes { order_id } } }")
    assert body["errors"][0]["message"] == "internal error"
    assert "engine text" not in json.dumps(body)
    assert written not in caplog.text
