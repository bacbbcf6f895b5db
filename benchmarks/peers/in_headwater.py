"""Headwater in process, with its own interpreter: a definition called on an Arrow table, as in a unit test."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.peers.dashboard import ask
from benchmarks.peers.timings import Clock
from pipeline import sql
from pipeline.project import Workspace, load
from pipeline.warehouse.duckdb import DuckDBWarehouse


def groupby(clock: Clock, rows: str, to: str) -> None:
    """Five aggregates by one key, from an in-memory table to an in-memory table: the median after a warm-up call."""
    totals = sql("select k, count(*) as n, sum(v) as total, avg(v) as mean, max(v) as most from rows group by k")
    table = pq.read_table(rows)
    result = clock.often("totals", lambda: totals(rows=table))
    Path(to, "totals").mkdir()
    pq.write_table(result, f"{to}/totals/0.parquet")


def point(clock: Clock, project: str, number: str, to: str) -> None:
    """Read the row of a key."""
    text = f"select id, step, balance, owner from accounts where id = {number}"
    pq.write_table(clock.often("point", lambda: _query(project, text)), f"{to}/rows.parquet")


def travel(clock: Clock, project: str, number: str, to: str) -> None:
    """Sum a column of the first version."""
    del number
    text = "select sum(step)::bigint as total from accounts"
    pq.write_table(clock.often("travel", lambda: _query(project, text, at={"accounts": 0})), f"{to}/rows.parquet")


def queries(clock: Clock, project: str, of: str, to: str) -> None:
    """Ask the queries of a dashboard over the warehouse: each opens the file and closes it, so that runs can load it."""
    warehouse = Workspace(load(Path(project))).warehouse
    ask(clock, of, warehouse.query, to)


def queries_open(clock: Clock, project: str, of: str, to: str) -> None:
    """Ask them with one connection that stays open: no run can load the file meanwhile."""
    warehouse = Workspace(load(Path(project))).warehouse
    with cast("DuckDBWarehouse", warehouse).read() as con:
        ask(clock, of, lambda text: con.sql(text).to_arrow_table(), to)


def _query(project: str, text: str, at: dict[str, int] | None = None) -> pa.Table:
    return Workspace(load(Path(project))).query(text, at=at)


JOBS: dict[str, Callable[..., None]] = {
    "groupby": groupby,
    "point": point,
    "travel": travel,
    "queries": queries,
    "queries_open": queries_open,
}

if __name__ == "__main__":
    clock = Clock()
    JOBS[sys.argv[1]](clock, *sys.argv[2:])
    clock.say()
