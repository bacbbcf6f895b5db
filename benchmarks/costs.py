"""The constants of `pipeline/batch/costs.py`: seconds of one core per GB of files, for TPC-H's statements and for partitioning.

`python -m benchmarks.costs [SCALE]` prints the medians. Only their ratio matters.
"""

from __future__ import annotations

import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

import duckdb

from benchmarks import data
from benchmarks.tpch import TABLES, queries
from pipeline.kernel.sql_text import bucket_of

LEAST_BYTES = 50_000_000
"""Statements over less say more about planning than about rows."""
BUCKETS = 16
CUTS = (
    ("lineitem", "l_orderkey", "l_orderkey, l_extendedprice, l_discount, l_shipdate"),
    ("lineitem", "l_orderkey", "l_orderkey, l_commitdate, l_receiptdate"),
    ("lineitem", "l_partkey", "l_orderkey, l_partkey, l_suppkey, l_quantity, l_extendedprice, l_discount"),
    ("orders", "o_custkey", "o_orderkey, o_custkey, o_orderdate, o_shippriority"),
    ("partsupp", "ps_partkey", "ps_partkey, ps_suppkey, ps_supplycost"),
)
"""Inputs with the key and the columns with which Q3, Q4 and Q9 join them."""


def main() -> None:
    """Print the medians."""
    scale = float(sys.argv[1]) if len(sys.argv) > 1 else 1
    root = data.tpch_parquet(scale)
    size_gb = {name: data.size_bytes(root / name) / 1e9 for name in TABLES}
    with duckdb.connect() as con:
        con.execute("set threads = 1")
        for name in TABLES:
            con.execute(f"create view {name} as from read_parquet('{root / name}/*.parquet')")
        computed = [seconds / read for seconds, read in _statements(con, scale, size_gb) if read * 1e9 >= LEAST_BYTES]
        cut = [_cut(con, *each) / size_gb[each[0]] for each in CUTS]
    print(f"computing: {statistics.median(computed):.1f} s per GB, {len(computed)} statements")
    print(f"partitioning: {statistics.median(cut):.1f} s per GB, {len(cut)} inputs")


def _statements(con: duckdb.DuckDBPyConnection, scale: float, size_gb: dict[str, float]) -> list[tuple[float, float]]:
    """Return the seconds of each statement, and the GB of the files of its tables."""
    found = []
    for text in queries(scale).values():
        read = sum(gb for name, gb in size_gb.items() if re.search(rf"\b{name}\b", text))
        begun = time.perf_counter()
        con.execute(text).fetchall()
        found.append((time.perf_counter() - begun, read))
    return found


def _cut(con: duckdb.DuckDBPyConnection, table: str, key: str, columns: str) -> float:
    """Return the seconds for partitioning a table, and for reading the buckets."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        rows = f"select {columns}, {bucket_of((key,), BUCKETS)} as bucket from {table}"
        con.execute(f"copy ({rows}) to '{folder}' (format parquet, compression lz4, partition_by (bucket))")
        con.execute(f"select max(hash(columns(*))) from read_parquet('{Path(folder)}/*/*.parquet')").fetchall()
        return time.perf_counter() - begun


if __name__ == "__main__":
    main()
