"""Speed of a one-to-one join of two tables within a memory budget.

`1M` and `10M` rows per side; `10GB` per side only with `--only 10GB`, because it needs 60 GB of disk. For Headwater,
the time of the entire `headwater run` process is measured, from Delta tables to a Delta table; the inputs are loaded before
the measurement. `memory_bytes` is a fifth of the input, at least 1 GiB. DuckDB gets the same budget; Polars has none.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import duckdb

from benchmarks import data
from benchmarks.interleaved_runs import Answer, Case, Ran
from benchmarks.nodes import Nodes
from benchmarks.peer import Script, peer
from benchmarks.project import Project, ours, seconds, source_text, written

SIZES = {"1M": 10**6, "10M": 10**7, "10GB": 25 * 10**7}
"""Rows per side at scale 1; a row has 40 incompressible bytes."""
ONLY_IF_NAMED = "10GB"
LEAST_BUDGET = 1 << 30
PRIMES = {"left_rows": 2654435761, "right_rows": 805459861}
"""Multiplying 0 to n - 1 by such a prime, modulo n, permutes the numbers."""
JOINED = """select l.id, l.a + r.a as total, l.b * r.b as product
from left_rows as l join right_rows as r on l.id = r.id"""
ANSWER = "select count(*), sum(id)::double, sum(total), sum(product) from {}"


def cases(scale: float, only: Sequence[str] = ()) -> Iterator[Case]:
    """Yield each size, or only the given ones."""
    for name, size in SIZES.items():
        if name in only or (not only and name != ONLY_IF_NAMED):
            sides = {side: _rows(side, max(10, round(size * scale))) for side in PRIMES}
            size_bytes = sum(data.size_bytes(files) for files in sides.values())
            budget = max(LEAST_BUDGET, size_bytes // 5)
            facts = {"rows": round(size * scale), "bytes_in": size_bytes, "memory_bytes": budget}
            arguments: list[str | Path] = [*sides.values(), str(budget)]
            peers = [peer(Script(who, "join", arguments, _answer)) for who in ("duckdb", "polars")]
            with _loaded(sides, budget) as base:
                yield Case(name, _expected(sides), [*ours(partial(_job, base)), *peers], facts)


def _rows(side: str, rows: int) -> Path:
    values = ", ".join(f"hash(i, '{side}{column}') / 2::double ** 64 as {column}" for column in "abcd")
    return data.made(side, f"select (i * {PRIMES[side]} % {rows})::bigint as id, {values}", rows)


@contextmanager
def _loaded(sides: dict[str, Path], budget: int) -> Iterator[Path]:
    base = data.home() / f"join-lake-{sides['left_rows'].name}"
    shutil.rmtree(base, ignore_errors=True)
    texts = [source_text(name, files / "*.parquet") for name, files in sides.items()]
    definitions = "".join([*texts, f"joined = sql({JOINED!r})\n"])
    project = Project(written(base, definitions, {"memory_bytes": budget}))
    project.run(*sides)
    yield base
    shutil.rmtree(base)


def _job(base: Path, nodes: Nodes | None, folder: Path) -> Ran:
    del folder  # all runs use the rows that are already loaded
    project = Project(base, nodes)
    result, steps = project.run("joined", full=True)
    rows = project.rows(ANSWER.format("joined"))
    return Ran(result.seconds, result.seconds, result.peak_bytes, rows, seconds(steps))


def _expected(sides: dict[str, Path]) -> Answer:
    with duckdb.connect() as con:
        for name, files in sides.items():
            con.execute(f"create view {name} as from read_parquet('{files}/*.parquet')")
        return con.sql(ANSWER.format(f"({JOINED})")).fetchall()


def _answer(folder: Path) -> Answer:
    with duckdb.connect() as con:
        return con.sql(ANSWER.format(f"'{folder}/joined/*.parquet'")).fetchall()
