"""Headwater in process, with its own interpreter: a definition called on an Arrow table, as in a unit test."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.peers.timings import Clock
from pipeline import sql


def groupby(clock: Clock, rows: str, to: str) -> None:
    """Five aggregates by one key, from an in-memory table to an in-memory table: the median after a warm-up call."""
    totals = sql("select k, count(*) as n, sum(v) as total, avg(v) as mean, max(v) as most from rows group by k")
    table = pq.read_table(rows)
    result = clock.often("totals", lambda: totals(rows=table))
    Path(to, "totals").mkdir()
    pq.write_table(result, f"{to}/totals/0.parquet")


JOBS: dict[str, Callable[..., None]] = {"groupby": groupby}

if __name__ == "__main__":
    clock = Clock()
    JOBS[sys.argv[1]](clock, *sys.argv[2:])
    clock.say()
