from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from deltalake import DeltaTable

from pipeline.kernel.pool import Limits
from tests.serve.conftest import problem_of

ORDERS = "/v1/tables/cafe_orders"


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"gest": "eq.Bo"}, "there is no column 'gest'"),
        ({"select": "gest"}, "there is no column 'gest'"),
        ({"order": "gest.desc"}, "there is no column 'gest'"),
        ({"guest": "is.Bo"}, "guest=is. takes null or not_null"),
        ({"guest": "Bo"}, "the filter on column 'guest' has no operator"),
        ({"guest": "alike.Bo"}, "the filter on column 'guest' has no operator"),
        ({"guest": "eq"}, "the filter on column 'guest' has no operator"),
        ({"guest": "in.Bo"}, "guest=in. takes a list in parentheses"),
        ({"guest": "in.()"}, "guest=in. takes a list in parentheses"),
        ({"guest": 'in.("Bo)'}, "guest=in. takes a list in parentheses"),
        ({"cups": "like.1*"}, "'like' applies to text, and column 'cups' is INTEGER"),
        ({"cups": "gt.many"}, "column 'cups' is INTEGER and takes an integer"),
        ({"cups": "gt.1.5"}, "column 'cups' is INTEGER and takes an integer"),
        ({"cups": "in.(1,x)"}, "column 'cups' is INTEGER and takes an integer"),
        ({"cups": "gt.٣"}, "column 'cups' is INTEGER and takes an integer"),
        ({"cups": "gt.9999999999"}, "column 'cups' is INTEGER and takes a value in the range of its type"),
        ({"price": "eq.1.005"}, "takes a number with at most 2 decimals"),
        ({"price": "eq.123456789.00"}, "column 'price' is DECIMAL(10,2) and takes a value in the range"),
        ({"rating": "gt.nan"}, "column 'rating' is DOUBLE and takes a number"),
        ({"is_member": "eq.yes"}, "takes true or false"),
        ({"day": "eq.2026-01-05T10:00:00"}, "takes a date like 2013-07-01"),
        ({"day": "eq.2026-02-30"}, "column 'day' is DATE and takes a value in the range of its type"),
        ({"paid_at": "eq.2026-01-05T08:00:00 02:00"}, "with a plus sign encoded as %2B"),
        ({"paid_at": "eq.infinity"}, "takes a time like 2013-07-01T12:00:00Z"),
        ({"order": "cups.up"}, "the order of column 'cups' must be asc or desc"),
        ({"order": ""}, "'order' is empty"),
        ({"select": ""}, "'select' is empty"),
        ({"limit": "10001"}, "'limit' takes an integer from 1 to 10000"),
        ({"limit": "0"}, "'limit' takes an integer"),  # the next page would be the same page
        ({"limit": "-1"}, "'limit' takes an integer"),
        ({"limit": "1e3"}, "'limit' takes an integer"),
        ({"limit": "9" * 5000}, "'limit' takes an integer"),
        ({"offset": "all"}, "'offset' takes an integer"),
        ({"version": "newest"}, "'version' takes an integer"),
        ({"at": "then"}, "'at' takes a time like 2026-05-01T12:00:00Z"),
        ({"at": "cafe_orders=0"}, "'at' takes a time like 2026-05-01T12:00:00Z"),
        ({"at": "-2h", "version": "0"}, "'at' and 'version' are both given"),
    ],
)
def test_invalid_parameter_is_reported(refused, parameters, problem):
    assert problem in refused(ORDERS, 400, **parameters)["problem"]


def test_similar_name_is_suggested(refused):
    assert refused(ORDERS, 400, gest="eq.Bo")["do"] == "did you mean 'guest'?"
    assert refused("/v1/tables/cafe_order", 404)["do"] == "did you mean 'cafe_orders'?"


def test_repeated_parameter_is_rejected(refused):
    assert refused(ORDERS, 400, ("limit", "1"), ("limit", "2"))["problem"] == "'limit' is given twice"


def test_values_that_cannot_be_compared_are_rejected(refused):
    assert "which cannot be compared" in refused("/v1/tables/shapes", 400, nested="eq.1")["problem"]
    assert (
        "takes a time without time zone"
        in refused("/v1/tables/shapes", 400, clock="eq.2026-01-05T08:00:00Z")["problem"]
    )


@pytest.mark.parametrize("name", ["nothing", "orders", "raw_orders", "%2e%2e", "quarantine", "caf%C3%A9"])
def test_a_table_that_is_not_served_is_unknown(refused, name):
    assert "there is no table" in refused(f"/v1/tables/{name}", 404)["problem"]


def test_table_that_is_not_computed_yet(refused):
    assert refused("/v1/tables/later", 404)["problem"] == "table 'later' is not computed yet"


def test_version_that_does_not_exist_yet(refused):
    assert refused(ORDERS, 404, version="7")["problem"] == "table 'cafe_orders' has no such version"


@pytest.mark.parametrize(("path", "status"), [("/table", 404), ("/models", 404), ("/v1/models/x/predict", 405)])
def test_unknown_paths_and_methods(refused, path, status):
    assert refused(path, status)["problem"]


def test_unsupported_media_type(client):
    for accept in ("text/html", "image/*", "application/json;q=0", "text/csv;q=much"):
        answer = client.get(ORDERS, headers={"accept": accept})
        assert answer.status_code == 406
        assert answer.json()["detail"] == "the media type is not supported"


def test_long_query_string_is_rejected(refused):
    assert refused(ORDERS, 414, guest="eq." + "x" * 60_000)["problem"] == "the query is longer than 16384 bytes"


def test_slow_query_is_cancelled(cafe):
    cafe.add(
        "many", "".join(f"{n},2026-01-05,2026-01-05T08:00:00Z,{n}{'a' * 400}b,1,1,1,true\n" for n in range(10, 60_000))
    )
    cafe.run()
    conditions = [("guest", "like." + "*a" * count + "*b") for count in range(10, 60)]  # each reads all of every text
    with cafe.client(patience=timedelta(milliseconds=20)) as client:
        answer = client.get(ORDERS, params=[*conditions, ("order", "guest")])
    assert answer.status_code == 503
    assert answer.json()["detail"] == "the request exceeds a limit"
    assert answer.json()["got"] == "more than 0.02 s"


def test_query_beyond_the_memory_limit_is_cancelled(cafe):
    cafe.add(
        "many", "".join(f"{n},2026-01-05,2026-01-05T08:00:00Z,{n}{'é' * 200},1,1,1,true\n" for n in range(10, 60_000))
    )
    cafe.run()
    with cafe.client(limits=Limits(memory_bytes=4 << 20, threads=1)) as client:
        answer = client.get(ORDERS, params={"offset": "50000", "order": "guest"})
        assert answer.status_code == 503
        assert answer.json()["got"] == "more memory than the limit for all requests"
        assert client.get("/v1/tables/cafe_orders?limit=1&order_id=eq.1").status_code == 200, "the next query succeeds"


def test_a_time_before_the_first_version(refused):
    error = refused(ORDERS, 410, at="2001-01-01")
    assert error["problem"] == "table 'cafe_orders' cannot be read as of 2001-01-01T00:00:00+00:00"


def test_version_with_missing_files(cafe):
    with cafe.client() as client:
        first = client.get(f"{ORDERS}?limit=1").json()["next"]
        old = set((cafe.root / ".headwater/lake/gold/cafe_orders").glob("*.parquet"))
        cafe.add("more", "6,2026-01-08,2026-01-08T08:00:00Z,Di,1,2,3,true\n")
        cafe.run()
        for file in old:
            file.unlink()
        shared = "/v1/sharing/shares/cafe/schemas/gold/tables/cafe_orders/query"
        answers = [
            client.get(first),
            client.get(f"{ORDERS}?version=0&limit=all", headers={"Accept": "application/x-ndjson"}),
            client.get(f"{ORDERS}?version=0&limit=all", headers={"Accept": "text/csv"}),
            client.post(shared, json={"version": 0}),
        ]
    problem = "this version of table 'cafe_orders' is no longer available"
    for answer in answers:
        assert (answer.status_code, problem in answer.text) == (410, True), answer.text


def test_version_with_a_missing_log(cafe):
    cafe.add("more", "6,2026-01-08,2026-01-08T08:00:00Z,Di,1,2,3,true\n")
    cafe.run()
    place = cafe.root / ".headwater/lake/gold/cafe_orders"
    DeltaTable(place).create_checkpoint()
    (place / "_delta_log" / f"{0:020}.json").unlink()
    with cafe.client() as client:
        answer = client.get(f"{ORDERS}?version=0")
    assert answer.status_code == 410


def damage(lake: Path) -> None:
    for log in (lake / "gold" / "guests" / "_delta_log").glob("*.json"):
        log.write_text("{")


def test_unreadable_lake(cafe):
    lake = cafe.root / ".headwater" / "lake"
    damage(lake)
    with cafe.client() as client:
        health = client.get("/health")
        table = client.get("/v1/tables/guests")
        listed = client.get("/v1/tables")
        other = client.get("/v1/tables/cups")
        described = client.get("/openapi.json")
    assert (health.status_code, health.json()["status"]) == (503, "down")
    assert health.json()["reasons"][0].startswith("table 'guests' cannot be read: ")
    assert health.json()["tables"]["cups"] == 0
    assert (table.status_code, listed.status_code, other.status_code) == (503, 503, 200)
    assert table.json()["detail"] == "table 'guests' cannot be read"
    assert described.status_code == 200
    assert str(cafe.root) not in health.text + table.text, "no path of this machine is shown"


def test_missing_files_of_the_newest_version(cafe):
    for file in (cafe.root / ".headwater/lake/gold/guests").glob("*.parquet"):
        file.unlink()
    with cafe.client() as client:
        answer = client.get("/v1/tables/guests")
    assert answer.status_code == 503
    assert answer.json()["detail"] == "the table's files cannot be read"
    assert str(cafe.root) not in answer.text


def test_missing_lake(cafe):
    shutil.rmtree(cafe.root / ".headwater")
    with cafe.client() as client:
        answer = client.get("/health")
    assert answer.status_code == 503
    assert answer.json()["reasons"] == ["the lake does not exist: run the project"]


def test_internal_error_reveals_no_details(cafe):
    with cafe.client() as client:
        client.app.state.backend.tables._newest["guests"] = None  # noqa: SLF001 - a cache broken by a simulated bug
        client.app.state.backend.tables._locks.clear()  # noqa: SLF001 - likewise
        answer = client.get("/v1/tables/guests")
    assert answer.status_code == 500
    assert problem_of(answer) == {"problem": "internal error", "got": None, "do": "see the server's log"}
