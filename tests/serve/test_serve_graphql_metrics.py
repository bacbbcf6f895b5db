"""Metrics in GraphQL: the numbers of the REST interface, for each caller, by the dimensions that are selected."""

from __future__ import annotations

import pytest
from graphql import build_schema, validate_schema
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rigs.proofs import examples
from tests.serve.graphql_requests import PATH, asked, data, error
from tests.serve.test_serve_metrics import airline, staff  # noqa: F401 - fixtures

NAMES = {
    "airline": "airline",
    "origin": "origin",
    "dim_airline.alliance": "dim_airline_alliance",
    "origin_key.city": "origin_key_city",
}
METRICS = ["flights", "on_time_rate", "revenue", "mean_delay", "tails", "worst"]
CONDITIONS = [("", ""), ('origin: {eq: "JFK"}', "origin=eq.JFK"), ('dim_airline_alliance: {neq: "Sky"}', "dim_airline.alliance=neq.Sky"), ("origin_key_city: {isNull: false}", "origin_key.city=not.is.null")]  # fmt: skip


@given(
    metric=st.sampled_from(METRICS),
    dimensions=st.lists(st.sampled_from(sorted(NAMES)), max_size=3, unique=True),
    grain=st.sampled_from(["", "day", "month", "quarter", "fiscal_year"]),
    rows=st.tuples(
        st.sampled_from(CONDITIONS), st.sampled_from([("", ""), ("2026-02-01", ""), ("2026-01-01", "2026-04-01")])
    ),
)
@settings(max_examples=examples(12, 400), deadline=None)
def test_a_metric_is_the_number_of_the_rest_interface(staff, metric, dimensions, grain, rows):  # noqa: F811 - the fixture
    condition, span = rows
    arguments = (
        ["first: 10000"]
        + ([f"grain: {grain}"] if grain else [])
        + ([f"where: {{{condition[0]}}}"] if condition[0] else [])
    )
    arguments += [f'{word}: "{text}"' for word, text in zip(("begin", "end"), span, strict=True) if text]
    by = f"by {{ {' '.join(NAMES[name] for name in dimensions)} }}" if dimensions else ""
    document = (
        f"{{ metric_{metric}({', '.join(arguments)}) {{ rows {{ value period {by} }} isTruncated answeredBy }} }}"
    )
    found = data(staff, document)[f"metric_{metric}"]
    query = [
        condition[1],
        f"dimensions={','.join(dimensions)}" if dimensions else "",
        f"grain={grain}" if grain else "",
    ]
    query += [f"{word}={text}" for word, text in zip(("from", "to"), span, strict=True) if text]
    rest = staff.get(f"/v1/metrics/{metric}?limit=10000&{'&'.join(part for part in query if part)}").json()
    expected = [
        {"value": row[metric], "period": row.get("period")}
        | ({"by": {NAMES[name]: row[name] for name in dimensions}} if dimensions else {})
        for row in rest["rows"]
    ]
    assert found == {"rows": expected, "isTruncated": False, "answeredBy": "fact_flight"}


def test_values_are_ordered_and_cut(staff):  # noqa: F811 - the fixture
    document = "{ metric_revenue(orderBy: [{value: DESC}, {by: {origin: ASC}}], first: 2) { rows { value by { origin } } isTruncated } }"
    found = data(staff, document)["metric_revenue"]
    rest = staff.get("/v1/metrics/revenue?dimensions=origin&order=revenue.desc,origin&limit=2").json()
    assert [each["value"] for each in found["rows"]] == [row["revenue"] for row in rest["rows"]]
    assert found["isTruncated"] is True
    both = data(staff, "{ a: metric_revenue { rows { value } } metric_flights { rows { value __typename } } }")
    assert both["metric_flights"]["rows"][0]["__typename"] == "FlightsMetricRow"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("orderBy: [{by: {airline: ASC}}]", "values are ordered by 'airline', by which they are not"),
        ("orderBy: [{period: ASC}]", "values are ordered by 'period', and there is no grain"),
        ('begin: "soon"', "column 'from' is TIMESTAMP and takes a time without time zone like 2013-07-01T12:00:00"),
        ('where: {origin: {match: "("}}', "the regular expression is not valid"),
        ("first: 0", "'first' takes an integer from 1 to 10000"),
    ],
)  # fmt: skip
def test_invalid_arguments(staff, arguments, problem):  # noqa: F811 - the fixture
    body = asked(staff, f"{{ metric_revenue({arguments}) {{ rows {{ value by {{ origin }} }} }} }}")
    assert (body["data"], body["errors"][0]["message"]) == ({"metric_revenue": None}, problem)


def test_numbers_are_of_the_rows_that_the_caller_may_see(airline):  # noqa: F811 - the fixture
    document = "{ metric_flights { rows { value by { airline } } } }"
    key = airline.key(roles=["airline-af"], claims={"airline": "AF"})
    with airline.client(key=key) as client:
        rows = data(client, document)["metric_flights"]["rows"]
        assert {row["by"]["airline"] for row in rows} == {"AF"}
        assert "Cannot query field 'metric_tails'" in error(client, "{ metric_tails { rows { value } } }")
        assert "Cannot query field 'tail'" in error(client, "{ metric_revenue { rows { by { tail } } } }")
    with airline.client(key=airline.key(roles=["vague"])) as client:
        assert "Cannot query field 'metric_revenue'" in error(client, "{ metric_revenue { rows { value } } }")


def test_the_schema_with_metrics_is_valid(staff):  # noqa: F811 - the fixture
    schema = build_schema(staff.get(f"{PATH}/schema").text)
    assert validate_schema(schema) == []
    assert set(schema.type_map["OnTimeRateMetricBy"].fields) >= set(NAMES.values())
    assert "within 15 minutes" in schema.query_type.fields["metric_on_time_rate"].description.lower()
