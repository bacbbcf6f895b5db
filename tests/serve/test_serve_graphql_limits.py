"""Hostile documents are refused before they cost anything, and what is within the bounds is answered."""

from __future__ import annotations

import time

import pytest
from graphql import get_introspection_query

from serve.access.caller import ANONYMOUS
from serve.graphql.execution import DocumentError
from serve.graphql.requests import request_of
from serve.http_errors import HttpError
from tests.serve.graphql_requests import ACCEPT, PATH, door_of

MOST_MS = 10.0
"""The most that a refusal may take, of the time of the processor."""
ROWS = "{ cafe_orders { nodes { order_id } } }"


def doubling(levels):
    """2^levels fields, in fragments that use the next one twice."""
    uses = "".join(
        f"fragment f{n} on CafeOrdersConnection {{ a: nodes {{ ...f{n + 1} }} b: nodes {{ ...f{n + 1} }} }} "
        for n in range(levels)
    )
    return f"{{ cafe_orders {{ ...f0 }} }} {uses}fragment f{levels} on CafeOrders {{ guest }}"


HOSTILE = {
    "depth 400": "{ a" * 400 + " }" * 400,
    "depth 3,000": "{ a" * 3000 + " }" * 3000,
    "depth of lists": "{ cafe_orders(where: " + "[" * 3000 + "]" * 3000 + ") { version } }",
    "depth of filters": "{ cafe_orders(where: " + "{not: " * 400 + "{}" + "}" * 400 + ") { version } }",
    "1,000 aliases": "{" + "".join(f" a{n}: __typename" for n in range(1000)) + " }",
    "100 aliases of a field": "{" + "".join(f" a{n}: guests {{ version }}" for n in range(100)) + " }",
    "40 statements": "{" + "".join(f" a{n}: guests {{ version }}" for n in range(40)) + " }",
    "300 equal siblings": "{ cafe_orders {" + " nodes { guest }" * 300 + " } }",
    "300 equal fields with arguments": "{" + " guests(first: 1) { version }" * 300 + " }",
    "50 equal siblings in fragments": "{ cafe_orders {" + " ... { nodes { guest } }" * 49 + " } }",
    "400 inline fragments, arguments differ": "{"
    + "".join(f" ... {{ guests(first: {n + 1}) {{ version }} }}" for n in range(400))
    + " }",
    "fragments doubling 2^7": doubling(7),
    "fragments doubling 2^20": doubling(20),
    "3,000 directives": "{ __typename" + " @skip(if: false)" * 3000 + " }",
    "1,000 unknown directives": "{ __typename" + " @a" * 1000 + " }",
    "a comment of 2 MB": "#" + "x" * 2_000_000 + "\n" + ROWS,
    "many comments": "#\n" * 9_000 + "{ __typename" * 2,
    "2,000 operations": "".join(f"query q{n} {{ __typename }} " for n in range(2000)),
    "100 operations": "{a}" * 100,
    "2,000 variables": "query(" + "".join(f"$v{n}: Int " for n in range(2000)) + ") { __typename }",
    "4,000 values": "{ cafe_orders(where: {order_id: {in: [" + "1," * 4000 + "]}}) { version } }",
    "text without an end": '{ cafe_orders(after: """' + '\\"""' * 4000 + ") { version } }",
    "many texts": "{" + '""' * 9_000 + "}",
    "brackets that do not fit": "{" * 20 + ")" * 20,
    "a circle of fragments": "{ ...a } fragment a on Query { ...b } fragment b on Query { ...a cafe_orders { ...a } }",
    "fields of fields of the schema": "{ __schema { types { fields { type { fields { type { fields { name } } } } } } } }",
    "the whole schema, 30 times": "{ __schema {"
    + "".join(
        f" t{n}: types {{ fields {{ args {{ type {{ name }} }} type {{ a: name b: name c: name d: name e: name }} }} }}"
        for n in range(9)
    )
    + " } }",
    "rows times rows": "{ a: shapes(first: 10000) { nodes {"
    + " ".join(f"a{n}: order_id" for n in range(45))
    + " } } b: shapes(first: 10000) { nodes { order_id bytes nested clock scores ratings } } }",
    "a name of 19,000 letters": "{ " + "a" * 19_000 + " { b } c { d } " * 300 + " }",
}
"""By what is wrong with it; each is refused."""


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_documents_are_refused_at_once(client, name):
    """Of the processor's time, because tests run beside each other."""
    document = HOSTILE[name]
    client.post(PATH, json={"query": ROWS})
    door = door_of(client)
    times = []
    for _ in range(5):
        begun = time.process_time()
        refused = _refused(door, document)
        times.append((time.process_time() - begun) * 1000)
        assert refused
    answer = client.post(PATH, json={"query": document}, headers=ACCEPT)
    assert answer.status_code in {400, 413}, answer.text[:300]
    assert "data" not in answer.json()
    assert len(answer.content) < 2_000
    assert min(times) < MOST_MS, sorted(times)


def _refused(door, document):
    api = door.schemas.of(ANONYMOUS, next(iter(door.schemas._by_rights)))  # noqa: SLF001 - the one of the client
    try:
        door.runner.checked(api, request_of({"query": document}), ANONYMOUS)
    except (HttpError, DocumentError):
        return True
    return False


ACCEPTED = {
    "a wide table": "{ cafe_orders { nodes {" + "".join(f" a{n}: guest" for n in range(50)) + " } } }",
    "30 inline fragments": "{ cafe_orders { nodes {" + " ... on CafeOrders { guest }" * 30 + " } } }",
    "30 fragments": "{ cafe_orders { nodes {" + "".join(f" ...f{n}" for n in range(30)) + " } } }"
    + "".join(f" fragment f{n} on CafeOrders {{ guest order_id }}" for n in range(20))
    + "".join(f" fragment f{n} on CafeOrders {{ cups }}" for n in range(20, 30)),
    "200 values": "{ cafe_orders(where: {order_id: {in: [" + "1 " * 200 + "]}}) { nodes { guest } } }",
    "all rows of a narrow table": "{ cafe_orders(first: 10000) { nodes { guest order_id cups day } } }",
    "brackets in texts and comments": '{ cafe_orders(where: {guest: {eq: "{{{((("}}) { version } } # }}}',
    "a text in three quotes": '{ cafe_orders(where: {guest: {eq: """a "b" \\""" } {"""}}) { version } }',
    "the standard introspection": get_introspection_query(),
    "the most of introspection": get_introspection_query(specified_by_url=True, directive_is_repeatable=True, schema_description=True, input_value_deprecation=True),
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_applications_send_is_answered(client, name):
    answer = client.post(PATH, json={"query": ACCEPTED[name]}, headers=ACCEPT)
    assert (answer.status_code, "errors" in answer.json()) == (200, False), answer.text[:300]
