"""The streams in Spark Structured Streaming: `in_spark_streams.py JOB BROKERS TOPIC FOLDER`; writes its result there.

Exactly once: offsets and state in a checkpoint, rows through the file sink, whose log names the files of each batch.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

from benchmarks.peers.timings import Clock

EVENT = "happened_at timestamp, id bigint, key string, value double"
BATCH = 1_000_000
"""Maximum number of events per batch of a backlog."""
SKEW = "10 seconds"
"""Allowed skew between partitions: Spark has one watermark for all partitions, not the minimum of theirs."""
JARS = Path(sys.prefix) / "jars"


def session(clock: Clock, to: str) -> SparkSession:
    """Start Spark with suitable settings for one machine, and record the start-up time."""
    begun, cores = time.perf_counter(), os.cpu_count() or 1
    quarter = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4 // 2**30
    spark = (
        SparkSession.builder.master(f"local[{cores}]")
        .config("spark.jars", ",".join(str(jar) for jar in sorted(JARS.glob("*.jar"))))
        .config("spark.driver.memory", f"{max(2, quarter)}g")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.local.dir", f"{to}/spark")
        .config("spark.sql.warehouse.dir", f"{to}/warehouse")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", str(cores))
        .getOrCreate()
    )
    spark.range(1).count()
    clock.start = time.perf_counter() - begun
    return spark


def windows(spark: SparkSession, clock: Clock, brokers: str, topic: str, to: str) -> None:
    """Count and sum by key and minute, until the backlog has been read."""
    with clock.part("windows"):
        _events(spark, brokers, topic).withWatermark("happened_at", SKEW).createOrReplaceTempView("events")
        counted = spark.sql(
            """select window.start as window_start, key, events, total from (
                select window(happened_at, '1 minute') as window, key, count(*) as events, sum(value) as total
                from events group by 1, 2)"""
        )
        _written(counted, to).trigger(availableNow=True).start().awaitTermination()


def rows(spark: SparkSession, clock: Clock, brokers: str, topic: str, to: str) -> None:
    """Row by row, one batch after the other, until it is stopped."""
    del clock
    _written(_events(spark, brokers, topic), to).start().awaitTermination()


def _events(spark: SparkSession, brokers: str, topic: str) -> DataFrame:
    texts = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", brokers)
        .option("subscribe", topic)
        .option("startingOffsets", "earliest")
        .option("maxOffsetsPerTrigger", BATCH)
        .option("kafka.isolation.level", "read_committed")
        .load()
    )
    return texts.selectExpr(f"from_json(cast(value as string), '{EVENT}') as event").select("event.*")


def _written(table: DataFrame, to: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - pyspark's writer has no public type
    return (
        table.writeStream.format("parquet")
        .outputMode("append")
        .option("checkpointLocation", f"{to}/checkpoint")
        .option("path", f"{to}/made")
    )


JOBS: dict[str, Callable[..., None]] = {"windows": windows, "rows": rows}

if __name__ == "__main__":
    clock = Clock()
    spark = session(clock, sys.argv[-1])
    JOBS[sys.argv[1]](spark, clock, *sys.argv[2:])
    spark.stop()
    clock.say()
