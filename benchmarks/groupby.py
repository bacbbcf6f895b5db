"""Speed and memory of grouping, from a million rows to a hundred million groups.

`1M in process`: a definition called on an Arrow table, compared with pandas on a data frame. Both inputs are in memory
before the measurement; the result is the median of seven calls after a warm-up call. The other cases: Parquet to a
Delta table by `headwater run` (entire process; the source is not stored), compared with Parquet to Parquet.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import duckdb

from benchmarks import data
from benchmarks.interleaved_runs import Answer, Case, Contestant, Ran
from benchmarks.nodes import Nodes
from benchmarks.peer import Script, peer
from benchmarks.project import Project, ours, seconds, source_text, written

IN_PROCESS = "1M in process"
SIZES = {IN_PROCESS: (10**6, 10**3), "10M": (10**7, 10**4), "100M": (10**8, 10**5), "100M groups": (10**8, 10**8)}
"""Rows and groups of each case at scale 1."""
TOTALS = "select k, count(*) as n, sum(v) as total, avg(v) as mean, max(v) as most from rows group by k"
ANSWER = "select count(*), sum(k)::double, sum(n)::double, sum(total), sum(mean), sum(most) from {}"


def cases(scale: float, only: Sequence[str] = ()) -> Iterator[Case]:
    """Yield each size, or only the given ones."""
    for name, sizes in SIZES.items():
        if name in only or not only:
            rows, groups = (max(10, round(size * scale)) for size in sizes)
            files = _rows(rows, groups)
            facts = {"rows": rows, "groups": groups, "bytes_in": data.size_bytes(files)}
            if name == IN_PROCESS:
                script = Script("headwater", "groupby", [files], _answer, "parts")
                in_process = Contestant("call", partial(script.run, python=Path(sys.executable)), is_ours=True)
                pandas = peer(Script("pandas", "groupby", [files], _answer, "parts"))
                yield Case(name, _expected(files), [in_process, pandas], facts)
            else:
                peers = [peer(Script(who, "groupby", [files], _answer)) for who in ("duckdb", "polars")]
                with _loaded(files) as base:
                    yield Case(name, _expected(files), [*ours(partial(_job, base)), *peers], facts)


def _rows(rows: int, groups: int) -> Path:
    key = f"(hash(i) % {groups})::bigint" if groups < rows else f"(i * 2654435761 % {rows})::bigint"
    return data.made(f"rows-of-{groups}", f"select {key} as k, (hash(i, 1) % 10000)::double / 100 as v", rows)


@contextmanager
def _loaded(files: Path) -> Iterator[Path]:
    base = data.home() / f"groupby-lake-{files.name}"
    shutil.rmtree(base, ignore_errors=True)
    text = source_text("rows", files / "*.parquet", {"k": "bigint", "v": "double"}, stored=False)
    written(base, f"{text}totals = sql({TOTALS!r})\n")
    yield base
    shutil.rmtree(base)


def _job(base: Path, nodes: Nodes | None, folder: Path) -> Ran:
    del folder  # all runs use the rows that are already loaded
    project = Project(base, nodes)
    result, steps = project.run("totals", full=True)
    rows = project.rows(ANSWER.format("totals"))
    return Ran(result.seconds, result.seconds, result.peak_bytes, rows, seconds(steps))


def _expected(files: Path) -> Answer:
    with duckdb.connect() as con:
        con.execute(f"create view rows as from read_parquet('{files}/*.parquet')")
        return con.sql(ANSWER.format(f"({TOTALS})")).fetchall()


def _answer(folder: Path) -> Answer:
    with duckdb.connect() as con:
        return con.sql(ANSWER.format(f"'{folder}/totals/*.parquet'")).fetchall()
