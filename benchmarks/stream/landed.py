"""When rows became readable: the time at which the table's log, or its folder, named the file that contains them.

This is the time of the last rename of a file according to the file system, so all contestants use the same clock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb

Files = Mapping[str, int]
"""The files of a table, and when each became readable, in microseconds since 1970."""
READ = {
    "delta": "read_parquet({files}, filename = true)",
    "parquet": "read_parquet({files}, filename = true)",
    "csv": "(select * from read_csv({files}, header = false, filename = true, names = ['happened_at', 'id', 'key', 'value']))",
}


@dataclass(frozen=True)
class Latency:
    """The latencies of rows from their creation, in milliseconds."""

    p50: float
    p99: float
    most: float
    rows: int

    def as_figures(self) -> dict[str, float]:
        """Return the latencies as JSON values."""
        return {"p50": self.p50, "p99": self.p99, "max": self.most, "rows": self.rows}


@dataclass(frozen=True)
class Commit:
    """A version of a Delta table: when it became readable, the number of added rows, and its manifest."""

    number: int
    at_us: int
    rows: int
    files: tuple[str, ...]
    manifest: Mapping[str, Any]

    @property
    def rows_in(self) -> int:
        """The number of rows that the stream had read at this version."""
        epoch = self.manifest.get("epoch") or {}
        return int(epoch.get("totals", {}).get("rows_in", 0))


def commits(table: Path) -> list[Commit]:
    """Return the versions of a Delta table, in order."""
    versions = []
    for log in sorted((table / "_delta_log").glob("[0-9]*.json")):
        if log.name.count(".") > 1:
            continue
        actions = [json.loads(line) for line in log.read_text().splitlines()]
        adds = [action["add"] for action in actions if action.get("add", {}).get("dataChange")]
        marks = [action["txn"]["version"] for action in actions if "txn" in action]
        place = table / "_headwater" / f"{marks[0]:016x}.json" if marks else None
        manifest = json.loads(place.read_text()) if place is not None and place.exists() else {}
        rows = sum(json.loads(add["stats"])["numRecords"] for add in adds)
        paths = tuple(str(table / unquote(add["path"])) for add in adds)
        versions.append(Commit(int(log.stem), log.stat().st_ctime_ns // 1000, rows, paths, manifest))
    return versions


def in_delta(table: Path) -> Files:
    """Return the files that the versions of a Delta table added."""
    return {path: commit.at_us for commit in commits(table) for path in commit.files}


def in_spark(folder: Path) -> Files:
    """Return the files of Spark's sink that the log of its batches names, with the time of the log entry."""
    added: dict[str, int] = {}
    logs = [log for log in (folder / "_spark_metadata").glob("[0-9]*") if log.suffix in {"", ".compact"}]
    for log in sorted(logs, key=lambda log: int(log.name.partition(".")[0])):
        for line in log.read_text().splitlines()[1:]:
            path = json.loads(line)["path"].removeprefix("file://")
            added.setdefault(path, log.stat().st_ctime_ns // 1000)
    return added


def in_flink(folder: Path) -> Files:
    """Return the completed files of Flink's sink, which have been renamed."""
    return {str(file): file.stat().st_ctime_ns // 1000 for file in folder.glob("part-*")}


FILES: Mapping[str, Callable[[Path], Files]] = {"delta": in_delta, "parquet": in_spark, "csv": in_flink}


def rows(folder: Path, form: str) -> int:
    """Return the number of readable rows."""
    files = FILES[form](folder)
    if not files:
        return 0
    with duckdb.connect() as con:
        return int(con.sql(f"select count(*) from {_read(files, form)}").fetchall()[0][0])


def latency(folder: Path, form: str, first: int, count: int) -> Latency:
    """Return the latencies of the `count` rows with ids from `first` on; exits unless each occurs exactly once."""
    files = FILES[form](folder)
    with duckdb.connect() as con:
        con.execute("create table landed (filename varchar, at_us bigint)")
        con.executemany("insert into landed values (?, ?)", list(files.items()))
        quantiles = con.sql(
            f"""select quantile_cont(took, 0.5), quantile_cont(took, 0.99), max(took), count(*), count(distinct id) from (
                select id, (at_us - epoch_us(happened_at)) / 1000 as took
                from {_read(files, form)} join landed using (filename) where id between {first} and {first + count - 1})"""
        ).fetchall()
    return judged(quantiles[0], count)


def judged(quantiles: tuple[Any, ...], count: int) -> Latency:
    """Return median, p99 and maximum of the latencies; exits unless each row occurs exactly once."""
    if not quantiles[3] == quantiles[4] == count:
        raise SystemExit(f"wrong answer: {quantiles[3]} rows of {quantiles[4]} ids, not {count}")
    return Latency(float(quantiles[0]), float(quantiles[1]), float(quantiles[2]), int(quantiles[3]))


def _read(files: Files, form: str) -> str:
    return READ[form].format(files=list(files))
