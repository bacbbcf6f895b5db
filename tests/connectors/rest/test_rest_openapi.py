"""Descriptions of APIs: where the rows are, how pages are followed, and the types."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.connectors.rest import BodyCursor, LinkHeader, Offset, PageNumber, openapi
from pipeline.connectors.rest.source import RestApi
from pipeline.core.errors import DefinitionError
from tests.rigs.http_faults import Reply, http_server

SHOP = """
openapi: 3.1.0
servers:
  - url: "https://{region}.example.com/v1"
    variables: {region: {default: eu}}
paths:
  /shops/{shop}/orders:
    parameters:
      - {name: shop, in: path, required: true, schema: {type: string}}
    get:
      operationId: listOrders
      parameters:
        - {name: cursor, in: query, schema: {type: string}}
        - {name: state, in: query, required: true, schema: {type: string}}
        - {name: X-Trace, in: header, schema: {type: string}}
        - $ref: '#/components/parameters/Limit'
      responses:
        200:
          content:
            application/json:
              schema:
                type: object
                properties:
                  warnings: {type: array, items: {type: string}}
                  data: {type: array, items: {$ref: '#/components/schemas/Order'}}
                  next_cursor: {type: string}
    post: {operationId: createOrder}
  /pages:
    get:
      parameters: [{name: page, in: query, schema: {type: integer, default: 0}}]
      responses: {200: {content: {application/json: {schema: {type: array, items: {type: object, properties: {id: {type: integer}}}}}}}}
  /offsets:
    get:
      parameters: [{name: offset, in: query}]
      responses: {default: {description: nothing}}
components:
  parameters: {Limit: {name: limit, in: query, required: true, schema: {type: integer, default: 20}}}
  schemas:
    Order:
      type: object
      properties:
        id: {type: integer}
        at: {type: string, format: date-time}
        lines: {type: array, items: {type: object, properties: {sku: {type: string}, price: {type: number}}}}
        parent: {$ref: '#/components/schemas/Order'}
"""


def description(folder, text: str = SHOP, url: str | None = None):
    path = folder / "shop.yaml"
    path.write_text(text)
    return openapi(path, url=url)


def test_an_operation_is_a_reader(tmp_path):
    shop = description(tmp_path)
    reader = shop.rest("listOrders", params={"shop": "a/b", "state": "open"}, cursor="at", since="updated")
    assert reader.url == "https://eu.example.com/v1/shops/a%2Fb/orders"
    assert reader.params == {"state": "open"}
    assert reader.rows == "$['data']"
    assert reader.pages == BodyCursor("$.next_cursor", "cursor")
    assert reader.column.name == "at"
    assert shop.rest("/pages").pages == PageNumber("page", begin=0)
    assert shop.rest("/pages").rows == "$"
    assert shop.rest("/offsets").pages == Offset("offset", limit=None)
    assert shop.rest("/offsets").rows is None
    assert shop.rest("/pages", pages=LinkHeader(), rows="$.x").pages == LinkHeader()


def test_types_of_the_rows(tmp_path):
    shop = description(tmp_path)
    columns = dict(shop.schema("listOrders"))
    assert columns.pop("parent").startswith('STRUCT("id" BIGINT')
    assert columns == {"id": "BIGINT", "at": "TIMESTAMPTZ", "lines": 'STRUCT("sku" VARCHAR, "price" DOUBLE)[]'}
    assert shop.schema("/pages") == {"id": "BIGINT"}
    with pytest.raises(DefinitionError, match="the rows of '/offsets' are not described; pass schema="):
        shop.schema("/offsets")


def test_the_address_can_be_another_one(tmp_path):
    assert description(tmp_path, url="https://test.example.com").server() == "https://test.example.com"
    relative = SHOP.replace("https://{region}.example.com/v1", "/api/v2")
    assert description(tmp_path, relative, url="https://test.example.com").server() == "https://test.example.com/api/v2"
    with pytest.raises(DefinitionError, match=r"the description has no address of the API: got '/api/v2'; pass url="):
        description(tmp_path, relative).server()


def test_swagger_2(tmp_path):
    document = {
        "swagger": "2.0",
        "host": "api.example.com",
        "basePath": "/v1",
        "paths": {
            "/a": {"get": {"responses": {"200": {"schema": {"type": "array", "items": {"$ref": "#/definitions/A"}}}}}}
        },
        "definitions": {"A": {"type": "object", "properties": {"id": {"type": "integer"}}}},
    }
    old = description(tmp_path, json.dumps(document))
    assert old.rest("/a").url == "https://api.example.com/v1/a"
    assert old.schema("/a") == {"id": "BIGINT"}


def test_what_is_refused(tmp_path):
    shop = description(tmp_path)
    with pytest.raises(DefinitionError, match=r"the API has no GET operation 'listOrder'; did you mean 'listOrders'\?"):
        shop.rest("listOrder")
    with pytest.raises(DefinitionError, match="the API has no GET operation 'createOrder'"):
        shop.rest("createOrder")
    with pytest.raises(DefinitionError, match=r"has no parameter 'status'; did you mean 'state'\?"):
        shop.rest("listOrders", params={"status": "open"})
    with pytest.raises(DefinitionError, match="requires the parameter 'shop'; pass params="):
        shop.rest("listOrders", params={"state": "open"})
    with pytest.raises(DefinitionError, match=r"the description of the API cannot be read: got .*No such file"):
        openapi(tmp_path / "none.yaml")
    for text, problem in (
        ("[1", "not valid YAML"),
        ("{1", "not valid JSON"),
        ("a: 1", "not a description by OpenAPI: got no paths"),
    ):
        with pytest.raises(DefinitionError, match=problem):
            description(tmp_path, text)


def test_a_description_that_is_too_large(tmp_path):
    large = tmp_path / "large.yaml"
    large.touch()
    with large.open("r+b") as file:
        file.truncate((32 << 20) + 1)
    with pytest.raises(
        DefinitionError, match="the description of the API is too large: got more than 33,554,432 bytes"
    ):
        openapi(large)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["get", "responses", "200", "parameters", "schema", "$ref"]), inner)
    ),
    max_leaves=15,
)


@given(paths=st.dictionaries(st.text(max_size=3), JSON, max_size=3))
def test_garbage_has_no_operations_or_readable_ones(tmp_path_factory, paths):
    found = description(tmp_path_factory.mktemp("garbage"), json.dumps({"paths": paths}), url="https://example.com")
    for name in found.operations:
        with suppress(DefinitionError):
            assert isinstance(found.rest(name), RestApi)
            found.schema(name)


def test_a_described_operation_is_read(tmp_path):
    orders: list[Any] = [{"id": 1, "at": "2026-03-01T00:00:00Z", "lines": [], "parent": None}]
    with http_server() as server:
        server.routes["/shops/7/orders"] = lambda _: Reply({"data": orders, "next_cursor": None})
        shop = description(tmp_path, url=server.url)
        reader = shop.rest("listOrders", params={"shop": 7, "state": "open"}, spool=str(tmp_path / "spool"))
        plan = reader.plan(None)
    assert plan.new == "1 new row"
