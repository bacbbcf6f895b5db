"""The jobs in Spark, on all cores of the machine: `in_spark.py JOB ARGUMENTS FOLDER`; writes its result there."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from pyspark.sql import DataFrame, SparkSession

from benchmarks.peers.timings import Clock

LINEITEM = (
    "l_orderkey bigint, l_partkey bigint, l_suppkey bigint, l_linenumber int, l_quantity double, "
    "l_extendedprice double, l_discount double, l_tax double, l_returnflag string, l_linestatus string, "
    "l_shipdate date, l_commitdate date, l_receiptdate date, l_shipinstruct string, l_shipmode string, l_comment string"
)

JARS = [str(each) for each in Path(sys.prefix, "jars").glob("postgresql-*.jar")]
"""The driver of PostgreSQL, which `make peers` downloads."""


def session(clock: Clock, to: str) -> SparkSession:
    """Start Spark with suitable settings for one machine, and record the start-up time."""
    begun, cores = time.perf_counter(), os.cpu_count() or 1
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 // 2**30
    spark = (
        SparkSession.builder.master(f"local[{cores}]")
        .config("spark.driver.memory", f"{max(2, half)}g")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .config("spark.local.dir", f"{to}/spark")
        .config("spark.sql.warehouse.dir", f"{to}/warehouse")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", str(4 * cores))
        .config("spark.sql.parquet.compression.codec", "zstd")
        .config("spark.jars", ",".join(JARS))
        .getOrCreate()
    )
    spark.range(1).count()
    clock.start = time.perf_counter() - begun
    return spark


def etl(spark: SparkSession, clock: Clock, lines: str, to: str) -> None:
    """CSV to zstd Parquet by month, and a summary."""
    with clock.part("shipped"):
        spark.read.csv(lines, header=True, schema=LINEITEM).createOrReplaceTempView("lineitem")
        spark.sql(
            """select *, cast(date_trunc('month', l_shipdate) as date) as ship_month,
                l_extendedprice * (1 - l_discount) as revenue
            from lineitem where l_quantity > 5"""
        ).write.partitionBy("ship_month").parquet(f"{to}/shipped")
    with clock.part("by_month"):
        spark.read.parquet(f"{to}/shipped").createOrReplaceTempView("shipped")
        spark.sql(
            """select ship_month, l_returnflag, count(*) as lines, sum(revenue) as revenue
            from shipped group by ship_month, l_returnflag"""
        ).coalesce(1).write.parquet(f"{to}/by_month")


def tpch(spark: SparkSession, clock: Clock, tables: str, queries: str, to: str) -> None:
    """TPC-H queries over Parquet; each result is written to Parquet."""
    for folder in Path(tables).iterdir():
        spark.read.parquet(str(folder)).createOrReplaceTempView(folder.name)
    for text in Path(queries).read_text(encoding="utf-8").split(";"):
        name = text.strip()[3:6]
        with clock.part(name):
            spark.sql(text).write.parquet(f"{to}/{name}")


def medallion(spark: SparkSession, clock: Clock, lines: str, to: str) -> None:
    """Bronze unchanged; silver validated, with invalid rows separated and one row per key; gold."""
    with clock.part("bronze"):
        spark.read.csv(lines, header=True, schema=LINEITEM).write.parquet(f"{to}/bronze")
    with clock.part("silver"):
        spark.read.parquet(f"{to}/bronze").createOrReplaceTempView("bronze")
        judged = spark.sql(
            """select l_orderkey, l_linenumber, l_partkey, l_suppkey, l_quantity, l_shipmode, l_shipdate,
                l_extendedprice * (1 - l_discount) as revenue,
                coalesce(l_quantity > 1, false) as is_more_than_one, coalesce(l_discount < 0.1, false) as is_modest
            from bronze"""
        )
        good = judged.where("is_more_than_one").drop("is_more_than_one", "is_modest")
        good.dropDuplicates(["l_orderkey", "l_linenumber"]).write.parquet(f"{to}/silver")
        judged.where("not is_more_than_one").write.parquet(f"{to}/aside")
        judged.where("not is_modest").selectExpr("count(*) as warned").write.parquet(f"{to}/warned")
    with clock.part("gold"):
        spark.read.parquet(f"{to}/silver").createOrReplaceTempView("silver")
        spark.sql(
            """select cast(date_trunc('month', l_shipdate) as date) as month, l_shipmode, count(*) as lines,
                sum(revenue) as revenue
            from silver group by 1, 2"""
        ).coalesce(1).write.parquet(f"{to}/gold")


def read(spark: SparkSession, clock: Clock, form: str, rows: str, to: str) -> None:
    """Files of a format, or with `jdbc` a table of PostgreSQL by its URL, to zstd Parquet."""
    readers: dict[str, Callable[[], DataFrame]] = {
        "csv": lambda: spark.read.csv(rows, header=True, schema=LINEITEM),
        "ndjson": lambda: spark.read.json(rows, schema=LINEITEM),
        "parquet": lambda: spark.read.parquet(rows),
        "jdbc": lambda: _jdbc(spark, rows),
    }
    with clock.part("read"):
        readers[form]().write.parquet(f"{to}/read")


def _jdbc(spark: SparkSession, url: str) -> DataFrame:
    if not JARS:
        raise SystemExit("no driver of PostgreSQL for Spark: run `make peers`")
    parts = urlsplit(url)
    at = f"jdbc:postgresql://{parts.hostname}:{parts.port}{parts.path}"
    options = {"url": at, "dbtable": "lineitem", "user": parts.username or "", "fetchsize": "10000"}
    return spark.read.format("jdbc").options(driver="org.postgresql.Driver", **options).load()


JOBS: dict[str, Callable[..., None]] = {"etl": etl, "medallion": medallion, "read": read, "tpch": tpch}

if __name__ == "__main__":
    clock = Clock()
    spark = session(clock, sys.argv[-1])
    JOBS[sys.argv[1]](spark, clock, *sys.argv[2:])
    spark.stop()
    clock.say()
