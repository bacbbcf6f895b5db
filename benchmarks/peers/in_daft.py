"""The jobs in Daft, with its native runner: `in_daft.py JOB ARGUMENTS FOLDER`; writes its result to the folder."""

from __future__ import annotations

import sys
from collections.abc import Callable

import daft
from daft import DataType, col
from daft.functions import date_sub

from benchmarks.peers.timings import Clock

LINEITEM = {
    "l_orderkey": DataType.int64(),
    "l_partkey": DataType.int64(),
    "l_suppkey": DataType.int64(),
    "l_linenumber": DataType.int32(),
    "l_quantity": DataType.float64(),
    "l_extendedprice": DataType.float64(),
    "l_discount": DataType.float64(),
    "l_tax": DataType.float64(),
    "l_returnflag": DataType.string(),
    "l_linestatus": DataType.string(),
    "l_shipdate": DataType.date(),
    "l_commitdate": DataType.date(),
    "l_receiptdate": DataType.date(),
    "l_shipinstruct": DataType.string(),
    "l_shipmode": DataType.string(),
    "l_comment": DataType.string(),
}
FEW = 5


def etl(clock: Clock, lines: str, to: str) -> None:
    """CSV to zstd Parquet by month, and a summary."""
    daft.set_runner_native()
    with clock.part("shipped"):
        (
            daft.read_csv(f"{lines}/*.csv", infer_schema=False, schema=LINEITEM)
            .where(col("l_quantity") > FEW)
            .with_columns(
                {
                    # 0.7 does not support months in date_trunc; its make_date with a literal day returns the first row's date
                    "ship_month": date_sub(col("l_shipdate"), col("l_shipdate").day() - 1),
                    "revenue": col("l_extendedprice") * (1 - col("l_discount")),
                }
            )
            .write_parquet(f"{to}/shipped", compression="zstd", partition_cols=["ship_month"])
        )
    with clock.part("by_month"):
        (
            daft.read_parquet(f"{to}/shipped/**/*.parquet", hive_partitioning=True)
            .groupby("ship_month", "l_returnflag")
            .agg(col("l_returnflag").count().alias("lines"), col("revenue").sum())
            .write_parquet(f"{to}/by_month")
        )


JOBS: dict[str, Callable[..., None]] = {"etl": etl}

if __name__ == "__main__":
    clock = Clock()
    JOBS[sys.argv[1]](clock, *sys.argv[2:])
    clock.say()
