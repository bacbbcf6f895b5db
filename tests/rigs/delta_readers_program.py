"""Prints the rows of Delta tables as readers of others see them: `python delta_readers_program.py READER LOCATION...`.

Run by the Python of `.peers-readers`, or of `.peers-streams` for Spark; the rows of each table are a line: a JSON
list of sorted texts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa


def duckdb_extension(location: str) -> pa.Table:
    """Read with DuckDB's delta extension, which uses the kernel of Delta."""
    import duckdb  # noqa: PLC0415 - that of another environment
    import duckdb_extension_delta  # noqa: PLC0415

    folder = Path(duckdb_extension_delta.__file__).parent / "extensions" / f"v{duckdb.__version__}"
    con = duckdb.connect()
    con.execute(f"load '{folder / 'delta.duckdb_extension'}'")
    con.execute("set TimeZone = 'UTC'")
    return con.sql(f"select * from delta_scan('{location}')").to_arrow_table()


def delta_kernel(location: str) -> pa.Table:
    """Read with the kernel of Delta in Rust, as readers of Delta Sharing do."""
    import delta_kernel_rust_sharing_wrapper as kernel  # noqa: PLC0415

    interface = kernel.PythonInterface(Path(location).as_uri())
    snapshot = kernel.Table(Path(location).as_uri()).snapshot(interface)
    batches = kernel.ScanBuilder(snapshot).build().execute(interface)
    return pa.Table.from_batches(list(batches), schema=batches.schema)


def spark(location: str) -> pa.Table:
    """Read with Spark and its Delta, whose jars are in the environment's folder `jars`."""
    from pyspark.sql import SparkSession  # noqa: PLC0415

    jars = (Path(sys.prefix) / "jars").glob("delta-*.jar")
    session = (
        SparkSession.builder.master("local[1]")
        .config("spark.driver.extraClassPath", ":".join(map(str, jars)))
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.databricks.delta.snapshotPartitions", "1")
        .config("spark.ui.enabled", "false")
        .getOrCreate()
    )
    return session.read.format("delta").load(location).toArrow()


READERS: dict[str, Callable[[str], pa.Table]] = {
    "duckdb": duckdb_extension,
    "delta-kernel": delta_kernel,
    "spark": spark,
}


def lines(rows: Iterable[dict[str, object]]) -> list[str]:
    """Return rows as sorted texts, independent of the types that a reader chooses for the same values."""
    return sorted(json.dumps({name: str(row[name]) for name in sorted(row)}) for row in rows)


if __name__ == "__main__":
    for each in sys.argv[2:]:
        print(json.dumps(lines(READERS[sys.argv[1]](each).to_pylist())))  # noqa: T201 - the result
