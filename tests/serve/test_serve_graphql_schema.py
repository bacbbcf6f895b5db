"""The schema of GraphQL: valid for any names, one for all that see the same, and bounded in memory."""

from __future__ import annotations

import time

from graphql import build_client_schema, build_schema, get_introspection_query, validate_schema
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import StorageError
from pipeline.core.schema import Schema
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from serve.access.caller import ANONYMOUS
from serve.graphql import schemas as kept_schemas
from serve.graphql.naming import naming_of
from serve.graphql.requests import request_of
from serve.graphql.schemas import Schemas
from serve.graphql.sdl import sdl_of
from serve.graphql.visible import Visible, VisibleTable
from serve.related import Relationship
from tests.rigs.proofs import examples
from tests.serve.graphql_requests import PATH, asked, data, door_of, error

_NAME = st.text(max_size=12) | st.sampled_from(
    [
        "Query",
        "query",
        "String",
        "__type",
        "1a",
        "and",
        "PageInfo",
        "a b",
        "a_b",
        "true",
        "nodes",
        "x" * 300,
        '"',
        "Int",
        "é",
    ]
)
_TYPES = st.sampled_from(
    [
        "BIGINT",
        "VARCHAR",
        "DOUBLE",
        "DECIMAL(10,2)",
        "DATE",
        "BLOB",
        "VARCHAR[]",
        "STRUCT(a INTEGER)",
        "MAP(VARCHAR, BIGINT)",
    ]
)


@st.composite
def _tables(draw):
    tables = []
    for name in draw(st.lists(_NAME, max_size=5, unique=True)):
        columns = draw(st.dictionaries(_NAME, _TYPES, min_size=1, max_size=5))
        key = [next(iter(columns))] if draw(st.booleans()) else []
        tables.append(VisibleTable(name, draw(st.text(max_size=20)), Schema.of(columns), tuple(key), ()))
    names = [each.name for each in tables]
    related = [
        VisibleTable(t.name, t.description, t.schema, t.key, tuple(Relationship(t.schema.names[0], other, (), is_single=single) for other in names[:2] for single in (True, False)))
        for t in tables
    ]  # fmt: skip
    models = draw(st.lists(st.tuples(_NAME, st.text(max_size=9)), max_size=2, unique_by=lambda model: model[0]))
    return Visible(tuple(related), tuple(models))


@given(_tables())
@settings(max_examples=examples(8, 1_000), deadline=None)
def test_any_names_make_a_valid_schema(visible):
    naming = naming_of(visible)
    schema = build_schema(sdl_of(naming))
    assert validate_schema(schema) == []
    for named in naming.tables.values():
        assert len(named.columns) == len(named.table.schema.columns)
        assert set(named.columns) | set(named.relations) == set(schema.type_map[named.type].fields)


def test_the_schema_can_be_read_by_clients(client):
    result = data(client, get_introspection_query())
    assert validate_schema(build_client_schema(result)) == []
    text = client.get(f"{PATH}/schema")
    assert set(build_schema(text.text).type_map) == set(build_client_schema(result).type_map)
    assert client.get(f"{PATH}/schema", headers={"If-None-Match": text.headers["etag"]}).status_code == 304
    assert data(client, '{ __type(name: "Guests") { fields { name description } } }')["__type"]["fields"] == [
        {"name": "guest", "description": "VARCHAR"},
        {"name": "orders", "description": "BIGINT"},
    ]


def test_callers_that_see_the_same_share_a_schema(client):
    data(client, "{ __typename }")  # so that the keys are read
    backend = client.app.state.backend
    schemas = Schemas(backend)
    keys = backend.admission.authenticator.ring._by_digest  # noqa: SLF001 - the callers of the test
    caller = next(iter(keys.values()))[1]
    assert schemas.of(caller, "one") is schemas.of(caller, "other")
    sdl = schemas.of(caller, "one").sdl
    assert "later" not in sdl, "tables that are not computed yet have no columns"


def test_a_new_column_is_in_the_schema_soon_and_not_in_earlier_versions(cafe):
    with cafe.client() as client:
        schemas = door_of(client).schemas
        assert "Cannot query field 'cents'" in error(client, "{ cafe_orders { nodes { cents } } }")
        file = cafe.root / "cafe.py"
        file.write_text(
            file.read_text().replace(
                "price, rating, is_member from", "price, rating, is_member, 100 * price as cents from"
            )
        )
        Runner(cafe.project(), RunOptions(select=("+cafe_orders",), full=True)).run()
        schemas._clock = lambda: time.monotonic() + 60  # noqa: SLF001 - instead of waiting
        for _ in range(100):
            client.app.state.backend.tables._newest.clear()  # noqa: SLF001 - likewise
            found = client.post(PATH, json={"query": "{ cafe_orders(first: 1) { nodes { cents } } }"}).json()
            if "errors" not in found:
                break
            time.sleep(0.05)
        assert found["data"]["cafe_orders"]["nodes"] == [{"cents": "250.00"}]
        problem = "table 'cafe_orders' has no column 'cents' in version 0"
        for selection in (
            "cafe_orders(version: 0) { nodes { cents } }", "cafe_orders(version: 0, where: {cents: {gt: 1}}) { totalCount }",
            "cafe_orders(version: 0, orderBy: [{cents: ASC}]) { nodes { order_id } }", "cafe_orders_groups(version: 0) { nodes { keys { cents } } }",
            "cafe_orders_groups(version: 0) { nodes { sum { cents } } }",
        ):  # fmt: skip
            assert error(client, f"{{ {selection} }}") == problem
        assert "errors" not in asked(client, "{ cafe_orders(version: 0, first: 1) { nodes { order_id } } }")


def test_a_schema_outlives_an_outage_of_the_lake(cafe, monkeypatch):
    document = "{ cafe_orders { nodes { order_id } } }"
    with cafe.client() as client:
        backend = client.app.state.backend
        schemas = door_of(client).schemas
        assert "errors" not in asked(client, document)
        rights, (_, before) = next(iter(schemas._by_rights.items()))  # noqa: SLF001 - what is kept

        def fails(*_):
            raise StorageError("the lake cannot be read", got=str(cafe.root))

        with monkeypatch.context() as patched:
            patched.setattr(backend.tables, "newest", fails)
            caller = next(iter(backend.admission.authenticator.ring._by_digest.values()))[1]  # noqa: SLF001 - the test's
            assert schemas._made(caller, rights) is before  # noqa: SLF001 - as after some seconds
            body = asked(client, document)
            assert body["data"] == {"cafe_orders": None}
            assert body["errors"][0]["message"] == "the lake cannot be read"
        assert "errors" not in asked(client, document)


def test_what_is_kept_in_memory_is_bounded(client, monkeypatch):
    data(client, "{ __typename }")  # so that the keys are read
    backend = client.app.state.backend
    schemas = Schemas(backend)
    caller = next(iter(backend.admission.authenticator.ring._by_digest.values()))[1]  # noqa: SLF001 - the test's
    runner = door_of(client).runner
    api = schemas.of(caller, "one")
    for number in range(40):
        fields = " ".join(f"a{number}_{n}: guest" + " " * 60 for n in range(50))
        runner.checked(api, request_of({"query": f"{{ cafe_orders {{ nodes {{ {fields} }} }} }}"}), caller)
    assert 10 < len(api.documents) < 40
    monkeypatch.setattr(kept_schemas, "_MOST_TYPES", 1)
    assert schemas.of(ANONYMOUS, "anonymous") is not api, "another schema"
    assert [rights for rights in schemas._by_rights] == ["anonymous"]  # noqa: SLF001, C416 - the bound
    assert schemas.of(caller, "one") is not api, "made again"
