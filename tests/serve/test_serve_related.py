"""Rows of related tables come with those that were asked for, and only those that the caller may read."""

from __future__ import annotations

from unittest.mock import patch


def rows(client, path):
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()["rows"]


def test_a_fact_with_the_row_of_its_dimension(staff):
    assert rows(staff, "/v1/tables/flights?select=id,from_key(city),to:to_key(code,city)&order=id.desc") == [
        {"id": 4, "from_key": {"city": "New York"}, "to": {"code": None, "city": None}},
        {"id": 3, "from_key": {"city": "Secret"}, "to": {"code": "JFK", "city": "New York"}},
        {"id": 2, "from_key": {"city": "Los Angeles"}, "to": {"code": "JFK", "city": "New York"}},
        {"id": 1, "from_key": {"city": "New York"}, "to": {"code": "LAX", "city": "Los Angeles"}},
    ]


def test_a_dimension_with_the_rows_of_its_facts(staff):
    found = rows(staff, "/v1/tables/dim_airport?select=code,flights!from_key(id,late)&order=code&code=neq.ZZZ")
    assert {row["code"]: row["flights"] for row in found if row["code"]} == {
        "JFK": [{"id": 1, "late": 5}, {"id": 4, "late": 1}],
        "LAX": [{"id": 2, "late": 0}],
        "XXX": [{"id": 3, "late": 9}],
    }


def test_pages_with_related_rows_keep_their_order(staff):
    path, seen = "/v1/tables/flights?select=id,from_key(city)&order=late.desc&limit=1", []
    while path:
        page = staff.get(path).json()
        seen += [row["id"] for row in page["rows"]]
        path = page["next"]
    assert seen == [3, 1, 4, 2]


def test_related_rows_are_those_that_the_caller_may_read(public):
    found = rows(public, "/v1/tables/flights?select=id,from_key(*)&order=id")
    assert found[2] == {"id": 3, "from_key": None}
    assert "owner" not in found[0]["from_key"]
    answer = public.get("/v1/tables/flights?select=id,from_key(owner)")
    assert (answer.status_code, answer.json()["detail"]) == (400, "there is no column 'owner'")


def test_a_page_of_an_earlier_version_is_kept_until_its_related_rows_change(airports):
    with airports.client(key=airports.key(roles=["staff"])) as client:
        path = "/v1/tables/flights?select=id,from_key(city)&order=id&version=0"
        for _ in range(3):
            answer = client.get(path)
        assert answer.headers["cache-status"] == "headwater; hit"
        assert answer.json()["rows"][0]["from_key"] == {"city": "New York"}
        client.app.state.backend.tables._newest.pop("dim_airport")  # noqa: SLF001 - as if it had a new version
        with patch("serve.tables.identity_of", lambda _: "another"):
            assert "cache-status" not in client.get(path).headers


def test_what_is_ambiguous_or_not_readable_is_an_error(staff, airports):
    answer = staff.get("/v1/tables/flights?select=id,dim_airport(city)")
    assert answer.json()["detail"] == "several columns relate 'flights' to 'dim_airport'"
    assert answer.json()["do"] == "write dim_airport!from_key(…) or dim_airport!to_key(…)"
    with airports.client(key=airports.key()) as client:
        answer = client.get("/v1/tables/flights?select=id,from_key(city)")
        assert answer.json()["detail"] == "no table 'from_key' is related to 'flights'"
        assert answer.json()["do"] == "it has no related tables"
