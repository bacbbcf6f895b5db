"""Metrics over OData: the numbers of the REST interface, for each caller."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rigs.proofs import examples
from tests.serve.test_serve_access import sent
from tests.serve.test_serve_metrics import airline, staff  # noqa: F401 - fixtures

SET = "/v1/odata/fact_flight"
NAMES = {
    "airline": "airline",
    "origin": "origin",
    "dim_airline.alliance": "dim_airline/alliance",
    "origin_key.city": "origin_key_city",
}
METRICS = ["flights", "on_time_rate", "revenue", "mean_delay", "tails", "worst"]
FILTERS = {
    "": "",
    "origin eq 'JFK'": "origin=eq.JFK",
    "dim_airline_alliance ne 'Sky'": "dim_airline.alliance=isdistinct.Sky",
    "origin_key_city ne null and airline eq 'AF'": "origin_key.city=not.is.null&airline=eq.AF",
}


@given(
    metrics=st.lists(st.sampled_from(METRICS), min_size=1, max_size=3, unique=True),
    dimensions=st.lists(st.sampled_from(sorted(NAMES)), max_size=3, unique=True),
    grain=st.sampled_from(["", "month", "quarter", "fiscal_year"]),
    condition=st.sampled_from(sorted(FILTERS)),
)
@settings(max_examples=examples(15, 400), deadline=None)
def test_metrics_are_the_numbers_of_the_rest_interface(staff, metrics, dimensions, grain, condition):  # noqa: F811 - the fixture
    by = [NAMES[name] for name in dimensions] + ([f"period_{grain}"] if grain else [])
    aggregate = f"aggregate({','.join(metrics)})"
    apply = f"groupby(({','.join(by)}),{aggregate})" if by else aggregate
    apply = f"filter({condition})/{apply}" if condition else apply
    words = [
        f"metrics={','.join(metrics)}",
        f"dimensions={','.join(dimensions)}" if dimensions else "",
        f"grain={grain}" if grain else "",
    ]
    theirs = staff.get(f"/v1/metrics?{'&'.join(each for each in [*words, FILTERS[condition]] if each)}")
    mine = staff.get(SET, params={"$apply": apply})
    assert (mine.status_code, theirs.status_code) == (200, 200), (apply, mine.text, theirs.text)
    renamed = {"period": f"period_{grain}"} | {name: name.replace(".", "_") for name in NAMES}
    expected = [{renamed.get(name, name): value for name, value in row.items()} for row in theirs.json()["rows"]]
    assert mine.json()["value"] == expected, apply


def test_a_client_that_has_the_current_metrics_gets_no_others(staff):  # noqa: F811 - the fixture
    query = f"{SET}?$apply=aggregate(worst)"
    tag = staff.get(query).headers["etag"]
    again = staff.get(query, headers={"If-None-Match": tag})
    assert (again.status_code, again.headers["etag"], "cache-status" in again.headers) == (304, tag, False)


def test_order_pages_and_the_cache(staff):  # noqa: F811 - the fixture
    query = f"{SET}?$apply=groupby((dim_airline_alliance),aggregate(revenue))&$orderby=revenue desc&$top=2"
    found = [staff.get(query) for _ in range(3)]
    values = [row["revenue"] for row in found[0].json()["value"]]
    assert values == sorted(values, reverse=True)
    assert len(values) == 2
    assert found[2].headers["cache-status"] == "headwater; hit"
    assert found[0].json()["@odata.context"].endswith("$metadata#fact_flight(dim_airline_alliance,revenue)")
    assert staff.get(query, headers={"If-None-Match": found[0].headers["etag"]}).status_code == 304


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ("$apply=groupby((airline))", 501, "'$apply' takes metrics by dimensions only"),
        ("$apply=aggregate(fare with sum as total)", 501, "'$apply' aggregates metrics only"),
        ("$apply=aggregate(nope)", 400, "there is no metric 'nope'"),
        ("$apply=aggregate(long_stops)", 400, "there is no metric 'long_stops' of this entity set"),
        ("$apply=groupby((nope),aggregate(revenue))", 400, "there is no dimension 'nope'"),
        ("$apply=groupby((period_decade),aggregate(revenue))", 400, "metric 'revenue' has no grain 'decade'"),
        ("$apply=groupby((period_day,period_month),aggregate(revenue))", 400, "'$apply' groups by one length"),
        ("$apply=groupby((airline,airline),aggregate(revenue))", 400, "a dimension is named twice"),
        ("$apply=groupby((),aggregate(revenue))", 400, "'$apply' names nothing"),
        ("$apply=filter(fare gt 1)/aggregate(revenue)", 400, "there is no property 'fare'"),
        ("$apply=filter(contains(airline,'A'))/aggregate(revenue)", 501, "a filter of metrics compares dimensions"),
        ("$apply=aggregate(revenue)&$skip=1", 400, "'$skip' does not apply here"),
        ("$apply=aggregate(revenue)&$orderby=airline", 400, "there is no property 'airline'"),
    ],
)
def test_what_is_refused(staff, words, status, message):  # noqa: F811 - the fixture
    answer = staff.get(f"{SET}?{words}")
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"].startswith(message)


def test_a_metric_counts_what_the_caller_may_see(airline, staff):  # noqa: F811 - the fixtures
    own = sent(airline.key(roles=["airline-af"], claims={"airline": "AF"}))
    vague = sent(airline.key(roles=["vague"]))
    query = f"{SET}?$apply=groupby((airline),aggregate(flights))"
    every = {row["airline"]: row["flights"] for row in staff.get(query).json()["value"]}
    assert len(every) == 3
    assert staff.get(query, headers=own).json()["value"] == [{"airline": "AF", "flights": every["AF"]}]
    assert staff.get(f"{SET}?$apply=aggregate(tails)", headers=own).status_code == 400, "it reads a hidden column"
    assert staff.get(f"{SET}?$apply=aggregate(revenue)", headers=vague).status_code == 400, "it reads a masked column"
    assert staff.get("/v1/odata/raw_flights?$apply=aggregate(flights)").status_code == 404
