"""Time of bronze, silver and gold with expectations and a key, compared with DuckDB and Spark.

TPC-H's lineitem as CSV. Bronze stores it unchanged; silver has a key, quarantines rows with a quantity of one and
counts heavily discounted ones; gold aggregates silver by month and ship mode. Headwater also stores the origin of each row. A
peer's job writes the same rows as Parquet and counts the same: DuckDB's fails at a duplicate key, Spark's drops it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import duckdb

from benchmarks import data
from benchmarks.etl import LINEITEM
from benchmarks.interleaved_runs import Answer, Case, Ran
from benchmarks.nodes import Nodes
from benchmarks.peer import Script, peer
from benchmarks.project import Project, ours, seconds, source_text, written

PEERS = ("duckdb", "spark")
DEFINITIONS = """
silver = sql(
    '''select l_orderkey, l_linenumber, l_partkey, l_suppkey, l_quantity, l_discount, l_shipmode, l_shipdate,
        l_extendedprice * (1 - l_discount) as revenue
    from bronze''',
    key=("l_orderkey", "l_linenumber"),
    expect=[quarantine("is_more_than_one", "l_quantity > 1"), warn("is_modest", "l_discount < 0.1")],
)
gold = mart(
    '''select date_trunc('month', l_shipdate)::date as month, l_shipmode, count(*) as lines, sum(revenue) as revenue
    from silver group by all'''
)
"""
SILVER = "select count(*), sum(l_orderkey)::double, sum(l_linenumber)::double, sum(revenue) from {}"
GOLD = "select month::varchar, l_shipmode, lines, revenue from {} order by all"


def cases(scale: float, only: Sequence[str] = ()) -> Iterator[Case]:
    """Yield the only case."""
    del only
    lines = data.lineitem_csv(scale)
    peers = [peer(Script(name, "medallion", [lines], _answer)) for name in PEERS]
    yield Case(
        "medallion", _expected(lines), [*ours(partial(_job, lines)), *peers], {"bytes_in": data.size_bytes(lines)}
    )


def _job(lines: Path, nodes: Nodes | None, folder: Path) -> Ran:
    text = source_text("bronze", lines / "*.csv", LINEITEM) + DEFINITIONS
    project = Project(written(folder, text), nodes)
    result, steps = project.run()
    warned = next(check["violations"] for check in steps["silver"].checks if check["expectation"] == "is_modest")
    counted = [(steps["silver"].flow["quarantined"],), (warned,)]
    rows = [*project.rows(SILVER.format("silver")), *counted, *project.rows(GOLD.format("gold"))]
    return Ran(result.seconds, result.seconds, result.peak_bytes, rows, seconds(steps))


def _expected(lines: Path) -> Answer:
    with duckdb.connect() as con:
        con.execute(
            f"""create table judged as select *, l_extendedprice * (1 - l_discount) as revenue
            from read_csv('{lines}/*.csv', header = true, columns = {LINEITEM})"""
        )
        con.execute("create view silver as from judged where l_quantity > 1")
        con.execute(
            """create view gold as select date_trunc('month', l_shipdate)::date as month, l_shipmode,
                count(*) as lines, sum(revenue) as revenue
            from silver group by all"""
        )
        counts = (
            "select count(*) from judged where not l_quantity > 1",
            "select count(*) from judged where l_discount >= 0.1",
        )
        return [r for q in (SILVER.format("silver"), *counts, GOLD.format("gold")) for r in con.sql(q).fetchall()]


def _answer(folder: Path) -> Answer:
    parts = {
        "silver": SILVER,
        "aside": "select count(*) from {}",
        "warned": "select sum(warned)::bigint from {}",
        "gold": GOLD,
    }
    with duckdb.connect() as con:
        queries = [query.format(f"'{folder / name}/*.parquet'") for name, query in parts.items()]
        return [row for query in queries for row in con.sql(query).fetchall()]
