from pipeline import generate, quarantine, source, sql

readings = source(
    generate(
        {"at": "timestamp '2024-01-01' + to_seconds(i)", "sensor": "'s' || (i % 3)", "degrees": "(i * 13) % 100"},
        count=300,
    ),
    schema={"at": "timestamp", "sensor": "varchar", "degrees": "integer"},
    event_time="at",
    lateness="5 seconds",
    stored=False,
)
hot = sql(
    "select at, sensor, degrees from readings where degrees > 80",
    expect=[quarantine("is_possible", "degrees < 99")],
)
