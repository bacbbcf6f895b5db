"""The jobs in delta-rs: `in_deltalake.py JOB ARGUMENTS FOLDER`; writes its result to the folder."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
from deltalake import DeltaTable

from benchmarks.peers.timings import Clock


def merge(clock: Clock, base: str, changes: str, to: str) -> None:
    """Upsert into a Delta table; the later change wins."""
    shutil.copytree(f"{base}/accounts", f"{to}/accounts")
    with clock.part("merge"):
        (
            DeltaTable(f"{to}/accounts")
            .merge(pq.read_table(changes), "old.id = new.id", source_alias="new", target_alias="old")
            .when_matched_update_all("new.step >= old.step")
            .when_not_matched_insert_all()
            .execute()
        )
    Path(to, "now").mkdir()
    for number, file in enumerate(DeltaTable(f"{to}/accounts").file_uris()):
        shutil.copy(file.removeprefix("file://"), f"{to}/now/{number}.parquet")


JOBS: dict[str, Callable[..., None]] = {"merge": merge}

if __name__ == "__main__":
    clock = Clock()
    JOBS[sys.argv[1]](clock, *sys.argv[2:])
    clock.say()
