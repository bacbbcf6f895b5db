"""Generated documents: each has the response of the reference executor over the same rows, and no document makes the server fail."""

from __future__ import annotations

import json

import pytest
from graphql import GraphQLObjectType, build_schema, execute_sync, get_named_type, parse, validate
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.rigs.proofs import examples
from tests.serve.graphql_requests import ACCEPT, PATH


@pytest.fixture(scope="module")
def sdl(staff):
    return staff.get(f"{PATH}/schema").text


_CONDITIONS = st.sampled_from(["", "", "", " @skip(if: $no)", " @include(if: $no)", " @include(if: true)"])


@st.composite
def selections(draw, schema, kind, depth):
    """Selections of a type: fields with and without aliases, fragments and conditions."""
    parts = []
    fields = [n for n in kind.fields if not n.endswith(("Cursor", "_groups", "_by_key")) and n != "edges"]
    for name in draw(st.lists(st.sampled_from([*fields, "__typename"]), min_size=1, max_size=4)):
        inner = get_named_type(kind.fields[name].type) if name != "__typename" else None
        if isinstance(inner, GraphQLObjectType):
            if depth == 0:
                parts.append("t: __typename")
                continue
            alias = draw(st.sampled_from([f"{name}_x: ", f"{name}_y: "]))
            first = "(first: 2)" if alias.endswith("y: ") and name.startswith("flights_by") else ""
            parts.append(f"{alias}{name}{first}{draw(_CONDITIONS)} {draw(selections(schema, inner, depth - 1))}")
        else:
            parts.append(draw(st.sampled_from(["", f"{name}_z: "])) + name + draw(_CONDITIONS))
    if draw(st.booleans()):
        parts.append(f"... on {kind.name} {draw(selections(schema, kind, 0))}")
    return "{ " + " ".join(parts) + " }"


def rows_of(client):
    """All rows of the project's tables, as texts where GraphQL has texts."""
    found = {}
    for name, texts in (("flights", ("id", "from_key", "to_key")), ("dim_airport", ("airport_key",))):
        found[name] = client.get(f"/v1/tables/{name}").json()["rows"]
        for row in found[name]:
            row |= {each: str(row[each]) for each in texts}
    return found


def resolver(rows):
    """The resolver of all fields: the relations by loops over the rows."""
    page = {"version": 0, "pageInfo": {"hasNextPage": False, "hasPreviousPage": False}}

    def resolve(source, info, **arguments):
        name = info.field_name
        if info.parent_type.name == "Query":
            return {**page, "nodes": rows[name], "totalCount": len(rows[name])}
        table, _, column = name.partition("_by_")
        if table == "dim_airport" and column:
            return next((each for each in rows[table] if each["airport_key"] == source[column]), None)
        if table == "flights" and column:
            return [each for each in rows[table] if each[column] == source["airport_key"]][: arguments["first"]]
        return source[name]

    return resolve


@given(st.data())
@settings(max_examples=examples(25, 1_500), deadline=None)
def test_a_document_has_the_response_of_the_reference_executor(staff, sdl, data):
    schema = build_schema(sdl)
    selection = data.draw(selections(schema, schema.query_type, 4))
    document = f"query{'($no: Boolean = false)' if '$no' in selection else ''} {selection}"
    answer = staff.post(PATH, json={"query": document}, headers=ACCEPT)
    body = answer.json()
    event(f"status {answer.status_code}")
    if answer.status_code == 400:
        is_bound = "more than" in body["errors"][0]["message"]
        assert is_bound or validate(schema, parse(document)), body
        return
    result = execute_sync(schema, parse(document), field_resolver=resolver(rows_of(staff)))
    assert result.errors is None
    assert "errors" not in body, body
    assert json.dumps(body["data"]) == json.dumps(result.data), document
