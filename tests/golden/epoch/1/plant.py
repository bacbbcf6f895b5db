from pipeline import generate, source, sql

readings = source(
    generate(
        {
            "at": "timestamp '2024-01-01' + to_microseconds(i * 100000)",
            "sensor": "'s' || (i % 7)",
            "degrees": "(i * 13) % 100",
        },
        partitions=2,
        count=300,
        per_second=None,
    ),
    schema={"at": "timestamp", "sensor": "varchar", "degrees": "integer"},
    event_time="at",
    lateness="5 seconds",
)
by_minute = sql(
    """
    select tumble(at, interval '1 minute') as minute, sensor, count(*) as readings, avg(degrees) as mean
    from readings group by all
    """,
    key=("minute", "sensor"),
)
