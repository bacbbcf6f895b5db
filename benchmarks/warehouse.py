"""Seconds to bring a mart up to date after 1 % of new facts: refreshed, recomputed, and recomputed by DuckDB.

Facts exist, and a mart groups them by day and shop. New facts arrive. Compared is the step of the mart: reading, aggregating,
writing the rows, the commit, the warehouse and the catalog. DuckDB aggregates all facts from the same Parquet files into
its own file.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import duckdb

from benchmarks import data
from benchmarks.interleaved_runs import Answer, Case, Contestant, Ran
from benchmarks.peer import Script, peer
from benchmarks.project import Project, seconds, source_text, written

FACTS = 60_000_000
"""The number of facts at scale 1; 1 % as many are new."""
ROWS = (
    "select i::bigint as id, (hash(i) % 100)::integer as shop, date '2026-01-01' + (hash(i + 1) % 365)::integer as day, "
    "(hash(i + 2) % 100000)::double / 100 as price, ((hash(i + 3) % 100000) / 100)::decimal(12, 2) as amount"
)
MART = "select day, shop, count(*) as sales, sum(amount) as amount, avg(price) as price, max(price) as dearest from {} group by day, shop"
ANSWER = "select count(*), sum(sales)::double, sum(amount)::double, sum(price), max(dearest) from {}"


def cases(scale: float, only: Sequence[str] = ()) -> Iterator[Case]:
    """Yield the case `refresh`."""
    if only and "refresh" not in only:
        return
    rows = max(200_000, round(FACTS * scale))
    facts = data.made("facts", ROWS, rows)
    news = data.made(
        f"facts-after-{rows}",
        ROWS.replace("hash(i", f"hash({rows} + i").replace("i::bigint", f"{rows} + i"),
        rows // 100,
    )
    ours = [
        Contestant("auto", partial(_refreshed, facts, news), is_ours=True),
        Contestant("full", partial(_recomputed, facts, news), is_ours=True),
    ]
    duck = peer(Script("duckdb", "refresh", [facts, news, MART.format("facts")], _of_duckdb, "parts"))
    yield Case("refresh", _expected(facts, news), [*ours, duck], {"rows": rows, "new": rows // 100})


def _refreshed(facts: Path, news: Path, folder: Path) -> Ran:
    return _ran(_with_news(facts, news, folder))


def _recomputed(facts: Path, news: Path, folder: Path) -> Ran:
    project = _with_news(facts, news, folder)
    project.run("facts")
    return _ran(project, "sales", full=True)


def _with_news(facts: Path, news: Path, folder: Path) -> Project:
    project = Project(data.copied(_base(facts), folder / "project"))
    for file in news.iterdir():
        shutil.copy(file, project.folder / "data" / f"new-{file.name}")
    return project


def _ran(project: Project, *select: str, full: bool = False) -> Ran:
    result, steps = project.run(*select, full=full)
    parts = {"sales": seconds(steps)["sales"]}
    return Ran(sum(parts.values()), result.seconds, result.peak_bytes, project.rows(ANSWER.format("sales")), parts)


def _base(facts: Path) -> Path:
    """Return the project with the loaded facts and the mart; the source's path is relative, so it can be copied."""

    def make(folder: Path) -> None:
        definitions = source_text("facts", Path("data/*.parquet")) + f'sales = mart("""{MART.format("facts")}""")\n'
        project = written(folder, definitions)
        (project / "data").mkdir()
        for file in facts.iterdir():
            (project / "data" / file.name).symlink_to(file)
        Project(project).run()

    return data.once(f"warehouse-project-{facts.name}", make)


def _expected(facts: Path, news: Path) -> Answer:
    with duckdb.connect() as con:
        files = f"read_parquet(['{facts}/*.parquet', '{news}/*.parquet'])"
        return con.sql(ANSWER.format(f"({MART.format(files)})")).fetchall()


def _of_duckdb(folder: Path) -> Answer:
    with duckdb.connect(str(folder / "sales.duckdb")) as con:
        return con.sql(ANSWER.format("sales")).fetchall()
