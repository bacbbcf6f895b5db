"""Speed of a batch job from files to a partitioned table and a summary, compared with DuckDB, Polars, Daft and Spark.

TPC-H's lineitem as CSV: parse, filter, derive, write zstd Parquet in one folder per month, and aggregate the result.
For Headwater, the time of the entire `headwater run` process in a new folder is measured; it also commits to Delta with
statistics, updates the catalog and writes the report. `auto` uses the default settings; `ray` uses a cluster of this
machine's cores that is started before the measurement. Peers are entire processes too; Spark's start-up (JVM and
session) is excluded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import duckdb

from benchmarks import data
from benchmarks.interleaved_runs import Answer, Case, Ran
from benchmarks.measure import Measured
from benchmarks.nodes import Nodes
from benchmarks.peer import Script, peer
from benchmarks.project import Project, ours, seconds, source_text, written

PEERS = ("duckdb", "polars", "daft", "spark")
LINEITEM = {
    **dict.fromkeys(("l_orderkey", "l_partkey", "l_suppkey"), "bigint"),
    "l_linenumber": "integer",
    **dict.fromkeys(("l_quantity", "l_extendedprice", "l_discount", "l_tax"), "double"),
    **dict.fromkeys(("l_returnflag", "l_linestatus"), "varchar"),
    **dict.fromkeys(("l_shipdate", "l_commitdate", "l_receiptdate"), "date"),
    **dict.fromkeys(("l_shipinstruct", "l_shipmode", "l_comment"), "varchar"),
}
DEFINITIONS = """
shipped = sql(
    '''select *, date_trunc('month', l_shipdate)::date as ship_month, l_extendedprice * (1 - l_discount) as revenue
    from lineitem where l_quantity > 5''',
    partition_by="ship_month",
)
by_month = mart(
    '''select ship_month, l_returnflag, count(*) as lines, sum(revenue) as revenue from shipped group by all'''
)
"""
WRITTEN = "select count(*), sum(l_orderkey)::double, sum(l_quantity), sum(revenue), count(distinct l_comment) from {}"
"""The values of the written rows that are compared."""
SUMMED = "select ship_month::varchar, l_returnflag, lines, revenue from {} order by all"


def cases(scale: float, only: Sequence[str] = ()) -> Iterator[Case]:
    """Yield the only case."""
    del only
    lines = data.lineitem_csv(scale)
    facts = {"bytes_in": data.size_bytes(lines), "source": "not stored"}
    peers = [peer(Script(name, "etl", [lines], answer)) for name in PEERS]
    yield Case("etl", expected(lines), [*ours(partial(job, lines)), *peers], facts)


def job(
    lines: Path,
    nodes: Nodes | None,
    folder: Path,
    settings: Mapping[str, Any] | None = None,
    clock: Callable[[Measured], float] = attrgetter("seconds"),
) -> Ran:
    """Run Headwater's job in a folder, on the given nodes or in this process, with default or given settings.

    `clock` returns the seconds that are compared, by default those of the entire process.
    """
    text = source_text("lineitem", lines / "*.csv", LINEITEM, stored=False) + DEFINITIONS
    project = Project(written(folder, text, settings), nodes)
    result, steps = project.run()
    rows = [row for query in (WRITTEN, SUMMED) for row in project.rows(query.format(_name(query)))]
    return Ran(clock(result), result.seconds, result.peak_bytes, rows, seconds(steps))


def expected(lines: Path) -> Answer:
    """Return the answer, computed by DuckDB directly from the files."""
    with duckdb.connect() as con:
        con.execute(f"create view lineitem as from read_csv('{lines}/*.csv', header = true, columns = {LINEITEM})")
        computed = "select *, date_trunc('month', l_shipdate)::date as ship_month, l_extendedprice * (1 - l_discount) as revenue"
        con.execute(f"create table shipped as {computed} from lineitem where l_quantity > 5")
        con.execute(
            """create view by_month as select ship_month, l_returnflag, count(*) as lines, sum(revenue) as revenue
            from shipped group by all"""
        )
        return [row for query in (WRITTEN, SUMMED) for row in con.sql(query.format(_name(query))).fetchall()]


def answer(folder: Path) -> Answer:
    """Return the answer from what a peer wrote: `shipped/ship_month=*/*.parquet` and `by_month/*.parquet`."""
    files = {WRITTEN: "shipped/*/*.parquet", SUMMED: "by_month/*.parquet"}
    with duckdb.connect() as con:
        return [row for q, name in files.items() for row in con.sql(q.format(f"'{folder / name}'")).fetchall()]


def _name(query: str) -> str:
    return "shipped" if query == WRITTEN else "by_month"
