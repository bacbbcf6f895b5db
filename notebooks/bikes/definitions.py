"""Bikes for rent: trips, what is known about riders and stations, and which trips will take longer than half an hour."""

from ml import (
    LightGBM,
    feature_service,
    feature_view,
    features,
    integers,
    loguniform,
    model,
    monitor,
    on_demand,
    retrain,
    trailing,
    training_set,
    tune,
)
from pipeline import Chart, files, mart, quarantine, source, sql

TRIP = {
    "trip": "varchar",
    "rider": "integer",
    "station": "varchar",
    "bike": "varchar",
    "started_at": "timestamp",
    "km": "double",
    "minutes": "double",
}

raw_trips = source(files("data/trips-*.csv"), schema=TRIP)
stations = source(files("data/stations.csv"), schema={"station": "varchar", "district": "varchar"})

trips = sql(
    """
    -- One row for each trip. A trip of more than 30 minutes costs extra: it is overtime.
    select trip, rider, station, bike, started_at, km, minutes, minutes > 30 as overtime from raw_trips
    """,
    key="trip",
    expect=[quarantine("was_ridden", "minutes > 0")],
)

trips_by_month = mart(
    """
    -- Trips of each month, by district.
    select month(started_at) as month, district, count(*) as trips, avg(minutes) as mean_minutes,
           avg(overtime::int) as overtime_share
    from trips join stations using (station) group by all
    """,
    key=("month", "district"),
    chart=Chart("line", x="month", y="overtime_share", by="district"),
)

rider_history = feature_view(
    """
    -- What was known about a rider after each trip.
    select rider, started_at, count(*) over before_and_this as trips, avg(overtime::int) over before_and_this as overtime_share,
           avg(km / minutes * 60) over before_and_this as mean_speed
    from trips window before_and_this as (partition by rider order by started_at, trip)
    """,
    entity="rider",
    event_time="started_at",
    ttl="90 days",
    online=True,
)

station_days = feature_view(
    """
    -- What was known about a station after each day.
    select station, started_at::date as day, count(*) as departures, avg(km) as mean_km from trips group by all
    """,
    entity="station",
    event_time="day",
    online=True,
)

trip_features = feature_service(
    features(
        "rider_history",
        "trips as rider_trips",
        "overtime_share as rider_overtime",
        "mean_speed as rider_speed",
        strict=True,
    ),
    features("station_days", "departures as station_departures", "mean_km as station_km"),
    on_demand("hour(started_at) as hour", "km / nullif(rider_speed, 0) * 60 as expected_minutes"),
)

trip_examples = training_set(
    "select trip, rider, station, bike, started_at, km, overtime from trips",
    key="trip",
    event_time="started_at",
    features=trip_features,
)

overtime = model(
    "trip_examples",
    LightGBM(rounds=40, num_leaves=15),
    label="overtime",
    holdout="14 days",
    exclude=["rider"],
    at_least=0.7,
    baseline="station",
    min_rows=100,
    retrain=retrain(on="trip_drift"),
    min_gain=0.005,
    description="Whether a trip will take longer than half an hour, when it starts.",
)

overtime_tuned = model(
    "trip_examples",
    LightGBM(rounds=40),
    tuning=tune({"learning_rate": loguniform(0.03, 0.3), "num_leaves": integers(4, 31)}, trials=4),
    label="overtime",
    holdout="14 days",
    exclude=["rider"],
    at_least=0.7,
    baseline="station",
    segments="station",
    calibrate="isotonic",
)

trip_drift = monitor(
    of="trips",
    time="started_at",
    window="7 days",
    reference=trailing("56 days"),
    numerical={"km": "km", "hour": "hour(started_at)"},
    categorical=["station", "bike"],
)

# The same trips as a stream: each file is read as it arrives, and an hour is complete when later trips have come.
arriving_trips = source(
    files("data/trips-*.csv"), schema=TRIP, event_time="started_at", lateness="1 hour", stored=False
)
station_hours = sql(
    """
    -- Departures of each station and hour.
    select tumble(started_at, interval '1 hour') as hour, station, count(*) as departures, avg(minutes) as mean_minutes
    from arriving_trips group by all
    """,
    key=("hour", "station"),
)
