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
by_minute = sql(
    """
    select tumble(at, interval '1 minute') as minute, sensor, count(*) as readings, avg(degrees) as mean
    from readings group by all
    """,
    key=("minute", "sensor"),
)
