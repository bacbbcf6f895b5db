"""The same question over REST, in SQL over HTTP, by Flight SQL and in PostgreSQL's protocol has equal rows, for each caller.

GraphQL and OData are compared with REST in test_serve_graphql.py and test_serve_odata.py.
"""

from __future__ import annotations

import adbc_driver_flightsql.dbapi as flight_sql
import psycopg
import pytest
from adbc_driver_flightsql import DatabaseOptions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.flight.server import FlightServer
from serve.postgres.server import PostgresEndpoint
from tests.rigs.proofs import examples
from tests.serve.test_serve_access import ROWS, make, sent

COLUMNS = ["id", "region", "email", "amount"]
VALUES = {"id": st.integers(0, 7), "amount": st.sampled_from([1.0, 7.5, 10.0, 30.0]), "region": st.sampled_from(["EU", "US", ""]), "email": st.sampled_from(["a***", "ann@example.com", "f"])}  # fmt: skip
OPERATORS = {"eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return make(tmp_path_factory.mktemp("shop"), ROWS)


@pytest.fixture(scope="module")
def client(shop):
    with shop.client(key="") as client:
        yield client


@pytest.fixture(scope="module")
def callers(shop, client):
    """Each caller's key, and its connections by Flight SQL and in PostgreSQL's protocol."""
    backend = client.app.state.backend
    flight, postgres = FlightServer(backend, "127.0.0.1", 0), PostgresEndpoint(backend, "127.0.0.1", 0)
    keys = [
        shop.key(scopes=["read", "query"], roles=["sales-eu"], claims={"region": "EU"}),
        shop.key(scopes=["read", "query"], roles=["audit"]),
    ]
    opened = []
    for key in keys:
        options = {DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {key}"}
        arrow = flight_sql.connect(f"grpc://127.0.0.1:{flight.port}", db_kwargs=options, autocommit=True)
        rows = psycopg.connect(
            host="127.0.0.1", port=postgres.port, user="me", password=key, dbname="shop", autocommit=True
        )
        opened.append((key, arrow, rows))
    yield opened
    for _, arrow, rows in opened:
        arrow.close()
        rows.close()
    flight.close()
    postgres.close()


@st.composite
def questions(draw):
    """The same question as parameters of REST and as SQL."""
    terms = []
    for column in draw(st.lists(st.sampled_from(COLUMNS), max_size=3)):
        word, value = draw(st.sampled_from(sorted(OPERATORS))), draw(VALUES[column])
        literal = f"'{value}'" if isinstance(value, str) else str(value)
        terms.append(((column, f"{word}.{value}"), f"{column} {OPERATORS[word]} {literal}"))
    columns = draw(st.lists(st.sampled_from(COLUMNS), min_size=1, unique=True))
    order = draw(
        st.lists(st.tuples(st.sampled_from(COLUMNS), st.booleans()), max_size=2, unique_by=lambda term: term[0])
    )
    size = draw(st.integers(1, 7))
    ways = [(name, "desc" if is_down else "asc") for name, is_down in order if name != "id"]
    rest = [each for each, _ in terms] + [("select", ",".join(columns)), ("limit", str(size))]
    rest.append(("order", ",".join([*(f"{name}.{way}.nullslast" for name, way in ways), "id"])))
    where = " and ".join(text for _, text in terms) or "true"
    by = ", ".join([*(f"{name} {way} nulls last" for name, way in ways), "id"])
    return rest, f"select {', '.join(columns)} from orders where {where} order by {by} limit {size}"


@given(questions())
@settings(max_examples=examples(25, 1_000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_same_question_has_equal_rows(client, callers, question):
    rest, sql = question
    for key, arrow, postgres in callers:
        expected = client.get("/v1/tables/orders", params=rest, headers=sent(key)).json()["rows"]
        over_http = client.post("/v1/query", json={"sql": sql}, headers=sent(key)).json()["rows"]
        with arrow.cursor() as cursor:
            cursor.execute(sql)
            by_flight = cursor.fetch_arrow_table().to_pylist()
        cursor = postgres.execute(sql)
        names = [each.name for each in cursor.description]
        in_postgres = [dict(zip(names, row, strict=True)) for row in cursor]
        assert expected == over_http == by_flight == in_postgres, sql
