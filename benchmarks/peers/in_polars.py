"""The jobs in Polars, streaming: `in_polars.py JOB ARGUMENTS FOLDER`; writes its result to the folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl

from benchmarks.peers.timings import Clock

LINEITEM = {
    "l_orderkey": pl.Int64,
    "l_partkey": pl.Int64,
    "l_suppkey": pl.Int64,
    "l_linenumber": pl.Int32,
    "l_quantity": pl.Float64,
    "l_extendedprice": pl.Float64,
    "l_discount": pl.Float64,
    "l_tax": pl.Float64,
    "l_returnflag": pl.String,
    "l_linestatus": pl.String,
    "l_shipdate": pl.Date,
    "l_commitdate": pl.Date,
    "l_receiptdate": pl.Date,
    "l_shipinstruct": pl.String,
    "l_shipmode": pl.String,
    "l_comment": pl.String,
}
FEW = 5
DATES = ["l_shipdate", "l_commitdate", "l_receiptdate"]


def etl(clock: Clock, lines: str, to: str) -> None:
    """CSV to zstd Parquet by month, and a summary."""
    with clock.part("shipped"):
        shipped = (
            pl.scan_csv(f"{lines}/*.csv", schema=LINEITEM)
            .filter(pl.col("l_quantity") > FEW)
            .with_columns(
                pl.col("l_shipdate").dt.truncate("1mo").alias("ship_month"),
                (pl.col("l_extendedprice") * (1 - pl.col("l_discount"))).alias("revenue"),
            )
        )
        by_month = pl.PartitionBy(f"{to}/shipped", key="ship_month", include_key=False)
        shipped.sink_parquet(by_month, compression="zstd", mkdir=True, maintain_order=False, engine="streaming")
    with clock.part("by_month"):
        Path(to, "by_month").mkdir()
        (
            pl.scan_parquet(f"{to}/shipped/**/*.parquet", hive_partitioning=True)
            .group_by("ship_month", "l_returnflag")
            .agg(pl.len().alias("lines"), pl.col("revenue").sum())
            .sink_parquet(f"{to}/by_month/0.parquet", engine="streaming")
        )


def read(clock: Clock, form: str, rows: str, to: str) -> None:
    """Files to zstd Parquet."""
    scans = {
        "csv": lambda: pl.scan_csv(f"{rows}/*.csv", schema=LINEITEM),
        "ndjson": lambda: pl.scan_ndjson(
            f"{rows}/*.json", schema={**LINEITEM, **dict.fromkeys(DATES, pl.String)}
        ).with_columns(pl.col(DATES).str.to_date()),
        "parquet": lambda: pl.scan_parquet(f"{rows}/*.parquet"),
    }
    with clock.part("read"):
        scans[form]().sink_parquet(f"{to}/0.parquet", compression="zstd", maintain_order=False, engine="streaming")


def groupby(clock: Clock, rows: str, to: str) -> None:
    """Five aggregates by one key, Parquet to Parquet."""
    Path(to, "totals").mkdir()
    v = pl.col("v")
    with clock.part("totals"):
        (
            pl.scan_parquet(f"{rows}/*.parquet")
            .group_by("k")
            .agg(pl.len().alias("n"), v.sum().alias("total"), v.mean().alias("mean"), v.max().alias("most"))
            .sink_parquet(f"{to}/totals/0.parquet", compression="zstd", maintain_order=False, engine="streaming")
        )


def join(clock: Clock, left: str, right: str, memory_bytes: str, to: str) -> None:
    """Join of two tables by key, Parquet to Parquet; Polars has no memory budget."""
    del memory_bytes
    Path(to, "joined").mkdir()
    with clock.part("joined"):
        (
            pl.scan_parquet(f"{left}/*.parquet")
            .join(pl.scan_parquet(f"{right}/*.parquet"), on="id", suffix="_right", maintain_order="none")
            .select(
                "id",
                (pl.col("a") + pl.col("a_right")).alias("total"),
                (pl.col("b") * pl.col("b_right")).alias("product"),
            )
            .sink_parquet(f"{to}/joined/0.parquet", compression="zstd", maintain_order=False, engine="streaming")
        )


def point(clock: Clock, base: str, number: str, to: str) -> None:
    """Read the row of a key of a Delta table."""

    def read() -> pl.DataFrame:
        return pl.scan_delta(f"{base}/accounts").filter(pl.col("id") == int(number)).collect(engine="streaming")

    clock.often("point", read).write_parquet(f"{to}/rows.parquet")


def travel(clock: Clock, base: str, number: str, to: str) -> None:
    """Sum a column of the first version of a Delta table."""
    del number

    def read() -> pl.DataFrame:
        rows = pl.scan_delta(f"{base}/accounts", version=0)
        return rows.select(pl.col("step").sum().alias("total")).collect(engine="streaming")

    clock.often("travel", read).write_parquet(f"{to}/rows.parquet")


JOBS: dict[str, Callable[..., None]] = {
    "etl": etl,
    "groupby": groupby,
    "join": join,
    "point": point,
    "read": read,
    "travel": travel,
}

if __name__ == "__main__":
    clock = Clock()
    JOBS[sys.argv[1]](clock, *sys.argv[2:])
    clock.say()
