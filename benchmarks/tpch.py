"""Time of TPC-H's 22 queries as Headwater tables, compared with DuckDB and Spark over Parquet.

The eight tables are sources, loaded into the lake once before the measurement (`facts.load`); each query is a table.
The total time of all queries is compared. For Headwater it is the recorded time of the run: for each table, read the
lake's log, decide, compute, write Parquet with statistics, commit, update the catalog; independent tables are computed
concurrently. For peers it is the sum of the queries: read Parquet, compute, write Parquet. `wall` is the entire
process. The results are compared row by row with DuckDB's over the same files.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from string import Template

import duckdb

from benchmarks import data
from benchmarks.interleaved_runs import Answer, Case, Ran
from benchmarks.nodes import Nodes
from benchmarks.peer import Script, peer
from benchmarks.project import Project, ours, source_text, took, written

TABLES = ("customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier")
QUERIES = Path(__file__).parent / "tpch.sql"
SIX_DIGITS = 1e-4
"""Relative tolerance between Spark's decimals and DuckDB's floats: Spark's averages and quotients have six digits."""


def queries(scale: float) -> dict[str, str]:
    """Return the queries by name."""
    text = Template(QUERIES.read_text(encoding="utf-8")).substitute(scale=f"{scale:g}")
    return dict(re.findall(r"-- (q\d\d)\n(.*?);", text, re.DOTALL))


def cases(scale: float, only: Sequence[str] = ()) -> Iterator[Case]:
    """Yield the only case: all queries, or only the given ones."""
    tables = data.tpch_parquet(scale)
    selected = {name: text for name, text in queries(scale).items() if name in only or not only}
    base = data.home() / f"tpch-lake-{scale:g}"
    shutil.rmtree(base, ignore_errors=True)
    texts = [source_text(name, tables / name / "*.parquet") for name in TABLES]
    texts += [f"{name} = sql({query!r})\n" for name, query in selected.items()]
    loaded, _ = Project(written(base, "".join(texts))).run(*TABLES)
    scripts = base / "queries.sql"
    scripts.write_text(";\n".join(f"-- {name}\n{query}" for name, query in selected.items()), encoding="utf-8")
    facts = {"bytes_in": data.size_bytes(tables), "load": {"seconds": loaded.seconds, "peak_bytes": loaded.peak_bytes}}
    answer = partial(_answer, selected)
    peers = [
        peer(Script("duckdb", "tpch", [tables, scripts], answer, "parts")),
        peer(Script("spark", "tpch", [tables, scripts], answer, "parts"), relative=SIX_DIGITS),
    ]
    yield Case("tpch", _expected(tables, selected), [*ours(partial(_job, base, selected)), *peers], facts)
    shutil.rmtree(base)


def _job(base: Path, selected: Mapping[str, str], nodes: Nodes | None, folder: Path) -> Ran:
    del folder  # all runs use the loaded tables
    project = Project(base, nodes)
    result, steps = project.run(*selected, full=True)
    seconds = {name: steps[name].seconds for name in selected}
    rows = [(name, *row) for name in selected for row in project.rows(f"select * from {name} order by all")]
    return Ran(took(result), result.seconds, result.peak_bytes, rows, seconds)


def _expected(tables: Path, selected: Mapping[str, str]) -> Answer:
    with duckdb.connect() as con:
        for name in TABLES:
            con.execute(f"create view {name} as from read_parquet('{tables}/{name}/*.parquet')")
        return [(n, *row) for n, q in selected.items() for row in con.sql(f"from ({q}) order by all").fetchall()]


def _answer(selected: Mapping[str, str], folder: Path) -> Answer:
    with duckdb.connect() as con:
        scans = {name: f"from read_parquet('{folder}/{name}/*.parquet') order by all" for name in selected}
        return [(name, *row) for name, scan in scans.items() for row in con.sql(scan).fetchall()]
