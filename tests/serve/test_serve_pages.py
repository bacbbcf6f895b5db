from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from serve.queries.formats import MEDIA_TYPES


class Links(HTMLParser):
    """Collects the resources that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, _tag, attrs):
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "action", "data"}]


def test_page_loads_no_other_resource(client):
    answer = client.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    links = Links()
    links.feed(answer.text)
    assert links.addresses == []
    assert not re.search(r"https?://|@import|url\(|innerHTML|eval\(", answer.text)
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/docs", "/login"])
def test_pages_run_only_what_they_came_with(client, path):
    answer = client.get(path)
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert not re.search(r"\son[a-z]+=|\sstyle=|javascript:", answer.text), "these would need it"
    for kind, text in re.findall(r"<(script|style)>(.*?)</\1>", answer.text, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert re.search(rf"{kind}-src 'sha256-{re.escape(digest)}'(;|$)", policy)


def test_root_redirects_to_the_page(client):
    answer = client.get("/", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (307, "docs")


def test_openapi_lists_each_table_with_its_columns(client):
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert document["info"]["title"] == "cafe"
    operation = document["paths"]["/v1/tables/cafe_orders"]["get"]
    assert operation["description"].startswith("One row per order.\n\n")
    names = [parameter["name"] for parameter in operation["parameters"]]
    assert names[:3] == ["order_id", "day", "paid_at"]
    words = {"select", "order", "limit", "offset", "cursor", "version", "at", "distinct", "or", "and", "count"}
    assert set(names[8:]) == words
    content = operation["responses"]["200"]["content"]
    row = content["application/json"]["schema"]["properties"]["rows"]["items"]["properties"]
    assert row["paid_at"] == {"type": ["string", "null"], "format": "date-time"}
    assert row["price"] == {"type": ["number", "null"]}
    assert set(content) == set(MEDIA_TYPES)
    assert "/v1/tables/orders" not in document["paths"], "silver"


def test_openapi_is_valid(client):
    document = client.get("/openapi.json").json()
    operations = [o for methods in document["paths"].values() for o in methods.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    summaries = [operation["summary"] for operation in operations]
    assert len(set(summaries)) == len(summaries), "the page lists them"
    for reference in re.findall(r'"\$ref": ?"([^"]+)"', client.get("/openapi.json").text):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]
    for operation in operations:
        for status, answer in operation["responses"].items():
            assert status.isdigit()
            assert answer["description"]


def test_examples_of_filters_are_valid_requests(client):
    operation = client.get("/openapi.json").json()["paths"]["/v1/tables/cafe_orders"]["get"]
    for parameter in operation["parameters"]:
        example = re.search(r"for example `(.+)`", parameter["description"])
        if example:
            answer = client.get("/v1/tables/cafe_orders", params={parameter["name"]: example[1]})
            assert answer.status_code == 200, answer.text


def test_openapi_lists_the_events_of_each_table(client):
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/v1/tables/cafe_orders/events"]["get"]
    assert {each["name"]: each["in"] for each in operation["parameters"]} == {
        "since": "query",
        "wait": "query",
        "Last-Event-ID": "header",
    }
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    found = client.get("/v1/tables/cafe_orders/events")
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert set(found.json()) == set(schema["required"])
    assert client.get("/v1/tables/cafe_orders/events", params={"since": found.json()["version"]}).status_code == 204
    assert "204" in operation["responses"]
