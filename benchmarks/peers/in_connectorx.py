"""A table of PostgreSQL by connectorx, in four partitions: `in_connectorx.py read URL FOLDER`."""

from __future__ import annotations

import sys

import connectorx as cx
import pyarrow.parquet as pq

from benchmarks.peers.timings import Clock

if __name__ == "__main__":
    clock = Clock()
    with clock.part("read"):
        rows = cx.read_sql(
            sys.argv[2], "select * from lineitem", return_type="arrow", partition_on="l_orderkey", partition_num=4
        )
        pq.write_table(rows, f"{sys.argv[3]}/0.parquet", compression="zstd")
    clock.say()
