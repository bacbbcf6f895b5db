"""A metric is one number, whoever asks through whatever interface: that of plain SQL over the rows that the caller may see."""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from ml.session.session import Session
from pipeline.core.errors import RequestError
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from serve.client import ApiClient
from serve.flight.server import FlightServer
from tests.rigs.in_process_server import served
from tests.rigs.proofs import SEED, examples
from tests.serve.conftest import Cafe, problem_of
from tests.serve.test_serve_flight import ask, connected

DEFINITIONS = """
from pathlib import Path

from pipeline import access_policy, date_dimension, dimension, fact, files, lookup, mart, metric, source

here = Path(__file__).parent
raw_airlines = source(
    files(here / "airlines.csv"), schema={"code": "varchar", "name": "varchar", "alliance": "varchar", "seen_at": "timestamp"}
)
raw_airports = source(files(here / "airports.csv"), schema={"code": "varchar", "city": "varchar", "owner": "varchar"})
raw_flights = source(
    files(here / "flights.csv"),
    schema={
        "id": "bigint", "airline": "varchar", "origin": "varchar", "dest": "varchar", "at": "timestamp", "late": "integer",
        "fare": "decimal(10,2)", "tail": "varchar", "is_cancelled": "boolean",
    },
)
dim_airline = dimension(
    "select code, name, alliance, seen_at from raw_airlines", key="code", stored_as_scd_type=2, sequence_by="seen_at"
)
dim_airport = dimension("select code, city, owner from raw_airports", key="code")
dim_date = date_dimension("2025-12-01", "2026-12-31", fiscal_year_start=7)
fact_flight = fact(
    "select id, airline, origin, dest, at, at::date as date, late, fare, tail, is_cancelled from raw_flights",
    key="id",
    lookups={
        "airline_key": lookup("dim_airline", {"airline": "code"}, as_of="at", before="first"),
        "origin_key": lookup("dim_airport", {"origin": "code"}),
        "dest_key": lookup("dim_airport", {"dest": "code"}),
        "date_key": lookup("dim_date", "date"),
    },
)
stops = mart("select id, origin, dest from raw_flights where late > 30", key="id")

BY = ["airline", "origin", "dim_airline.alliance", "origin_key.city", "dim_date.is_weekend"]
flights = metric("flights", "count(*)", table="fact_flight", time="at", dimensions=BY)
on_time_rate = metric(
    "on_time_rate", "count(*) filter (where late <= 15) / count(late)", table="fact_flight", time="at", dimensions=BY,
    where="not coalesce(is_cancelled, false)", owner="operations", description="Within 15 minutes.", format="percent",
)
revenue = metric("revenue", "sum(fare)", table="fact_flight", time="at", dimensions=[*BY, "tail"])
mean_delay = metric("mean_delay", "avg(late)", table="fact_flight", time="at", dimensions=BY)
tails = metric("tails", "count(distinct tail)", table="fact_flight", time="at", dimensions=BY)
worst = metric("worst", "max(late) - min(late)", table="fact_flight", time="at", dimensions=BY)
long_stops = metric("long_stops", "count(*)", table="stops", dimensions=["origin", "dest"])

own = access_policy("fact_flight", roles="airline-*", rows="airline = claim('airline')", hide="tail")
vague = access_policy("fact_flight", roles="vague", mask={"late": "0", "fare": "0", "origin": "'***'"})
staff = access_policy("fact_flight", roles="staff")
quiet = access_policy("dim_airport", roles="vague", rows="city <> 'Paris'", hide="owner")
everyone = access_policy("dim_airport")
"""
AIRLINES = """code,name,alliance,seen_at
UA,United,Star,2025-01-01T00:00:00
UA,United,Sky,2026-03-01T00:00:00
AF,Air France,Sky,2025-01-01T00:00:00
AF,Air France,Star,2026-02-01T00:00:00
AF,Air France,One,2026-05-01T00:00:00
"""
AIRPORTS = "code,city,owner\nCDG,Paris,ADP\nORY,Paris,ADP\nJFK,New York,PA\n"
EXPRESSIONS = {
    "flights": "count(*)",
    "on_time_rate": "count(*) filter (where late <= 15) / nullif(count(late), 0)",
    "revenue": "sum(fare)",
    "mean_delay": "sum(late) / nullif(count(late), 0)",
    "tails": "count(distinct tail)",
    "worst": "max(late) - min(late)",
}
COLUMNS = {
    "airline": "f.airline",
    "origin": "f.origin",
    "dim_airline.alliance": "(select a.alliance from dim_airline a where a.airline_key = f.airline_key)",
    "origin_key.city": "(select a.city from dim_airport a where a.airport_key = f.origin_key)",
    "dim_date.is_weekend": "(select d.is_weekend from dim_date d where d.date_key = f.date_key)",
}
PERIODS = {
    **{grain: f"date_trunc('{grain}', f.at)::date" for grain in ("day", "week", "month", "quarter", "year")},
    "fiscal_year": "make_date((year(f.at) - (month(f.at) < 7)::int)::int, 7, 1)",
    "fiscal_quarter": "date_trunc('quarter', f.at)::date",
}


def flights_csv(count: int = 400) -> str:
    drawn = random.Random(7)  # noqa: S311 - the same flights each time
    lines = ["id,airline,origin,dest,at,late,fare,tail,is_cancelled"]
    for number in range(count):
        day = drawn.randrange(200)
        at = f"2026-{1 + day // 28:02}-{1 + day % 28:02}T{drawn.randrange(24):02}:00:00"
        late = drawn.choice(["", "0", "10", "20", "90"])
        airline, origin = drawn.choice(["UA", "AF", "AF", "ZZ"]), drawn.choice(["CDG", "ORY", "JFK", "XXX"])
        tail = drawn.choice(["", "N1", "N2", "N3"])
        cancelled = drawn.choice(["true", "false", "false", ""])
        lines.append(f"{number},{airline},{origin},JFK,{at},{late},{drawn.randrange(9999) / 100},{tail},{cancelled}")
    return "\n".join(lines) + "\n"


def make_airline(root: Path, definitions: str) -> Cafe:
    """A project of flights that was run."""
    (root / "headwater.toml").write_text(
        '[project]\nname = "airline"\ndefinitions = "airline.py"\n'
        "[env.dev.serve]\nrequests_per_second = 10000\nburst = 10000\n"
    )
    (root / "airline.py").write_text(definitions)
    (root / "airlines.csv").write_text(AIRLINES)
    (root / "airports.csv").write_text(AIRPORTS)
    (root / "flights.csv").write_text(flights_csv())
    Runner(Cafe(root).project(), RunOptions()).run()
    return Cafe(root)


@pytest.fixture(scope="module")
def airline(tmp_path_factory) -> Cafe:
    return make_airline(tmp_path_factory.mktemp("airline"), DEFINITIONS)


@pytest.fixture(scope="module")
def staff(airline):
    with airline.client(key=airline.key(roles=["staff"])) as client:
        yield client


@pytest.fixture(scope="module")
def plain(staff) -> duckdb.DuckDBPyConnection:
    """The tables as staff reads them, in a database without any of our code."""
    con = duckdb.connect()
    for name in ("fact_flight", "dim_airline", "dim_airport", "dim_date"):
        answer = staff.get(f"/v1/tables/{name}?limit=all", headers={"Accept": "application/vnd.apache.arrow.stream"})
        con.register("given", _arrow(answer.content))
        con.execute(f"create table {name} as from given")
    return con


def _arrow(content: bytes) -> Any:
    import pyarrow as pa  # noqa: PLC0415 - only here

    return pa.ipc.open_stream(content).read_all()


def body(client, path: str) -> dict[str, Any]:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def rows(client, path: str) -> list[dict[str, Any]]:
    return body(client, path)["rows"]


def comparable(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    def plain_value(value: object) -> object:
        number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
        return f"{float(value):.9g}" if number else str(value)  # type: ignore[arg-type]

    return sorted(tuple(plain_value(value) for value in row.values()) for row in found)


def brute(con, metrics: list[str], dimensions: list[str], grain: str, conditions: list[str]) -> list[dict[str, Any]]:
    """The same question in plain SQL: one group at a time, each column looked up by its own subquery."""
    groups = {name: f"g{number}" for number, name in enumerate([*dimensions, *(["period"] if grain else [])])}
    made = [COLUMNS[name] for name in dimensions] + ([PERIODS[grain]] if grain else [])
    columns = "".join(f", {sql} as {name}" for sql, name in zip(made, groups.values(), strict=True))
    where = f" where {' and '.join(conditions)}" if conditions else ""
    values = [f"{EXPRESSIONS[name]} as {name}" for name in metrics]
    shown = [*(f'{name} as "{title}"' for title, name in groups.items()), *values]
    by = f" group by {', '.join(groups.values())}" if groups else ""
    sql = f"select {', '.join(shown)} from (select f.*{columns} from fact_flight f{where}){by}"
    return con.sql(sql).to_arrow_table().to_pylist()


@pytest.mark.parametrize("number", range(examples(12, 300)))
def test_a_metric_is_the_number_of_plain_sql(staff, plain, number):
    drawn = random.Random(SEED * 1000 + number)  # noqa: S311 - a reproducible question
    metrics = drawn.sample([name for name in EXPRESSIONS if name != "on_time_rate"], drawn.choice([1, 1, 2, 3]))
    if drawn.random() < 0.25:
        metrics = ["on_time_rate"]
    dimensions = drawn.sample(list(COLUMNS), drawn.choice([0, 1, 2, 3]))
    grain = drawn.choice(["", *PERIODS])
    words = [f"metrics={','.join(metrics)}"]
    words += [f"dimensions={','.join(dimensions)}"] if dimensions else []
    words += [f"grain={grain}"] if grain else []
    conditions = []
    if metrics == ["on_time_rate"]:
        conditions.append("not coalesce(is_cancelled, false)")
    if drawn.random() < 0.5:
        words.append("from=2026-02-10")
        conditions.append("f.at >= '2026-02-10'")
    if drawn.random() < 0.5:
        words.append("to=2026-05-03T12:00:00")
        conditions.append("f.at < '2026-05-03 12:00:00'")
    for name, word, value, sql in (
        ("airline", "in.(UA,ZZ)", "", "f.airline in ('UA', 'ZZ')"),
        ("dim_airline.alliance", "neq.Sky", "", f"{COLUMNS['dim_airline.alliance']} <> 'Sky'"),
        ("origin_key.city", "is.null", "", f"{COLUMNS['origin_key.city']} is null"),
        ("dim_date.is_weekend", "eq.true", "", f"{COLUMNS['dim_date.is_weekend']}"),
    ):
        if drawn.random() < 0.25:
            words.append(f"{name}={word}{value}")
            conditions.append(sql)
    asked = f"/v1/metrics?{'&'.join(words)}"
    assert comparable(rows(staff, asked)) == comparable(brute(plain, metrics, dimensions, grain, conditions)), asked


def test_each_flight_counts_once_in_a_dimension_with_history(staff, plain):
    assert plain.sql("select count(*) from dim_airline where code = 'AF'").fetchall() == [(3,)]
    by_alliance = rows(staff, "/v1/metrics/flights?dimensions=dim_airline.alliance")
    assert sum(row["flights"] for row in by_alliance) == 400
    assert {row["dim_airline.alliance"] for row in by_alliance} == {"Star", "Sky", "One", None}


def test_metrics_of_several_tables_are_united_by_their_dimensions(staff):
    found = rows(staff, "/v1/metrics?metrics=flights,long_stops&dimensions=origin")
    stops = {row["origin"]: row["long_stops"] for row in rows(staff, "/v1/metrics/long_stops?dimensions=origin")}
    flights = {row["origin"]: row["flights"] for row in rows(staff, "/v1/metrics/flights?dimensions=origin")}
    assert {row["origin"]: (row["flights"], row["long_stops"]) for row in found} == {
        origin: (flights[origin], stops.get(origin)) for origin in flights
    }
    assert list(rows(staff, "/v1/metrics?metrics=flights,long_stops")[0].values()) == [400, sum(stops.values())]


def test_the_list_says_what_can_be_asked(staff):
    listed = {each["name"]: each for each in body(staff, "/v1/metrics")["metrics"]}
    assert set(listed) == {*EXPRESSIONS, "long_stops"}
    rate = listed["on_time_rate"]
    assert (rate["owner"], rate["format"], rate["table"], rate["time"]) == (
        "operations", "percent", "fact_flight", "at",
    )  # fmt: skip
    assert rate["dimensions"][2:4] == [
        {"name": "dim_airline.alliance", "type": "VARCHAR"},
        {"name": "origin_key.city", "type": "VARCHAR"},
    ]
    assert rate["grains"] == ["day", "week", "month", "quarter", "year", "fiscal_quarter", "fiscal_year"]
    assert listed["long_stops"]["grains"] == []


def test_a_statement_is_described_once_whatever_its_values(staff):
    described = staff.app.state.backend.reading.metrics._described  # noqa: SLF001 - what the engine was asked
    path = "/v1/metrics/worst?dimensions=origin&grain=month&airline=eq."
    first = rows(staff, f"{path}UA")
    asked = described.cache_info().misses
    assert rows(staff, f"{path}AF") != first
    assert described.cache_info().misses == asked


def test_order_and_limit(staff):
    found = body(staff, "/v1/metrics/revenue?dimensions=origin&order=revenue.desc&limit=2")
    assert found["is_truncated"]
    assert found["columns"] == [
        {"name": "origin", "type": "VARCHAR"},
        {"name": "revenue", "type": "DECIMAL(38,2)"},
    ]
    values = [row["revenue"] for row in rows(staff, "/v1/metrics/revenue?dimensions=origin")]
    assert [row["revenue"] for row in found["rows"]] == sorted(values, reverse=True)[:2]
    csv = staff.get("/v1/metrics/flights?dimensions=airline&limit=all", headers={"Accept": "text/csv"})
    assert len(csv.text.splitlines()) == 4


def test_a_metric_of_nothing_is_one_row(staff):
    assert rows(staff, "/v1/metrics?metrics=flights,revenue,mean_delay&airline=eq.none") == [
        {"flights": 0, "revenue": None, "mean_delay": None}
    ]


@pytest.mark.parametrize(
    ("path", "status", "problem"),
    [
        ("/v1/metrics/no_such", 404, "there is no metric 'no_such'"),
        ("/v1/metrics?metrics=flights,no_such", 404, "there is no metric 'no_such'"),
        ("/v1/metrics?grain=day", 400, "no metric is named"),
        ("/v1/metrics?metrics=", 404, "there is no metric ''"),
        ("/v1/metrics?metrics=flights,flights", 400, "a query has up to 20 metrics, each once"),
        ("/v1/metrics/flights?dimensions=tail", 400, "there is no dimension 'tail' that the metric has"),
        ("/v1/metrics?metrics=revenue,flights&dimensions=tail", 400, "that the metrics have in common"),
        ("/v1/metrics/flights?dimensions=origin,origin", 400, "a dimension is named twice"),
        ("/v1/metrics/flights?grain=hour", 400, "metric 'flights' has no grain 'hour'"),
        ("/v1/metrics/flights?grain=day&grain=week", 400, "'grain' is given twice"),
        ("/v1/metrics/flights?grain=", 400, "'grain' is empty"),
        ("/v1/metrics/long_stops?grain=day", 400, "metric 'long_stops' has no grain 'day'"),
        ("/v1/metrics/long_stops?from=2026-01-01", 400, "metric 'long_stops' has no time"),
        ("/v1/metrics/flights?from=yesterday", 400, "column 'from' is TIMESTAMP"),
        ("/v1/metrics/flights?tail=eq.N1", 400, "there is no column 'tail'"),
        ("/v1/metrics/flights?late=eq.1", 400, "there is no column 'late'"),
        ("/v1/metrics/flights?order=origin", 400, "there is no column 'origin'"),
        ("/v1/metrics/flights?origin=match.(", 400, "the regular expression is not valid"),
        ("/v1/metrics/flights?limit=0", 400, "'limit' takes an integer"),
        ("/v1/metrics/flights?limit=all", 400, "'limit' takes all only for a stream"),
    ],
)
def test_what_cannot_be_asked(staff, path, status, problem):
    answer = staff.get(path)
    assert answer.status_code == status, answer.text
    assert problem in str(problem_of(answer)["problem"])


def test_row_policies_hold(airline, staff):
    with airline.client(key=airline.key(roles=["airline-af"], claims={"airline": "AF"})) as client:
        names = [each["name"] for each in body(client, "/v1/metrics")["metrics"]]
        assert "tails" not in names, "it counts a hidden column"
        assert client.get("/v1/metrics/tails").status_code == 404
        revenue = next(each for each in body(client, "/v1/metrics")["metrics"] if each["name"] == "revenue")
        assert "tail" not in {each["name"] for each in revenue["dimensions"]}
        asked = "/v1/metrics?metrics=flights,revenue,on_time_rate&dimensions=origin_key.city&grain=month"
        assert rows(client, asked) == rows(staff, f"{asked}&airline=eq.AF")
        assert rows(client, f"{asked}&airline=eq.UA") == []


def test_masks_and_rows_of_dimensions_hold(airline, staff):
    with airline.client(key=airline.key(roles=["vague"])) as client:
        listed = {each["name"]: each for each in body(client, "/v1/metrics")["metrics"]}
        assert set(listed) == {"flights", "tails", "long_stops"}, "the others would be numbers of masked values"
        assert rows(client, "/v1/metrics/flights?dimensions=origin") == [{"origin": "***", "flights": 400}]
        cities = {
            row["origin_key.city"]: row["flights"]
            for row in rows(client, "/v1/metrics/flights?dimensions=origin_key.city")
        }
        all_cities = {
            row["origin_key.city"]: row["flights"]
            for row in rows(staff, "/v1/metrics/flights?dimensions=origin_key.city")
        }
        assert cities == {"New York": all_cities["New York"], None: all_cities[None] + all_cities["Paris"]}


def test_a_metric_of_a_table_that_does_not_exist_for_the_caller(airline):
    with airline.client(key=airline.key(roles=["nobody"])) as client:
        assert [each["name"] for each in body(client, "/v1/metrics")["metrics"]] == ["long_stops"]
        assert client.get("/v1/metrics/flights").status_code == 404
    with airline.client(key="") as client:
        assert body(client, "/v1/metrics") == {"metrics": []}


def test_responses_are_cached_by_the_versions_of_their_tables(staff):
    asked = "/v1/metrics/flights?dimensions=dim_airline.alliance&limit=77"
    first, _ = staff.get(asked), staff.get(asked)
    assert staff.get(asked).headers["cache-status"] == "headwater; hit"
    unchanged = staff.get(asked, headers={"If-None-Match": first.headers["etag"]})
    assert unchanged.status_code == 304
    assert set(first.json()["versions"]) == {"fact_flight", "dim_airline"}


def selected(client, sql: str) -> Any:
    return client.post("/v1/query", json={"sql": sql})


def test_sql_has_the_same_numbers(staff):
    words = "dimensions=dim_airline.alliance,origin&grain=month&airline=in.(AF,UA)&from=2026-02-10"
    answer = selected(staff, f"select * from metric('flights, on_time_rate', '{words}')")
    assert answer.status_code == 200, answer.text
    asked = f"/v1/metrics?metrics=flights,on_time_rate&{words}"
    assert comparable(answer.json()["rows"]) == comparable(rows(staff, asked))
    assert answer.json()["versions"].keys() == {"fact_flight", "dim_airline"}


def test_metrics_join_tables_and_each_other_in_sql(staff):
    sql = """
        with monthly as (select * from metric('revenue', 'grain=month&origin=eq.CDG'))
        select m.period, m.revenue, f.flights, (select count(*) from stops) as stops
        from monthly m join METRIC('flights', 'grain=month&origin=neq.CDG') as f using (period) order by 1 desc limit 2
    """
    answer = selected(staff, sql)
    assert answer.status_code == 200, answer.text
    revenue = {row["period"]: row["revenue"] for row in rows(staff, "/v1/metrics/revenue?grain=month&origin=eq.CDG")}
    flights = {row["period"]: row["flights"] for row in rows(staff, "/v1/metrics/flights?grain=month&origin=neq.CDG")}
    assert [(row["revenue"], row["flights"]) for row in answer.json()["rows"]] == [
        (revenue[month], flights[month]) for month in sorted(revenue, reverse=True)[:2]
    ]


@pytest.mark.parametrize(
    ("sql", "status", "problem"),
    [
        ("select * from metric('no_such')", 404, "there is no metric 'no_such'"),
        ("select * from metric()", 400, "metric(…) takes the name of a metric"),
        ("select * from metric(origin)", 400, "metric(…) takes the name of a metric"),
        ("select * from metric('flights' || 'x')", 400, "metric(…) takes the name of a metric"),
        ("select * from metric('flights', 'limit=3')", 400, "'limit' is no word of metric(…)"),
        ("select * from metric('flights', 'late=eq.1')", 400, "there is no column 'late'"),
        ("select metric('flights') from stops", 400, "the function 'metric' cannot be used"),
        ("select * from metrics('flights')", 400, "is not the name of a table"),
        ('select * from "~metric0"', 400, "there is no table '~metric0'"),
        ("with \"~metric0\" as (select 1) select * from metric('flights')", 400, "not a plain name"),
        ("select late from metric('flights')", 400, "there is no column 'late'"),
        ("select regexp_matches(origin, origin || '(') from stops", 400, "the query cannot be computed"),
    ],
)
def test_what_cannot_be_asked_in_sql(staff, sql, status, problem):
    answer = selected(staff, sql)
    assert answer.status_code == status, answer.text
    assert problem in str(problem_of(answer)["problem"])


def test_policies_hold_in_sql(airline, staff):
    with airline.client(key=airline.key(roles=["airline-af"], claims={"airline": "AF"})) as client:
        assert selected(client, "select * from metric('tails')").status_code == 404
        mine = selected(client, "select * from metric('revenue', 'dimensions=origin')").json()["rows"]
        assert mine == rows(staff, "/v1/metrics/revenue?dimensions=origin&airline=eq.AF")


def test_notebooks_have_the_same_numbers(airline, staff):
    with Session(airline.project()) as session:
        found = session.metric(
            "flights", "on_time_rate", "long_stops", dimensions="origin", where="origin <> 'JFK'"
        ).arrow()
        assert comparable(found.to_pylist()) == comparable(
            rows(staff, "/v1/metrics?metrics=flights,on_time_rate,long_stops&dimensions=origin&origin=neq.JFK")
        )
        found = session.metric(
            "revenue",
            dimensions=["origin_key.city"],
            grain="fiscal_year",
            where="dim_airline.alliance = 'Sky' or airline = 'ZZ'",
            begin="2026-02-03",
            end="2026-05-05T10:00:00",
        ).arrow()
        words = "dimensions=origin_key.city&grain=fiscal_year&from=2026-02-03&to=2026-05-05T10:00:00"
        condition = "or=(dim_airline.alliance.eq.Sky,airline.eq.ZZ)"
        assert comparable(found.to_pylist()) == comparable(rows(staff, f"/v1/metrics/revenue?{words}&{condition}"))


@pytest.mark.parametrize(
    ("names", "options", "problem"),
    [
        (["no_such"], {}, "there is no metric 'no_such'"),
        ([], {}, "name the metrics, each once"),
        (["flights"], {"dimensions": "late"}, "metric 'flights' has no dimension 'late'"),
        (["flights"], {"grain": "hour"}, "metric 'flights' has no grain 'hour'"),
        (["flights"], {"where": "late > 1"}, "metric 'flights' has no dimension 'late'"),
        (["flights"], {"where": "origin ="}, "where= is not a SQL condition"),
        (["long_stops"], {"begin": "2026-01-01"}, "metric 'long_stops' has no time"),
    ],
)
def test_what_notebooks_cannot_ask(airline, names, options, problem):
    with Session(airline.project()) as session, pytest.raises(RequestError) as caught:
        session.metric(*names, **options)
    assert problem in str(caught.value)


def test_flight_sql_and_the_client_have_the_same_numbers(airline, staff):
    key, words = airline.key(roles=["staff"]), "dimensions=origin&grain=quarter&airline=neq.ZZ"
    expected = comparable(rows(staff, f"/v1/metrics/revenue?{words}"))
    server = FlightServer(staff.app.state.backend, "127.0.0.1", 0)
    try:
        with connected(f"grpc://127.0.0.1:{server.port}", key) as connection:
            found = ask(connection, f"select * from metric('revenue', '{words}')")
    finally:
        server.close()
    assert comparable(found.to_pylist()) == expected
    with served(airline.project()) as url, ApiClient(url, key) as client:
        found = client.metric("revenue", dimensions="origin", grain="quarter", airline="neq.ZZ")
    assert comparable(found.to_pylist()) == expected


def test_the_document_of_endpoints_has_the_metrics_of_the_caller(airline, staff):
    paths = body(staff, "/openapi.json")["paths"]
    words = {each["name"]: each for each in paths["/v1/metrics/on_time_rate"]["get"]["parameters"]}
    assert set(words) == {
        "airline", "origin", "dim_airline.alliance", "origin_key.city", "dim_date.is_weekend",
        "grain", "dimensions", "from", "to", "order", "limit",
    }  # fmt: skip
    assert words["grain"]["schema"]["enum"][-1] == "fiscal_year"
    assert "/v1/metrics" in paths
    with airline.client(key=airline.key(roles=["airline-af"], claims={"airline": "AF"})) as client:
        assert "/v1/metrics/tails" not in body(client, "/openapi.json")["paths"]


def test_a_policy_that_does_not_fit_takes_away_only_the_metrics_of_its_table(tmp_path):
    broken = "wrong = access_policy('fact_flight', roles='wrong', hide='no_such_column')"
    cafe = make_airline(tmp_path, f"{DEFINITIONS}{broken}\n")
    with cafe.client(key=cafe.key(roles=["wrong"])) as client:
        assert [each["name"] for each in body(client, "/v1/metrics")["metrics"]] == ["long_stops"]
        assert client.get("/v1/metrics/flights").status_code == 404
