"""GraphQL: what is selected comes back in its form, from one statement for each field, and with the rows of every other interface."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from graphql import build_schema, parse, validate
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.schema import Schema
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from serve.graphql import cost, scan
from serve.graphql.scalars import text_of
from tests.rigs.proofs import examples
from tests.serve.conftest import Cafe
from tests.serve.graphql_requests import PATH, asked, data, error

# What is selected


def test_rows_have_the_form_of_the_selection(client):
    document = """
    query Page($n: Int) {
      first: cafe_orders(first: $n, orderBy: [{price: DESC}]) {
        __typename
        nodes { guest order_id id: order_id __typename }
        edges { node { paid_at price } }
        ...More
        ... on CafeOrdersConnection { version @skip(if: true) }
      }
    }
    fragment More on CafeOrdersConnection { totalCount nodes { rating is_member } pageInfo { hasNextPage hasPreviousPage } }
    """
    kit = 'O\'Hara, "Kit"'
    assert data(client, document, n=2) == {
        "first": {
            "__typename": "CafeOrdersConnection",
            "nodes": [
                {
                    "guest": kit,
                    "order_id": "3",
                    "id": "3",
                    "__typename": "CafeOrders",
                    "rating": None,
                    "is_member": True,
                },
                {
                    "guest": "Bo",
                    "order_id": "2",
                    "id": "2",
                    "__typename": "CafeOrders",
                    "rating": None,
                    "is_member": False,
                },
            ],
            "edges": [
                {"node": {"paid_at": "2026-01-06T08:00:00Z", "price": "7.50"}},
                {"node": {"paid_at": "2026-01-05T09:30:00.250000Z", "price": "5.00"}},
            ],
            "totalCount": 5,
            "pageInfo": {"hasNextPage": True, "hasPreviousPage": False},
        }
    }
    order = list(data(client, "{ guests(first: 1) { nodes { orders guest } version } }")["guests"]["nodes"][0])
    assert order == ["orders", "guest"], "the order of the selection"


def test_names_that_differ_in_case_are_different(client):
    rows = data(client, "{ guests(first: 1) { nodes { a: guest A: orders } } }")["guests"]["nodes"]
    assert rows == [{"a": "100%", "A": "1"}]


def test_values_of_every_type_are_those_of_the_rest_interface(client):
    selection = "order_id clock ratings nested scores bytes order group_by_____"
    rows = data(client, f"{{ shapes {{ nodes {{ {selection} }} }} }}")["shapes"]["nodes"]
    theirs = client.get("/v1/tables/shapes").json()["rows"]
    for row in theirs:
        row |= {"group_by_____": row.pop('group by; " é'), "order_id": str(row["order_id"]), "order": str(row["order"])}
    assert rows == theirs


def test_a_row_by_its_key(client):
    assert data(client, '{ guests_by_key(guest: "Ann") { orders } none: guests_by_key(guest: "x") { orders } }') == {
        "guests_by_key": {"orders": "1"},
        "none": None,
    }
    assert "required" in error(client, "{ guests_by_key { orders } }")


def test_groups(client):
    document = """{ cafe_orders_groups(where: {cups: {gte: 1}}, orderBy: [{count: DESC}, {keys: {cups: ASC}}], first: 2) {
      nodes { keys { cups } count sum { price } avg { rating } min { day } max { guest } countDistinct { day } }
      totalCount pageInfo { hasNextPage endCursor } } }"""
    groups = data(client, document)["cafe_orders_groups"]
    assert groups["nodes"] == [
        {
            "keys": {"cups": 1},
            "count": 2,
            "sum": {"price": "5.00"},
            "avg": {"rating": 3.75},
            "min": {"day": "2026-01-05"},
            "max": {"guest": "Žoë 🫖"},
            "countDistinct": {"day": 2},
        },
        {
            "keys": {"cups": 2},
            "count": 1,
            "sum": {"price": "5.00"},
            "avg": {"rating": None},
            "min": {"day": "2026-01-05"},
            "max": {"guest": "Bo"},
            "countDistinct": {"day": 1},
        },
    ]
    assert groups["totalCount"] == 3
    after = groups["pageInfo"]["endCursor"]
    rest = data(client, document.replace("first: 2", f'first: 2, after: "{after}"'))["cafe_orders_groups"]
    assert [each["keys"]["cups"] for each in rest["nodes"]] == [3]
    assert rest["pageInfo"]["hasNextPage"] is False
    whole = data(client, "{ cafe_orders_groups { nodes { count sum { price } } } }")["cafe_orders_groups"]["nodes"]
    assert whole == [{"count": 5, "sum": {"price": "16.45"}}]
    only_keys = data(client, "{ cafe_orders_groups { nodes { keys { cups } } } }")["cafe_orders_groups"]["nodes"]
    assert [each["keys"]["cups"] for each in only_keys] == [1, 2, 3, None]
    assert error(client, "{ cafe_orders_groups(orderBy: [{keys: {cups: ASC}}]) { nodes { count } } }") == (
        "groups are ordered by 'cups', which is not one of their keys"
    )


FILTERS = [
    ("{cups: {eq: 1}}", [1, 4]),
    ("{cups: {eq: 1, neq: 1}}", []),
    ("{cups: {in: [1, 3]}}", [1, 3, 4]),
    ("{cups: {isNull: true}}", [5]),
    ("{cups: {isNull: false, gt: 1}}", [2, 3]),
    ("{cups: {isDistinct: 1}}", [2, 3, 5]),
    ('{or: [{cups: {eq: 2}}, {guest: {like: "A*"}}]}', [1, 2]),
    ("{not: {or: [{cups: {eq: 1}}, {cups: {eq: 3}}]}}", [2]),
    ('{and: [{cups: {gte: 1}}, {or: [{guest: {eq: "Bo"}}, {is_member: {eq: true}}]}]}', [1, 2, 3]),
    ('{guest: {ilike: "BO"}}', [2]),
    ('{guest: {imatch: "^b"}}', [2]),
    ('{guest: {search: "hara kit"}}', [3]),
    ("{price: {gt: 2.50}}", [2, 3]),
    ('{price: {eq: "-1.05"}}', [5]),
    ("{rating: {gte: 3}}", [1, 4]),
    ('{day: {lt: "2026-01-06"}}', [1, 2]),
    ('{paid_at: {gte: "2026-01-06T11:00:00Z"}}', [4, 5]),
    ('{order_id: {in: [1, "2"]}}', [1, 2]),
    ("{}", [1, 2, 3, 4, 5]),
    ("{or: [{}, {cups: {eq: 1}}]}", [1, 2, 3, 4, 5]),
]  # fmt: skip


def test_filters(client):
    for where, expected in FILTERS:
        document = f"{{ cafe_orders(where: {where}) {{ nodes {{ order_id }} totalCount }} }}"
        page = data(client, document)["cafe_orders"]
        assert ([int(row["order_id"]) for row in page["nodes"]], page["totalCount"]) == (expected, len(expected)), where
    lists = data(client, "{ shapes(where: {ratings: {overlaps: [3, 4.5]}}) { nodes { order_id } } }")
    assert [row["order_id"] for row in lists["shapes"]["nodes"]] == ["1", "4"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("where: {cups: null}", "the filter 'cups' is null"),
        ("where: {cups: {eq: null}}", "a value for column 'cups' must not be null"),
        ("where: {cups: {in: []}}", "'in' of column 'cups' has no values"),
        ("where: {cups: {in: null}}", "'in' of column 'cups' is null"),
        ("where: {cups: {isNull: null}}", "'isNull' of column 'cups' is null"),
        ("where: {or: []}", "the filter 'or' has no terms"),
        ("where: {not: {}}", "the filter 'not' has no conditions"),
        ('where: {day: {eq: "yesterday"}}', "column 'day' is DATE and takes a date like 2013-07-01"),
        ("where: {order_id: {eq: 1.5}}", "column 'order_id' is BIGINT and takes an integer"),
        ("where: {order_id: {eq: 99999999999999999999}}", "column 'order_id' is BIGINT and takes a value in the range of its type"),
        ('where: {guest: {match: "("}}', "the regular expression is not valid"),
        ('where: {guest: {eq: "\\u0000"}}', "column 'guest' is VARCHAR and takes a value in the range of its type"),
        ("orderBy: [{cups: ASC, price: ASC}]", "each term of 'orderBy' takes one column and a direction"),
        ("orderBy: [{}]", "each term of 'orderBy' takes one column and a direction"),
        ("first: 0", "'first' takes an integer from 1 to 10000"),
        ("first: 10001", "'first' takes an integer from 1 to 10000"),
        ('after: "x"', "'cursor' is not one of this query"),
        ('after: "bm9wZQ", version: 0', "'cursor' is not one of this query"),
        ("version: 99", "table 'cafe_orders' has no such version"),
        ("version: -1", "'version' takes an integer from 0 to 4611686018427387904"),
        ('at: "soon"', "'at' takes a time like 2026-05-01T12:00:00Z, with a plus sign encoded as %2B, or a duration ago like -2h"),
        ('at: "-1h", version: 0', "'at' and 'version' are both given"),
    ],
)  # fmt: skip
def test_invalid_arguments(client, arguments, problem):
    body = asked(client, f"{{ cafe_orders({arguments}) {{ nodes {{ order_id }} }} guests {{ version }} }}")
    assert [each["message"] for each in body["errors"]] == [problem]
    assert body["errors"][0]["path"] == ["cafe_orders"]
    assert body["data"] == {"cafe_orders": None, "guests": {"version": 0}}, "other fields are returned all the same"


def test_variables_with_values_of_another_kind(client):
    document = "query($w: CafeOrdersFilter) { cafe_orders(where: $w) { nodes { order_id } } }"
    assert data(client, document, w={"price": {"eq": "7.50"}})["cafe_orders"]["nodes"] == [{"order_id": "3"}]
    for wrong in (
        {"price": {"eq": {"a": 1}}},
        {"price": {"eq": True}},
        {"cups": {"eq": "1"}},
        {"nope": {}},
        {"guest": {"eq": 1}},
    ):
        body = asked(client, document, 400, w=wrong)
        assert body["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"
        assert "data" not in body
    raw = b'{"query": "query($g: String!) { guests_by_key(guest: $g) { orders } }", "variables": {"g": "\\ud800"}}'
    answer = client.post(PATH, content=raw, headers={"Content-Type": "application/json"})
    assert answer.json()["errors"][0]["message"] == "a value for column 'guest' is not valid text"


def test_pages_are_the_order_cut_into_pages(client):
    for order in ("[]", "[{rating: ASC}]", "[{cups: DESC_NULLS_FIRST}, {price: ASC}]", "[{paid_at: DESC}]"):
        document = f"query($n: Int, $after: String) {{ cafe_orders(orderBy: {order}, first: $n, after: $after) {{ edges {{ cursor node {{ order_id }} }} pageInfo {{ hasNextPage endCursor }} }} }}"
        whole = [e["node"]["order_id"] for e in data(client, document, n=100)["cafe_orders"]["edges"]]
        for size in (1, 2, 3):
            after, seen = None, []
            while True:
                page = data(client, document, n=size, after=after)["cafe_orders"]
                seen += [edge["node"]["order_id"] for edge in page["edges"]]
                after = page["pageInfo"]["endCursor"]
                assert after == page["edges"][-1]["cursor"]
                if not page["pageInfo"]["hasNextPage"]:
                    break
            assert seen == whole
    first = data(client, "{ cups(first: 2) { edges { cursor } } }")["cups"]["edges"]
    second = f'{{ cups(first: 9, after: "{first[0]["cursor"]}") {{ nodes {{ cups }} }} }}'
    assert len(data(client, second)["cups"]["nodes"]) == 4, "a table without a key"
    other = f'{{ cafe_orders(where: {{cups: {{eq: 1}}}}, after: "{first[0]["cursor"]}") {{ version }} }}'
    assert error(client, other) == "'cursor' is not one of this query"


# Related rows


def test_related_rows_in_both_directions_and_within_each_other(staff):
    document = """{ flights(orderBy: [{id: ASC}]) { nodes {
      id
      from: dim_airport_by_from_key { city }
      to: dim_airport_by_to_key { code __typename home: flights_by_from_key(orderBy: [{late: DESC}], first: 1, where: {late: {lt: 9}}) {
        id to: dim_airport_by_to_key { city } } }
    } } }"""
    nodes = data(staff, document)["flights"]["nodes"]
    jfk = {"code": "JFK", "__typename": "DimAirport", "home": [{"id": "1", "to": {"city": "Los Angeles"}}]}
    assert nodes[0] == {
        "id": "1",
        "from": {"city": "New York"},
        "to": {"code": "LAX", "__typename": "DimAirport", "home": [{"id": "2", "to": {"city": "New York"}}]},
    }
    assert nodes[1] == {"id": "2", "from": {"city": "Los Angeles"}, "to": jfk}
    assert nodes[2] == {"id": "3", "from": {"city": "Secret"}, "to": jfk}


def test_a_field_is_one_statement_whatever_it_selects(staff, monkeypatch):
    engine, statements = staff.app.state.backend.engine, []
    run = engine.rows
    monkeypatch.setattr(engine, "rows", lambda *words: statements.append(words[0].sql) or run(*words))
    data(
        staff,
        "{ flights { nodes { id dim_airport_by_from_key { city flights_by_to_key { late dim_airport_by_to_key { city } } } } } }",
    )
    assert len(statements) == 1
    statements.clear()
    data(staff, "{ a: flights { totalCount nodes { id } } b: dim_airport { edges { node { city } } nodes { code } } }")
    assert len(statements) == 3, "and one more for a count"
    statements.clear()
    data(staff, "{ flights { version } }")
    assert statements == []


def test_related_rows_are_those_that_the_caller_may_read(public, airports):
    nodes = data(public, "{ flights(orderBy: [{id: ASC}]) { nodes { id a: dim_airport_by_from_key { code city } } } }")[
        "flights"
    ]["nodes"]
    assert nodes[2] == {"id": "3", "a": None}
    assert "Cannot query field 'owner'" in error(public, "{ flights { nodes { dim_airport_by_from_key { owner } } } }")
    with airports.client(key=airports.key()) as client:
        assert "Cannot query field 'dim_airport'" in error(client, "{ dim_airport { nodes { code } } }")
        assert "Cannot query field" in error(client, "{ flights { nodes { dim_airport_by_from_key { city } } } }")
        sdl = client.get(f"{PATH}/schema").text
        assert "irport" not in sdl, "a table that the caller may not read leaves no trace"


# The same question over REST

_CONDITIONS = st.sampled_from(
    [
        ("{cups: {eq: 1}}", "cups=eq.1"),
        ("{cups: {isNull: true}}", "cups=is.null"),
        ("{price: {gte: 2.5}}", "price=gte.2.5"),
        ('{guest: {like: "*o*"}}', "guest=like.*o*"),
        ('{guest: {gt: "B"}}', "guest=gt.B"),
        ("{is_member: {eq: true}}", "is_member=eq.true"),
        ('{not: {day: {eq: "2026-01-06"}}}', "day=not.eq.2026-01-06"),
        ("{or: [{cups: {eq: 2}}, {rating: {isNull: true}}]}", "or=(cups.eq.2,rating.is.null)"),
        ("{order_id: {in: [1, 3, 5]}}", "order_id=in.(1,3,5)"),
    ]
)  # fmt: skip
_ORDERS = st.sampled_from(["order_id", "guest", "cups", "price", "rating", "day", "paid_at", "is_member"])
_WAYS = st.sampled_from(
    [("ASC", ""), ("DESC", ".desc"), ("ASC_NULLS_FIRST", ".nullsfirst"), ("DESC_NULLS_FIRST", ".desc.nullsfirst")]
)
_COLUMNS = ["order_id", "day", "paid_at", "guest", "cups", "price", "rating", "is_member"]


@given(
    conditions=st.lists(_CONDITIONS, max_size=3, unique=True),
    order=st.lists(st.tuples(_ORDERS, _WAYS), max_size=3, unique_by=lambda term: term[0]),
    columns=st.lists(st.sampled_from(_COLUMNS), min_size=1, max_size=5, unique=True),
    size=st.integers(1, 6),
)
@settings(max_examples=examples(20, 600), deadline=None)
def test_the_same_question_has_the_same_rows(client, conditions, order, columns, size):
    where = ", ".join(text for text, _ in conditions)
    terms = ", ".join(f"{{{name}: {way}}}" for name, (way, _) in order)
    document = f"{{ cafe_orders(where: {{and: [{where or '{}'}]}}, orderBy: [{terms}], first: {size}) {{ totalCount nodes {{ {' '.join(columns)} }} pageInfo {{ hasNextPage }} }} }}"
    page = data(client, document)["cafe_orders"]
    query = [text for _, text in conditions] + [f"select={','.join(columns)}", f"limit={size}", "count=exact"]
    query += [f"order={','.join(name + way for name, (_, way) in order)}"] if order else []
    rest = client.get(f"/v1/tables/cafe_orders?{'&'.join(query)}").json()
    for row in page["nodes"]:
        row |= {name: float(row[name]) for name in ("order_id", "price") if row.get(name)}
    assert (page["nodes"], page["totalCount"]) == (rest["rows"], rest["count"])
    assert page["pageInfo"]["hasNextPage"] is (rest["next"] is not None)


def test_numbers_keep_their_digits():
    column = Schema.of({"n": "HUGEINT"}).columns[0]
    assert [text_of(column, each) for each in (3.0, 1 << 60, "12.50", True, 1e300)] == [
        "3",
        str(1 << 60),
        "12.50",
        "true",
        "1e+300",
    ]


# The page

_PROJECT = """
from pathlib import Path
from pipeline import dimension, fact, files, lookup, source

here = Path(__file__).parent
raw_airports = source(files(here / "airports.csv"), schema={"code": "varchar", "name": "varchar", "city": "varchar"})
raw_flights = source(files(here / "flights.csv"), schema={
    "flight_id": "bigint", "scheduled_at": "timestamptz", "carrier": "varchar", "tailnum": "varchar", "origin": "varchar", "delay": "integer",
})
dim_airport = dimension("select code, name, city from raw_airports", key="code")
flights = fact("select flight_id, scheduled_at, carrier, tailnum, origin, delay from raw_flights", key="flight_id", lookups={"origin_key": lookup("dim_airport", {"origin": "code"})})
"""
_PAGE = Path(__file__).parents[2] / "docs" / "graphql.md"


def test_the_examples_of_the_page_run(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "flights"\ndefinitions = "flights.py"\n')
    (tmp_path / "flights.py").write_text(_PROJECT)
    (tmp_path / "airports.csv").write_text("code,name,city\nJFK,Kennedy,New York\n")
    rows = [
        "1,2026-01-05T08:00:00Z,UA,N1,JFK,90",
        "2,2026-01-05T09:00:00Z,B6,N2,JFK,5",
        "3,2026-01-05T10:00:00Z,AA,N1,JFK,10",
    ]
    (tmp_path / "flights.csv").write_text(
        "\n".join(["flight_id,scheduled_at,carrier,tailnum,origin,delay", *rows]) + "\n"
    )
    Runner(Cafe(tmp_path).project(), RunOptions()).run()
    query, subscription = re.findall(r"```graphql\n(.*?)```", _PAGE.read_text(), re.DOTALL)
    with Cafe(tmp_path).client() as client:
        found = data(client, query, since="2026-01-01T00:00:00Z")
        assert found["flights"]["totalCount"] == 2
        first = {"flight_id": "1", "delay": 90, "dim_airport_by_origin_key": {"name": "Kennedy", "city": "New York"}}
        assert found["flights"]["edges"][0]["node"] == first
        assert len(found["flights_groups"]["nodes"]) == 3
        schema = build_schema(client.get(f"{PATH}/schema").text)
        assert validate(schema, parse(subscription)) == []


def test_the_page_says_what_the_bounds_are():
    text = _PAGE.read_text()
    bounds = [
        (scan.MOST_DOCUMENT_BYTES, "bytes"), (scan.MOST_TOKENS, "tokens"), (scan.MOST_DEPTH, "brackets within each other"), (scan.MOST_SIBLINGS, "fields in one pair of braces"),
        (scan.MOST_REPEATS, "fields of the same name in one place"), (scan.MOST_ALIASES, "aliases"), (scan.MOST_DIRECTIVES, "directives"), (scan.MOST_FRAGMENTS, "uses of fragments"),
        (scan.MOST_DEFINITIONS, "operations and fragments"), (cost.MOST_VISITED, "fields,"), (cost.MOST_LEVELS, "levels"), (cost.MOST_FIELDS, "fields of `Query`"), (cost.MOST_PAIRS, "pairs of fields with the same name"),
        (cost.MOST_VALUES, "values"),
    ]  # fmt: skip
    for number, what in bounds:
        assert f"{number:,} {what}" in text
