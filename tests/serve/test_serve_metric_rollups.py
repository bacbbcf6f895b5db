"""Metrics are answered from marts that group their table: with equal numbers, and only while these are certain."""

from __future__ import annotations

import random
import shutil
from itertools import count

import pytest

from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from tests.rigs.proofs import SEED, examples
from tests.serve.conftest import Cafe
from tests.serve.test_serve_metrics import DEFINITIONS, body, comparable, flights_csv, make_airline, rows

MARTS = """
flights_by_day = mart(
    '''
    select f.airline, f.origin, a.alliance, f.is_cancelled, date_trunc('day', f.at)::date as day,
           count(*) as flights, COUNT(late) as known, count(*) filter (where late <= 15) as punctual,
           sum(f.late) as late, sum(fare) as fare, min(late) as least, max( late ) as most
    from fact_flight f join dim_airline as a using (airline_key) group by all
    '''
)
flights_by_month = mart(
    "select date_trunc('month', at) as month, count(*) as flights, sum(fare) as fare from fact_flight group by 1 order by 1"
)
big_months = mart("select date_trunc('month', at) as month, count(*) as flights from fact_flight group by 1 having count(*) > 60")
doubled = mart("select origin, unnest([1, 2]) as n, count(*) as flights from fact_flight group by origin")
by_rollup = mart("select origin, count(*) as flights from fact_flight group by rollup (origin)")
by_origin = mart("select origin, count(*) as flights, sum(fare::double) as fares from fact_flight group by origin")
moments = mart("select id, at::timestamptz as moment, date as day from fact_flight", key="id")
moments_by_month = mart("select date_trunc('month', moment) as month, count(*) as n from moments group by 1")
moments_by_day = mart("select day, count(*) as n from moments group by day", key="day")
by_moment = metric("by_moment", "count(*)", table="moments", time="moment")
by_date = metric("by_date", "count(*)", table="moments", time="day")
fares = metric("fares", "sum(fare::double)", table="fact_flight", dimensions="origin")
"""
DIMENSIONS = ["airline", "origin", "dim_airline.alliance"]


@pytest.fixture(scope="module")
def airline(tmp_path_factory) -> Cafe:
    return make_airline(tmp_path_factory.mktemp("airline"), DEFINITIONS + MARTS)


@pytest.fixture(scope="module")
def staff(airline):
    with airline.client(key=airline.key(roles=["staff"])) as client:
        yield client


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The same project without marts."""
    cafe = make_airline(tmp_path_factory.mktemp("plain"), DEFINITIONS)
    with cafe.client(key=cafe.key(roles=["staff"])) as client:
        yield client


@pytest.mark.parametrize(
    ("asked", "answered_by"),
    [
        ("flights?dimensions=airline&grain=day", "flights_by_day"),
        ("flights?grain=month", "flights_by_month"),
        ("flights?grain=fiscal_year", "flights_by_day"),
        ("flights?grain=quarter&from=2026-02-01&to=2026-05-01", "flights_by_month"),
        ("flights?grain=quarter&from=2026-02-03", "flights_by_day"),
        ("flights?grain=quarter&from=2026-02-03T01:00:00", "fact_flight"),
        ("flights", "by_origin"),
        ("flights?dimensions=origin", "by_origin"),
        ("flights?dimensions=dim_airline.alliance&grain=week&airline=eq.AF", "flights_by_day"),
        ("flights?dimensions=origin_key.city", "fact_flight"),
        ("on_time_rate?dimensions=airline", "flights_by_day"),
        ("mean_delay?grain=year", "flights_by_day"),
        ("worst?dimensions=origin", "flights_by_day"),
        ("revenue?dimensions=airline&grain=month", "flights_by_day"),
        ("revenue?dimensions=tail", "fact_flight"),
        ("tails?dimensions=airline", "fact_flight"),
        ("fares?dimensions=origin", "fact_flight"),
    ],
)
def test_the_mart_that_answers(staff, plain, asked, answered_by):
    name = asked.partition("?")[0]
    if name == "fares":  # sums of floating-point numbers depend on their order
        assert body(staff, f"/v1/metrics/{asked}")["answered_by"] == {name: answered_by}
        return
    found, expected = body(staff, f"/v1/metrics/{asked}"), body(plain, f"/v1/metrics/{asked}")
    assert found["answered_by"] == {name: answered_by}
    assert expected["answered_by"] == {name: "fact_flight"}
    assert comparable(found["rows"]) == comparable(expected["rows"])
    assert found["columns"] == expected["columns"]
    assert answered_by in found["versions"]


def test_the_mart_is_what_is_read(tmp_path):
    cafe = make_airline(tmp_path, DEFINITIONS + MARTS)
    with cafe.client(key=cafe.key(roles=["staff"])) as client:
        expected = rows(client, "/v1/metrics/flights?dimensions=airline")
        files = list((tmp_path / ".headwater" / "lake" / "gold" / "fact_flight").rglob("*.parquet"))
        assert files
        for file in files:
            file.unlink()
        assert rows(client, "/v1/metrics/flights?dimensions=airline,origin") != []
        assert rows(client, "/v1/metrics/flights?dimensions=airline&limit=9") == expected
        assert client.get("/v1/metrics/flights?dimensions=origin_key.city").status_code == 503


@pytest.mark.parametrize("number", range(examples(10, 200)))
def test_numbers_are_those_without_marts(staff, plain, number):
    drawn = random.Random(SEED * 7919 + number)  # noqa: S311 - a reproducible question
    metrics = drawn.sample(["flights", "on_time_rate", "revenue", "mean_delay", "worst"], drawn.choice([1, 2, 3]))
    dimensions = drawn.sample(DIMENSIONS, drawn.choice([0, 1, 2]))
    words = [f"metrics={','.join(metrics)}"] + ([f"dimensions={','.join(dimensions)}"] if dimensions else [])
    words += drawn.choice([[], ["grain=day"], ["grain=week"], ["grain=quarter"], ["grain=fiscal_quarter"]])
    words += drawn.choice([[], ["from=2026-03-02"], ["to=2026-04-01"], ["from=2026-02-01", "to=2026-06-15"]])
    words += drawn.choice([[], ["origin=in.(CDG,XXX)"], ["dim_airline.alliance=neq.Sky"], ["airline=eq.none"]])
    asked = f"/v1/metrics?{'&'.join(words)}"
    found = body(staff, asked)
    assert "fact_flight" not in found["answered_by"].values()
    assert comparable(found["rows"]) == comparable(rows(plain, asked)), asked


def test_row_policies_and_masks_read_the_table(airline, staff):
    asked = "/v1/metrics/flights?dimensions=airline"
    with airline.client(key=airline.key(roles=["airline-af"], claims={"airline": "AF"})) as client:
        assert body(client, asked)["answered_by"] == {"flights": "fact_flight"}
        assert rows(client, asked) == rows(staff, f"{asked}&airline=eq.AF")
    with airline.client(key=airline.key(roles=["vague"])) as client:
        assert body(client, "/v1/metrics/flights?dimensions=origin")["answered_by"] == {"flights": "fact_flight"}
        assert body(client, asked)["answered_by"] == {"flights": "flights_by_day"}


def test_a_mart_that_is_behind_its_table_or_its_definition_is_not_read(tmp_path):
    cafe, asked, numbers = (
        make_airline(tmp_path, DEFINITIONS + MARTS),
        "/v1/metrics/flights?dimensions=airline",
        count(1),
    )

    def answer() -> tuple[str, int]:
        with cafe.client(key=cafe.key(roles=["staff"])) as client:
            found = body(client, f"{asked}&limit={next(numbers)}00")
            return found["answered_by"]["flights"], sum(row["flights"] for row in found["rows"])

    assert answer() == ("flights_by_day", 400)
    (tmp_path / "flights.csv").write_text(flights_csv(410))
    Runner(cafe.project(), RunOptions(select=("+fact_flight",))).run()
    assert answer() == ("fact_flight", 410)
    Runner(cafe.project(), RunOptions()).run()
    assert answer() == ("flights_by_day", 410)
    changed = MARTS.replace("count(*) as flights, COUNT", "2 * count(*) as twice, count(*) as flights, COUNT")
    (tmp_path / "airline.py").write_text(DEFINITIONS + changed)
    assert answer() == ("fact_flight", 410)
    dropping = MARTS.replace(
        "group by all\n    '''\n", "group by all\n    ''',\n    expect=[drop('known', 'airline <> $$ZZ$$')]\n"
    )
    (tmp_path / "airline.py").write_text(
        DEFINITIONS.replace("date_dimension, dim", "date_dimension, drop, dim") + dropping
    )
    Runner(cafe.project(), RunOptions()).run()
    assert answer() == ("fact_flight", 410)
    shutil.rmtree(tmp_path / ".headwater" / "lake" / "gold" / "flights_by_day")
    assert answer() == ("fact_flight", 410)


@pytest.mark.parametrize(
    ("asked", "answered_by", "same"),
    [
        ("by_moment?grain=year&from=2026-02-01T01:00:00%2B01:00", "moments_by_month", "grain=year&from=2026-02-01"),
        ("by_moment?grain=month&to=2026-04-01", "moments_by_month", "grain=month&to=2026-04-01"),
        ("by_moment?grain=month&to=2026-04-01T00:00:00%2B01:00", "moments", "grain=month&to=2026-03-31T23:00:00"),
        ("by_moment?grain=day", "moments", "grain=day"),
        ("by_moment?grain=fiscal_year", "moments", "grain=fiscal_year"),
        (
            "by_date?grain=week&from=2026-02-03&to=2026-03-05",
            "moments_by_day",
            "grain=week&from=2026-02-03&to=2026-03-05",
        ),
        ("by_date?grain=fiscal_quarter", "moments_by_day", "grain=fiscal_quarter"),
        ("by_date?from=2026-02-03", "moments_by_day", "from=2026-02-03"),
    ],
)
def test_times_of_each_type(staff, plain, asked, answered_by, same):
    found = body(staff, f"/v1/metrics/{asked}")
    assert list(found["answered_by"].values()) == [answered_by]
    assert comparable(found["rows"]) == comparable(rows(plain, f"/v1/metrics/flights?{same}"))
