"""A table of PostgreSQL by ADBC alone: `in_adbc.py read URL FOLDER`."""

from __future__ import annotations

import sys

import adbc_driver_postgresql.dbapi as adbc
import pyarrow.parquet as pq

from benchmarks.peers.timings import Clock

if __name__ == "__main__":
    clock = Clock()
    with clock.part("read"), adbc.connect(sys.argv[2]) as con, con.cursor() as cursor:
        cursor.execute("select * from lineitem")
        batches = cursor.fetch_record_batch()
        with pq.ParquetWriter(f"{sys.argv[3]}/0.parquet", batches.schema, compression="zstd") as writer:
            for batch in batches:
                writer.write_batch(batch)
    clock.say()
