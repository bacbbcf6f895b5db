"""The same jobs in stock Ray Data and in Headwater on Ray: ETL, grouping and a join.

`etl` is the job of `benchmarks.etl`: 730 MB of CSV at scale 1. `groupby` and `join` have 10 million rows at scale 1, with
100,000 groups and one row per key. Both contestants are entire processes that join the same kind of cluster, with all
cores of the machine, which is started before the measurement; memory includes the cluster. Headwater's engines have
2 GiB. The time of Ray Data begins when it is connected to the cluster. That of Headwater begins with the run, before it is
connected; it also commits to Delta, updates the catalog and validates.
Ray Data reads the Parquet files from which the tables of `groupby` and `join` were loaded.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import duckdb

from benchmarks import data, etl
from benchmarks import groupby as grouping
from benchmarks import join as joining
from benchmarks.interleaved_runs import Answer, Case, Contestant, Ran
from benchmarks.nodes import Nodes, running
from benchmarks.peer import Script
from benchmarks.project import Project, on_ray, seconds, source_text, took, written

ROWS, GROUPS = 10**7, 10**5
JOBS = ("etl", "groupby", "join")
SETTINGS = {"memory_bytes": 2 << 30}
"""The memory budget of Headwater's engines."""


@dataclass(frozen=True)
class Query:
    """A table of Headwater: its statement, its inputs as Parquet files, and the query of its answer."""

    table: str
    statement: str
    answer: str
    inputs: Mapping[str, Path]

    @contextmanager
    def loaded(self) -> Iterator[Path]:
        """Load the inputs into a project."""
        base = data.home() / f"raydata-lake-{self.table}"
        shutil.rmtree(base, ignore_errors=True)
        texts = [source_text(name, files / "*.parquet") for name, files in self.inputs.items()]
        definitions = "".join([*texts, f"{self.table} = sql({self.statement!r})\n"])
        Project(written(base, definitions, SETTINGS)).run(*self.inputs)
        yield base
        shutil.rmtree(base)

    def job(self, base: Path, nodes: Nodes, folder: Path) -> Ran:
        """Compute the table on a cluster."""
        del folder  # all runs use the rows that are already loaded
        project = Project(base, nodes)
        result, steps = project.run(self.table, full=True)
        rows = project.rows(self.answer.format(self.table))
        return Ran(took(result), result.seconds, result.peak_bytes, rows, seconds(steps))

    def expected(self) -> Answer:
        """Return the answer, computed by DuckDB directly from the files."""
        with duckdb.connect() as con:
            for name, files in self.inputs.items():
                con.execute(f"create view {name} as from read_parquet('{files}/*.parquet')")
            return con.sql(self.answer.format(f"({self.statement})")).fetchall()

    def written(self, folder: Path) -> Answer:
        """Return the answer from what Ray Data wrote."""
        with duckdb.connect() as con:
            return con.sql(self.answer.format(f"'{folder}/{self.table}/*.parquet'")).fetchall()


def cases(scale: float, only: Sequence[str] = ()) -> Iterator[Case]:
    """Yield each job, or only the given ones."""
    rows = max(10, round(ROWS * scale))
    if "etl" in only or not only:
        lines = data.lineitem_csv(scale)
        ours = on_ray(partial(etl.job, lines, settings=SETTINGS, clock=took))
        facts = {"bytes_in": data.size_bytes(lines), **SETTINGS}
        yield Case("etl", etl.expected(lines), [ours, _stock("etl", [lines], etl.answer)], facts)
    if "groupby" in only or not only:
        select = (
            f"select (hash(i) % {max(1, round(GROUPS * scale))})::bigint as k, (hash(i, 1) % 10000)::double / 100 as v"
        )
        files = data.made("raydata-groupby", select, rows)
        yield from _queried("groupby", Query("totals", grouping.TOTALS, grouping.ANSWER, {"rows": files}))
    if "join" in only or not only:
        sides = {
            side: data.made(f"raydata-{side}", f"select (i * {prime} % {rows})::bigint as id, {_VALUES}", rows)
            for side, prime in joining.PRIMES.items()
        }
        yield from _queried("join", Query("joined", joining.JOINED, joining.ANSWER, sides))


_VALUES = ", ".join(f"hash(i, '{column}') / 2::double ** 64 as {column}" for column in "abcd")


def _queried(name: str, query: Query) -> Iterator[Case]:
    arguments = list(query.inputs.values())
    facts = {"bytes_in": sum(map(data.size_bytes, arguments)), **SETTINGS}
    with query.loaded() as base:
        contestants = [on_ray(partial(query.job, base)), _stock(name, arguments, query.written)]
        yield Case(name, query.expected(), contestants, facts)


def _stock(job: str, arguments: Sequence[Path], answer: Callable[[Path], Answer]) -> Contestant:
    """Return stock Ray Data, in this environment, on a cluster that is started before the measurement."""
    script = Script("raydata", job, arguments, answer)

    def run(folder: Path) -> Ran:
        with running() as nodes:
            return script.run(folder, Path(sys.executable), environ=nodes.environ, beside=nodes.pids)

    return Contestant("raydata", run)
