"""The jobs in pandas: `in_pandas.py JOB ARGUMENTS FOLDER`; writes its result to the folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from benchmarks.peers.timings import Clock


def groupby(clock: Clock, rows: str, to: str) -> None:
    """Five aggregates by one key, from data frame to data frame in memory: the median after a warm-up call."""
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
