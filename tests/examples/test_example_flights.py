"""The entire flights project: known facts of the data, the star schema, the model, a second run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.project import Workspace, load
from pipeline.reprocessing.quarantine import quarantined_rows
from pipeline.runner import Runner
from pipeline.streaming.runtime.job import catch_up
from pipeline.streaming.runtime.verify import verify

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the project, so that the `.headwater` of a user is not changed."""
    folder = tmp_path_factory.mktemp("examples") / "flights"
    shutil.copytree(ROOT / "examples" / "flights", folder, ignore=shutil.ignore_patterns(".headwater"))
    return folder


@pytest.fixture(scope="module")
def first(folder):
    return {step.name: step for step in Runner(load(folder)).run().steps}


@pytest.fixture(scope="module")
def workspace(folder, first):
    assert first
    return Workspace(load(folder))


@pytest.fixture(scope="module")
def streamed(workspace):
    return catch_up(workspace)


@pytest.mark.proof
def test_departures_and_arrivals_stream(workspace, streamed):
    assert set(streamed.names) == {"departure_delays", "late_twice"}
    [row] = workspace.query(
        "select sum(departures)::bigint as departures, max(worst_delay) as worst, count(*) as hours from departure_delays"
    ).to_pylist()
    assert row["departures"] == 336_776 - 8_255
    assert row["worst"] == 1_301
    assert verify(workspace, "departure_delays").holds
    assert verify(workspace, "late_twice").holds


@pytest.mark.proof
def test_late_twice_matches_equal_a_manual_query(workspace, streamed):
    assert streamed
    [row] = workspace.query(
        """
        select count(*) as matches, count(*) filter (where arr_delay <= 15 or dep_delay <= 15) as not_late,
               count(*) filter (where left_at <= arrived_at or left_at - arrived_at > interval 12 hours) as apart,
               count(*) filter (where exists (
                   from flights f where f.tailnum = t.tailnum and f.dep_delay > 15
                   and f.departed_at > t.arrived_at and f.departed_at < t.left_at)) as not_the_next
        from late_twice t
        """
    ).to_pylist()
    assert row["matches"] > 10_000
    assert (row["not_late"], row["apart"], row["not_the_next"]) == (0, 0, 0)


def test_known_facts_of_the_data(workspace):
    [totals] = workspace.query("from flight_totals").to_pylist()
    assert totals["flights"] == 336_776
    assert totals["without_departure_time"] == 8_255
    assert totals["without_arrival_delay"] == 9_430
    assert totals["mean_departure_delay"] == pytest.approx(12.639, abs=0.0005)
    assert totals["mean_arrival_delay"] == pytest.approx(6.895, abs=0.0005)
    busiest = workspace.query("select carrier, flights from busiest_airlines order by flights desc limit 4").to_pylist()
    assert [tuple(row.values()) for row in busiest] == [("UA", 58_665), ("B6", 54_635), ("EV", 54_173), ("DL", 48_110)]


def test_rows_flow_without_loss(first):
    for step in first.values():
        if step.verdict is None:
            flow = step.flow
            assert flow.rows_made == flow.rows_out + flow.quarantined + flow.dropped, step.name
    assert (
        first["raw_flights"].flow.rows_in
        == first["flights"].flow.rows_out
        == first["fact_flight"].total_rows
        == 336_776
    )


def test_invalid_weather_is_quarantined_with_its_line(workspace, first):
    [row] = quarantined_rows(workspace, "weather").to_pylist()
    assert json.loads(row["row"])["wind_speed"] > 1000
    line = Path(row["_source"]).read_text().splitlines()[row["_position"] - 1]
    assert str(json.loads(row["row"])["wind_speed"])[:6] in line
    assert first["weather"].flow.dropped == 1


def test_times_are_utc_and_consistent_with_delays(workspace):
    [row] = workspace.query(
        """
        select count(*) filter (where departed_at - scheduled_at <> to_minutes(dep_delay)) as departures,
               count(*) filter (where arrived_at is not null
                                and abs(date_diff('minute', departed_at, arrived_at) - air_time) > 400) as flights_too_long,
               min(scheduled_at) as first from flights
        """
    ).to_pylist()
    assert (row["departures"], row["flights_too_long"]) == (0, 0)
    assert row["first"].isoformat() == "2013-01-01T10:15:00+00:00"  # 5:15 in New York


def test_weather_is_the_last_one_observed_before_the_flight(workspace):
    [row] = workspace.query(
        """
        select count(*) as flights,
               count(*) filter (where c.observed_at > c.scheduled_at) as from_the_future,
               count(*) filter (where exists (
                   from weather w where w.origin = f.origin
                   and w.observed_at > c.observed_at and w.observed_at <= c.scheduled_at)) as not_the_last
        from flight_conditions c join flights f using (flight_id)
        """
    ).to_pylist()
    assert tuple(row.values()) == (336_776, 0, 0)


def test_star_schema_is_consistent(workspace):
    [row] = workspace.query(
        """
        select count(*) as facts, count(d.date_key) as dates, count(a.airline_key) as airlines,
               count(p.plane_key) as planes, count(*) filter (where p.plane_key <> 0 and p.operator <> f.carrier) as wrong
        from fact_flight f left join dim_date d using (date_key) left join dim_airline a using (airline_key)
        left join dim_plane p using (plane_key)
        """
    ).to_pylist()
    assert tuple(row.values()) == (336_776, 336_776, 336_776, 336_776, 0)
    [history] = workspace.query(
        """
        select count(*) filter (where versions > 1) as changed_hands,
               count(*) filter (where current <> 1) as without_one_current
        from (select tailnum, count(*) as versions, count(*) filter (where is_current) as current
              from dim_plane where plane_key <> 0 group by tailnum)
        """
    ).to_pylist()
    assert history["changed_hands"] == 17
    assert history["without_one_current"] == 0


@pytest.mark.proof
def test_the_warehouse_has_the_gold_tables(workspace, streamed):
    assert streamed
    gold = {d.name for d in workspace.project.graph.definitions if getattr(d, "layer", "") == "gold"}
    assert set(workspace.warehouse.loaded()) == gold
    with workspace.warehouse.read() as con:
        assert con.sql("select count(*) from fact_flight").fetchall() == [(336_776,)]


def test_the_model_passes_its_gate_and_beats_a_computed_baseline(first):
    verdict = first["flight_delay"].verdict
    assert verdict.accepted, verdict.reason
    assert verdict.metrics["auc"] >= 0.65
    assert verdict.metrics["auc"] > verdict.metrics["baseline_auc"] > 0.5
    assert verdict.metrics["cost"] < verdict.metrics["baseline_cost"]
    regression = first["arrival_delay"].verdict
    assert regression.accepted, regression.reason
    assert regression.metrics["mae"] < 23


def test_every_flight_has_a_prediction(workspace):
    [row] = workspace.query(
        "select count(*) as n, avg(probability) filter (where f.late) as late, avg(probability) filter (where not f.late) as not_late "
        "from late_risk join flight_features f using (flight_id)"
    ).to_pylist()
    assert row["n"] == 336_776
    assert row["late"] > row["not_late"] + 0.1


def test_second_run_has_nothing_to_do(folder, first):
    assert first
    assert {step.decision for step in Runner(load(folder)).run().steps} <= {"skip", "streamed"}


@pytest.mark.usefixtures("first")
def test_the_endpoints_as_the_demo_asks_them(folder):
    """An airline sees its own flights by each interface; the others are read from memory, and until a limit."""
    done = subprocess.run(
        [sys.executable, "endpoints.py"], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    public, airline, hidden, metric, sql, background, flight, again, limit = done.stdout.splitlines()
    assert public == "without a key: on_time_by_carrier, on_time_by_route, on_time_by_hour"
    assert airline == "United sees its flights: 58,665 by REST, 58,665 by GraphQL, 58,665 by OData"
    assert hidden.endswith("there is no column 'tailnum'")
    assert metric == "  its metric on_time_rate: 78.21% by REST, 78.21% by GraphQL"
    assert sql.startswith("an analyst asks in SQL: EV late 16,028 times")
    assert "336,776 flights in order" in background
    assert "336,776 flights" in flight
    assert "from memory" in again
    assert "Too Many Requests" in limit
