"""The jobs in stock Ray Data: `in_raydata.py JOB ARGUMENTS FOLDER`; joins the cluster in `RAY_ADDRESS`, and writes its result to the folder.

The number of blocks and partitions is set, as Ray's documentation recommends: with the default of 200, small jobs are slower.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import ray
import ray.data
from ray.data.aggregate import Count, Max, Mean, Sum
from ray.data.expressions import col

from benchmarks.peers.timings import Clock

TYPES = {
    **dict.fromkeys(("l_orderkey", "l_partkey", "l_suppkey"), pa.int64()),
    "l_linenumber": pa.int32(),
    **dict.fromkeys(("l_quantity", "l_extendedprice", "l_discount", "l_tax"), pa.float64()),
    **dict.fromkeys(("l_returnflag", "l_linestatus", "l_shipinstruct", "l_shipmode", "l_comment"), pa.string()),
    **dict.fromkeys(("l_shipdate", "l_commitdate", "l_receiptdate"), pa.date32()),
}
BLOCK_BYTES = 64 << 20
FEW = 5


def etl(clock: Clock, lines: str, to: str) -> None:
    """CSV to zstd Parquet by month, and a summary."""

    def derived(rows: pa.Table) -> pa.Table:
        month = pc.cast(pc.floor_temporal(rows["l_shipdate"], unit="month"), pa.date32())
        revenue = pc.multiply(rows["l_extendedprice"], pc.subtract(1.0, rows["l_discount"]))
        return rows.append_column("ship_month", month).append_column("revenue", revenue)

    with clock.part("shipped"):
        read = ray.data.read_csv(
            lines,
            read_options=pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES),
            convert_options=pyarrow.csv.ConvertOptions(column_types=TYPES),
            override_num_blocks=2 * _cores(),
        )
        shipped = read.filter(expr=col("l_quantity") > FEW).map_batches(
            derived, batch_format="pyarrow", batch_size=None, zero_copy_batch=True
        )
        shipped.write_parquet(f"{to}/shipped", partition_cols=["ship_month"], compression="zstd")
    with clock.part("by_month"):
        columns = ["ship_month", "l_returnflag", "revenue"]
        again = ray.data.read_parquet(f"{to}/shipped", columns=columns, override_num_blocks=2 * _cores())
        totals = again.groupby(["ship_month", "l_returnflag"], num_partitions=2 * _cores()).aggregate(
            Count(alias_name="lines"), Sum("revenue", alias_name="revenue")
        )
        totals.write_parquet(f"{to}/by_month")


def groupby(clock: Clock, rows: str, to: str) -> None:
    """Four aggregates by one key, Parquet to Parquet."""
    with clock.part("totals"):
        read = ray.data.read_parquet(rows, override_num_blocks=2 * _cores())
        totals = read.groupby("k", num_partitions=2 * _cores()).aggregate(
            Count(alias_name="n"),
            Sum("v", alias_name="total"),
            Mean("v", alias_name="mean"),
            Max("v", alias_name="most"),
        )
        totals.write_parquet(f"{to}/totals", compression="zstd")


def join(clock: Clock, left: str, right: str, to: str) -> None:
    """A one-to-one join of two tables, Parquet to Parquet."""

    def combined(rows: pa.Table) -> pa.Table:
        total, product = pc.add(rows["a"], rows["a_right"]), pc.multiply(rows["b"], rows["b_right"])
        return pa.table({"id": rows["id"], "total": total, "product": product})

    with clock.part("joined"):
        sides = [
            ray.data.read_parquet(side, columns=["id", "a", "b"], override_num_blocks=2 * _cores())
            for side in (left, right)
        ]
        joined = sides[0].join(
            sides[1], join_type="inner", num_partitions=2 * _cores(), on=("id",), right_suffix="_right"
        )
        chosen = joined.map_batches(combined, batch_format="pyarrow", batch_size=None, zero_copy_batch=True)
        chosen.write_parquet(f"{to}/joined", compression="zstd")


def _cores() -> int:
    return int(ray.cluster_resources()["CPU"])  # type: ignore[no-untyped-call]  # Ray is untyped


JOBS: dict[str, Callable[..., None]] = {"etl": etl, "groupby": groupby, "join": join}


def main() -> None:
    """Run a job, and print its timings."""
    job, *arguments = sys.argv[1:]
    clock = Clock()
    begun = time.perf_counter()
    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    clock.start = time.perf_counter() - begun
    JOBS[job](clock, *arguments)
    ray.shutdown()  # it may still print
    clock.say()


if __name__ == "__main__":
    main()
