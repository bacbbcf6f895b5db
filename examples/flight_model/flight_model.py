"""A model of late flights that is served, watched, trained again, and replaced in steps.

`live.py` lives through some months of 2013 with it: it writes the files, asks for predictions, and runs the project.
"""

from __future__ import annotations

from ml import LightGBM, experiment, model, outcome_metric, performance, prediction_log, retrain, rollout, training_set
from pipeline import files, source, sql

flights = source(
    files("flights/*.csv"),
    schema={
        "flight_id": "varchar",
        "scheduled_at": "timestamptz",
        "carrier": "varchar",
        "origin": "varchar",
        "dest": "varchar",
        "distance": "integer",
        "hour": "integer",
        "weekday": "integer",
        "temp": "double",
        "humid": "double",
        "precip": "double",
        "visib": "double",
        "late": "boolean",
    },
    key="flight_id",
    description="Flights that have arrived, with the weather at the scheduled departure.",
)

# The model learns from the last ninety days. It is trained again when its predictions get worse, and a new version takes over
# in steps: its squared error may not be 5 % greater than that of the version before.

recent_flights = training_set(
    """
    select flight_id, scheduled_at, carrier, origin, dest, distance, hour, weekday, temp, humid, precip, visib, late
    from flights where scheduled_at > (select max(scheduled_at) from flights) - interval 90 days
    """,
    key="flight_id",
    event_time="scheduled_at",
)
late_risk = model(
    "recent_flights",
    LightGBM(rounds=80, learning_rate=0.08),
    label="late",
    holdout="7 days",
    at_least=0.6,
    retrain=retrain(on="late_performance"),
    unit="flight_id",
    rollout=rollout(
        "served",
        [
            outcome_metric(
                "squared_error",
                of="judged",
                value="squared_error",
                per_unit="mean",
                unit="flight_id",
                time="at",
                better="lower",
                guardrail=0.05,
            )
        ],
        steps=(0.2, 0.5),
        every="0 seconds",  # in production: a day
        units=500,
    ),
    description="Will a flight be more than 15 minutes late?",
)
served = prediction_log("late_risk", "served")
judged = sql(
    """
    -- Predictions that were used, with what happened.
    select s.request_id, s.row, s.unit as flight_id, s.at, s.arm, s.model_version, s.probability,
           f.scheduled_at, f.late, (s.probability - f.late::int) ^ 2 as squared_error
    from served s join flights f on s.unit = f.flight_id
    where s.arm <> 'shadow'
    """,
    key=["request_id", "row"],
)
late_performance = performance(
    of="judged",
    time="scheduled_at",
    window="7 days",
    prediction="probability",
    label="late",
    metric="brier",
    at_most=0.17,
    by="model_version",
)

# Half of the passengers get a message when their flight is probably late. Do fewer of them complain?

messages = source(
    files("messages/*.csv", required=False),
    schema={"passenger": "bigint", "variant": "varchar", "at": "timestamptz"},
)
complaints = source(files("complaints/*.csv", required=False), schema={"passenger": "bigint", "at": "timestamptz"})
message_test = experiment(
    variants={"silence": 1, "message": 1},
    exposures="messages",
    unit="passenger",
    time="at",
    metrics=[
        outcome_metric(
            "complaints", of="complaints", per_unit="any", value="true", unit="passenger", time="at", better="lower"
        )
    ],
    units=10_000,
)
