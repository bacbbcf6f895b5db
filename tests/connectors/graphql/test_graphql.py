"""GraphQL against a real executor: connections with nodes and edges, lists, errors beside data, and limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.connectors.graphql import graphql
from pipeline.core.errors import DefinitionError, SourceError
from tests.rigs.graphql_api import NODES, GraphqlServer
from tests.rigs.http_faults import Reply, http_server

EDGES = NODES.replace("nodes { id name }", "edges { node { id name owner { name } tags } }")


@pytest.fixture(scope="module")
def running():
    with http_server() as server:
        yield server


@pytest.fixture
def api(running):
    made = GraphqlServer()
    made.items = [{"id": n, "name": f"n{n}", "tags": ["a"], "owner": None} for n in range(1, 6)]
    running.routes, running.script, running.received = {"/graphql": made.answer}, [], []
    made.server, made.url = running, f"{running.url}/graphql"
    return made


def rows_of(reader, cursor=None) -> list[Any]:
    found = []
    for split in reader.plan(cursor).splits:
        with reader.segments.path(split.source_object.stamp + ".ndjson") as path:
            found += [json.loads(line) for line in Path(path).read_text().splitlines()]
    return found


def test_nodes_of_all_pages(api, tmp_path):
    reader = graphql(api.url, NODES, spool=str(tmp_path))
    assert rows_of(reader) == [{"id": n, "name": f"n{n}"} for n in range(1, 6)]
    assert [received.json["variables"] for received in api.server.received] == [
        {},
        {"after": "after-2"},
        {"after": "after-4"},
    ]


def test_nodes_of_edges(api, tmp_path):
    reader = graphql(api.url, EDGES, spool=str(tmp_path))
    assert rows_of(reader)[-1] == {"id": 5, "name": "n5", "owner": None, "tags": ["a"]}
    assert len(rows_of(reader)) == 5


def test_a_list_without_pages(api, tmp_path):
    reader = graphql(api.url, "{ shop { all { id } } }", rows="$.data.shop.all", spool=str(tmp_path))
    assert rows_of(reader) == [{"id": n} for n in range(1, 6)]


def test_what_is_new(api, tmp_path):
    reader = graphql(api.url, NODES, cursor="id", since="since", start="0", spool=str(tmp_path))
    cursor = reader.plan(None).cursor
    api.items.append({"id": 6, "name": "n6", "tags": [], "owner": None})
    api.server.received.clear()
    assert rows_of(reader, cursor) == [{"id": 6, "name": "n6"}]
    assert api.server.received[0].json["variables"] == {"since": 5}


@pytest.mark.parametrize(
    ("declared", "value", "sent"),
    [
        ("Int!", "5", 5),
        ("Float", "2.5", 2.5),
        ("BigInt", "5", 5),
        ("String", "5", "5"),
        ("Int", "x", "x"),
        ("ID", "5", "5"),
    ],
)
def test_a_variable_has_its_declared_type(api, tmp_path, declared, value, sent):
    api.server.routes["/graphql"] = lambda _: Reply({"data": {"items": {"nodes": []}}})
    query = f"query ($other: Int, $since: {declared}) {{ items(since: $since) {{ nodes {{ id }} }} }}"
    graphql(api.url, query, cursor="id", since="since", start=value, spool=str(tmp_path)).plan(None)
    assert api.server.received[0].json["variables"] == {"since": sent}


def test_errors_beside_data_are_a_failure(api, tmp_path):
    api.items[3]["tags"] = None  # a field that must not be null: the item is null, and there is an error
    with pytest.raises(SourceError, match=r"the query failed: got Cannot return null for non-nullable field Item.tags"):
        rows_of(graphql(api.url, EDGES, spool=str(tmp_path)))
    with pytest.raises(SourceError, match=r"the query failed: got Cannot query field 'price' on type 'Item'"):
        rows_of(graphql(api.url, "{ shop { all { price } } }", spool=str(tmp_path)))
    api.server.script = [Reply({"errors": "down", "data": None})]
    with pytest.raises(SourceError, match="the query failed: got no message"):
        rows_of(graphql(api.url, NODES, spool=str(tmp_path)))
    api.server.script = [Reply({"errors": ["down"]})]
    with pytest.raises(SourceError, match="the query failed: got down"):
        rows_of(graphql(api.url, NODES, spool=str(tmp_path)))


@pytest.mark.parametrize("error", [{"extensions": {"code": "THROTTLED"}}, {"type": "RATE_LIMITED", "message": "wait"}])
def test_a_rate_limit_is_waited_for(api, tmp_path, error):
    api.server.script = [Reply({"errors": [error], "data": None})]
    assert len(rows_of(graphql(api.url, NODES, spool=str(tmp_path)))) == 5


def test_more_pages_without_a_cursor(api, tmp_path):
    page = {"nodes": [{"id": 1}], "pageInfo": {"hasNextPage": True}}
    api.server.routes["/graphql"] = lambda _: Reply({"data": {"items": page}})
    with pytest.raises(
        SourceError, match=r"more pages, but has no cursor: got pageInfo .* query pageInfo \{ hasNextPage endCursor \}"
    ):
        rows_of(graphql(api.url, NODES, spool=str(tmp_path)))


@pytest.mark.parametrize(
    ("data", "got"),
    [
        ({"a": {"nodes": []}, "b": {"c": {"edges": []}}}, r"\$.data.a, \$.data.b.c"),
        ({"a": [1]}, "no object with nodes or edges"),
        (None, "no object with nodes or edges"),
    ],
)
def test_it_is_not_clear_where_the_rows_are(api, tmp_path, data, got):
    api.server.routes["/graphql"] = lambda _: Reply({"data": data})
    with pytest.raises(SourceError, match=f"not clear which part of the response has the rows: got {got}; pass rows="):
        rows_of(graphql(api.url, NODES, spool=str(tmp_path)))


def test_options_that_are_refused():
    with pytest.raises(DefinitionError, match="the query is empty"):
        graphql("https://example.com", " ")
    with pytest.raises(DefinitionError, match="since= requires cursor="):
        graphql("https://example.com", NODES, since="since")
    with pytest.raises(DefinitionError, match="this is not a path of keys"):
        graphql("https://example.com", NODES, rows="$.a[0]")


def test_the_layout_of_a_query_does_not_change_its_rows():
    assert (
        graphql("https://a.example.com", "{ a }").fingerprint == graphql("https://b.example.com", "{\n a }").fingerprint
    )
    assert (
        graphql("https://a.example.com", "{ a }").fingerprint != graphql("https://a.example.com", "{ b }").fingerprint
    )
