"""The jobs in pandas: `in_pandas.py JOB ARGUMENTS FOLDER`, what is made goes to the folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from benchmarks.peers.timings import Clock


def groupby(clock: Clock, rows: str, to: str) -> None:
    """Five aggregates by one key, of a frame in memory to a frame in memory: the median of calls after a first one."""
    frame = pd.read_parquet(rows)

    def grouped() -> pd.DataFrame:
        by = frame.groupby("k", as_index=False)
        return by.agg(n=("v", "size"), total=("v", "sum"), mean=("v", "mean"), most=("v", "max"))

    result = clock.often("totals", grouped)
    Path(to, "totals").mkdir()
    result.to_parquet(f"{to}/totals/0.parquet")


JOBS: dict[str, Callable[..., None]] = {"groupby": groupby}

if __name__ == "__main__":
    clock = Clock()
    JOBS[sys.argv[1]](clock, *sys.argv[2:])
    clock.say()
