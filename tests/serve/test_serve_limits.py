"""What requests cost, the limits of endpoints, and quotas of a day."""

from __future__ import annotations

import re

import pytest

from pipeline.core.serve_settings import ROUTES, RouteLimits, ServeSettings
from serve import create_app
from serve.access import request_limits
from serve.access.caller import ANONYMOUS, Caller
from serve.access.rate_limits import DAY_S, Charge, Limit, RateLimits
from serve.access.request_limits import RequestLimits, further, route_of
from tests.serve.conftest import open_cafe

SETTINGS = """\
requests_per_second = 0.01
burst = 50
[env.dev.serve.routes.query]
cost = 5
requests_per_second = 0.001
burst = 2
[env.dev.serve.quotas]
"partner-*" = 14
"""


class Clock:
    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    cafe = open_cafe(tmp_path_factory.mktemp("limited"))
    file = cafe.root / "headwater.toml"
    text = file.read_text()
    file.write_text(text[: text.index("requests_per_second")] + SETTINGS)
    return cafe


def states(answer):
    """What is left of each limit, by its name."""
    return {name: int(left) for name, left in re.findall(r'"(\w+)";r=(\d+);t=\d+', answer.headers["ratelimit"])}


def query(client):
    return client.post("/v1/query", json={"sql": "select 1 as one"})


def test_requests_cost_what_their_endpoint_costs(limited):
    with limited.client() as client:
        assert states(client.get("/v1/tables/guests")) == {"requests": 49}
        assert states(query(client)) == {"requests": 44, "query": 1}
        assert states(query(client)) == {"requests": 39, "query": 0}
        refused = query(client)
        assert refused.status_code == 429
        assert states(refused) == {"requests": 39, "query": 0}, "nothing is taken"
        assert 900 <= int(refused.headers["retry-after"]) <= 1000
        assert client.get("/v1/tables/guests").status_code == 200, "other endpoints answer"


def test_a_quota_is_that_of_a_role(limited):
    key = limited.key(roles=["staff", "partner-eu"])
    with limited.client(key=key) as client:
        assert states(client.get("/v1/tables/guests")) == {"requests": 49, "day": 13}
        assert states(query(client))["day"] == 8
        assert states(query(client))["day"] == 3
        for left in (2, 1, 0):
            assert states(client.get("/v1/tables/guests"))["day"] == left
        refused = client.get("/v1/tables/guests")
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= DAY_S
    with limited.client() as client:
        assert client.get("/v1/tables/guests").status_code == 200, "other callers have no quota"


def test_rows_and_fields_are_charged_to_what_follows(limited, monkeypatch):
    monkeypatch.setattr(request_limits, "PAGE_ROWS", 2)
    with limited.client() as client:
        export = client.get("/v1/tables/cafe_orders?limit=all", headers={"Accept": "text/csv"})
        assert states(export) == {"requests": 49}
        assert states(client.get("/v1/tables/guests?limit=1")) == {"requests": 46}, "5 rows are 3 pages of 2"
        fields = "{ a: guests(first: 1) { nodes { guest } } b: guests(first: 1) { nodes { orders } } }"
        answer = client.post("/v1/graphql", json={"query": fields})
        assert (answer.status_code, states(answer)) == (200, {"requests": 45})
        assert states(client.get("/v1/tables/guests?limit=1")) == {"requests": 43}
        assert client.get("/v1/tables/guests?limit=x").status_code == 400
        assert states(client.get("/v1/tables/guests?limit=1")) == {"requests": 41}, "errors cost 1"


def test_a_debt_is_paid_by_time():
    clock = Clock()
    limits, limit = RateLimits(clock), Limit("requests", "key a", 10, 2.0)
    assert limits.take([Charge(limit, 1)]).is_granted
    limits.charge([Charge(limit, 29)])
    refused = limits.take([Charge(limit, 1)])
    assert (refused.is_granted, refused.retry_after_s) == (False, 10.5), "20 missing, and the one"
    clock.now = 10.4
    assert not limits.take([Charge(limit, 1)]).is_granted
    clock.now = 10.5
    assert limits.take([Charge(limit, 1)]).is_granted


def test_a_request_takes_from_all_of_its_limits_or_from_none():
    limits = RateLimits(Clock(), Clock(1_000.0))
    many, few = Limit("requests", "key a", 10, 1.0), Limit("query", "key a", 1, 1.0)
    assert limits.take([Charge(many, 3), Charge(few, 1, is_cost=False)]).is_granted
    for _ in range(3):
        refused = limits.take([Charge(many, 3), Charge(few, 1, is_cost=False)])
        assert not refused.is_granted
        assert [each.remaining for each in refused.states] == [7, 0]
    assert limits.take([Charge(many, 7)]).is_granted


def test_a_quota_is_new_at_midnight_of_utc():
    clock = Clock(3 * DAY_S - 2.0)
    limits, quota = RateLimits(Clock(), clock), Limit("day", "key a", 3)
    assert [limits.take([Charge(quota, 2)]).is_granted for _ in range(2)] == [True, False]
    limits.charge([Charge(quota, 5)])
    assert limits.take([Charge(quota, 1)]).retry_after_s == 2.0
    clock.now = 3 * DAY_S
    assert limits.take([Charge(quota, 3)]).is_granted, "debts end with the day"
    assert not limits.take([Charge(quota, 1)]).is_granted


def test_who_has_which_limits():
    settings = ServeSettings(
        burst=9, routes={"query": RouteLimits(4), "models": RouteLimits(1, 2.0, 3)}, quotas={"a-*": 5, "*": 7}
    )
    limits = RequestLimits(settings)
    requests = Limit("requests", "key k", 9, 100.0)
    caller = Caller("k", "key")
    assert limits.charges(caller, "::1", "tables") == (Charge(requests, 1), Charge(Limit("day", "key k", 7), 1))
    charges = limits.charges(Caller("k", "key", roles=frozenset(["b", "a-1"])), "::1", "query")
    assert charges == (Charge(requests, 4), Charge(Limit("day", "key k", 5), 4))
    own = Charge(Limit("models", "address ::1", 3, 2.0), 1, is_cost=False)
    assert limits.charges(ANONYMOUS, "::1", "models") == (Charge(Limit("requests", "address ::1", 9, 10.0), 1), own)
    assert further(charges, 10_000) == ()
    assert [each.amount for each in further(charges, 10_001)] == [1, 1]
    assert [each.amount for each in further((*charges, own), 30_000, 2)] == [4, 4], "an endpoint counts requests"


def test_all_endpoints_can_have_limits(limited):
    found = {route_of(route.path) for route in create_app(limited.project()).routes} - {""}
    assert found | {"flight", "postgres"} <= set(ROUTES)
    assert (route_of("/v1/tables/a/query"), route_of("/health"), route_of("/v1")) == ("tables", "", "")
