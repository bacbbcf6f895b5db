"""The streams in Flink's Table API: `in_flink.py JOB BROKERS TOPIC FOLDER`; writes its result to the folder.

Exactly once: offsets and state in checkpoints, rows through the file sink, whose files a checkpoint makes visible.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pyflink.common import Configuration
from pyflink.table import EnvironmentSettings, TableEnvironment

from benchmarks.peers.timings import Clock

JARS = Path(sys.prefix) / "jars"
EVERY = "500 ms"
_TIMED = "timestamp(3), watermark for happened_at as happened_at"  # event time in Flink has no microseconds


def environment(clock: Clock, to: str) -> TableEnvironment:
    """Start Flink in this process's JVM, with a checkpoint every half second, and record the start-up time."""
    begun = time.perf_counter()
    settings = {
        "parallelism.default": str(os.cpu_count() or 1),
        "pipeline.jars": ";".join(f"file://{jar}" for jar in sorted(JARS.glob("*.jar"))),
        "pipeline.object-reuse": "true",
        "execution.checkpointing.interval": EVERY,
        "execution.checkpointing.mode": "EXACTLY_ONCE",
        "execution.checkpointing.dir": f"file://{to}/checkpoints",
        "table.local-time-zone": "UTC",
        "table.optimizer.agg-phase-strategy": "TWO_PHASE",
        "table.exec.mini-batch.enabled": "true",
        "table.exec.mini-batch.allow-latency": "100 ms",
        "table.exec.mini-batch.size": "10000",
        "taskmanager.memory.network.max": "256m",
    }
    config = Configuration()
    for name, value in settings.items():
        config.set_string(name, value)
    tables = TableEnvironment.create(
        EnvironmentSettings.new_instance().in_streaming_mode().with_configuration(config).build()
    )
    clock.start = time.perf_counter() - begun
    return tables


def windows(flink: TableEnvironment, clock: Clock, brokers: str, topic: str, to: str) -> None:
    """Count and sum by key and minute, until the backlog has been read."""
    with clock.part("windows"):
        _events(flink, brokers, topic, _TIMED, "'scan.bounded.mode' = 'latest-offset',")
        _made(flink, "window_start timestamp(6), key string, events bigint, total double", to)
        flink.execute_sql(
            """insert into made
            select window_start, key, count(*) as events, sum(`value`) as total
            from table(tumble(table events, descriptor(happened_at), interval '1' minute))
            group by window_start, window_end, key"""
        ).wait()


def rows(flink: TableEnvironment, clock: Clock, brokers: str, topic: str, to: str) -> None:
    """Row by row, until it is stopped."""
    del clock
    _events(flink, brokers, topic, "timestamp(6)")
    _made(flink, "happened_at timestamp(6), id bigint, key string, `value` double", to)
    flink.execute_sql("insert into made select happened_at, id, key, `value` from events").wait()


def _events(flink: TableEnvironment, brokers: str, topic: str, time: str, bounds: str = "") -> None:
    flink.execute_sql(
        f"""create table events (
            id bigint, key string, `value` double, happened_at {time}
        ) with (
            'connector' = 'kafka', 'topic' = '{topic}', 'properties.bootstrap.servers' = '{brokers}', {bounds}
            'properties.isolation.level' = 'read_committed', 'scan.startup.mode' = 'earliest-offset',
            'format' = 'json', 'json.timestamp-format.standard' = 'ISO-8601'
        )"""
    )


def _made(flink: TableEnvironment, columns: str, to: str) -> None:
    """Create the sink. It writes CSV, because Flink's Parquet format needs Hadoop; there are few windows per minute."""
    flink.execute_sql(
        f"""create table made ({columns}) with (
            'connector' = 'filesystem', 'path' = 'file://{to}/made', 'format' = 'csv',
            'sink.rolling-policy.rollover-interval' = '100 ms', 'sink.rolling-policy.check-interval' = '100 ms'
        )"""
    )


JOBS: dict[str, Callable[..., None]] = {"windows": windows, "rows": rows}

if __name__ == "__main__":
    clock = Clock()
    flink = environment(clock, sys.argv[-1])
    JOBS[sys.argv[1]](flink, clock, *sys.argv[2:])
    clock.say()
