"""The jobs in delta-rs: `in_deltalake.py JOB ARGUMENTS FOLDER`; writes its result to the folder."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake

from benchmarks.peers.timings import Clock


def merge(clock: Clock, base: str, changes: str, to: str) -> None:
    """Upsert into a Delta table; the later change wins, and a delete removes the row."""
    shutil.copytree(f"{base}/accounts", f"{to}/accounts")
    with clock.part("merge"):
        news = pq.read_table(changes)
        merge = DeltaTable(f"{to}/accounts").merge(news, "old.id = new.id", source_alias="new", target_alias="old")
        if "op" in news.column_names:
            merge = merge.when_matched_delete("new.op = 'D'").when_matched_update_all(
                "new.step >= old.step", except_cols=["op"]
            )
            merge.when_not_matched_insert_all("new.op <> 'D'", except_cols=["op"]).execute()
        else:
            merge.when_matched_update_all("new.step >= old.step").when_not_matched_insert_all().execute()
    _copy_files(to)


def append(clock: Clock, base: str, news: str, to: str) -> None:
    """Append a file to a Delta table."""
    shutil.copytree(f"{base}/accounts", f"{to}/accounts")
    with clock.part("append"):
        write_deltalake(f"{to}/accounts", pq.read_table(news), mode="append")
    _copy_files(to)


def compact(clock: Clock, base: str, to: str) -> None:
    """Rewrite the small files of a Delta table as few."""
    shutil.copytree(f"{base}/accounts", f"{to}/accounts")
    with clock.part("compact"):
        DeltaTable(f"{to}/accounts").optimize.compact()
    _copy_files(to)


def point(clock: Clock, base: str, number: str, to: str) -> None:
    """Read the row of a key."""

    def read() -> pa.Table:
        return DeltaTable(f"{base}/accounts").to_pyarrow_table(filters=[("id", "=", int(number))])

    pq.write_table(clock.often("point", read), f"{to}/rows.parquet")


def travel(clock: Clock, base: str, number: str, to: str) -> None:
    """Sum a column of the first version."""
    del number

    def read() -> pa.Table:
        steps = DeltaTable(f"{base}/accounts", version=0).to_pyarrow_table(columns=["step"])
        return pa.table({"total": [pc.sum(steps["step"]).as_py()]})

    pq.write_table(clock.often("travel", read), f"{to}/rows.parquet")


def _copy_files(to: str) -> None:
    Path(to, "now").mkdir()
    for number, file in enumerate(DeltaTable(f"{to}/accounts").file_uris()):
        shutil.copy(file.removeprefix("file://"), f"{to}/now/{number}.parquet")


JOBS: dict[str, Callable[..., None]] = {
    "merge": merge,
    "append": append,
    "compact": compact,
    "point": point,
    "travel": travel,
}

if __name__ == "__main__":
    clock = Clock()
    JOBS[sys.argv[1]](clock, *sys.argv[2:])
    clock.say()
