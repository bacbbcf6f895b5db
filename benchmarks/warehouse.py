"""Marts after 1 % of new facts, and the queries of a dashboard over the warehouse.

`refresh`: facts exist, and a mart groups them by day and shop. New facts arrive. Compared is the step of the mart: reading, aggregating,
writing the rows, the commit, the warehouse and the catalog. DuckDB aggregates all facts from the same Parquet files into
its own file. `marts` and `star`: four queries with 50 values each, over marts and over a star schema of 10 million facts at scale 1; compared is
the 95th percentile of the calls in one process.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import duckdb

from benchmarks import data, star_schema
from benchmarks.interleaved_runs import Answer, Case, Contestant, Ran
from benchmarks.peer import Script, interpreter, peer, require
from benchmarks.peers.dashboard import sums
from benchmarks.project import Project, seconds, source_text, written

FACTS = 60_000_000
"""The number of facts of `refresh` at scale 1; 1 % as many are new."""
ASKED = 10_000_000
"""The number of facts of `marts` and `star` at scale 1."""
ROWS = (
    "select i::bigint as id, (hash(i) % 100)::integer as shop, date '2026-01-01' + (hash(i + 1) % 365)::integer as day, "
    "(hash(i + 2) % 100000)::double / 100 as price, ((hash(i + 3) % 100000) / 100)::decimal(12, 2) as amount"
)
MART = "select day, shop, count(*) as sales, sum(amount) as amount, avg(price) as price, max(price) as dearest from {} group by day, shop"
ANSWER = "select count(*), sum(sales)::double, sum(amount)::double, sum(price), max(dearest) from {}"


def cases(scale: float, only: Sequence[str] = ()) -> Iterator[Case]:
    """Yield `refresh`, `marts` and `star`, or only the given ones."""
    every: dict[str, Callable[[float], Case]] = {
        "refresh": _refresh,
        "marts": partial(_asked, "marts"),
        "star": partial(_asked, "star"),
    }
    for name, case in every.items():
        if name in only or not only:
            yield case(scale)


def _refresh(scale: float) -> Case:
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
    return Case("refresh", _expected(facts, news), [*ours, duck], {"rows": rows, "new": rows // 100})


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


def _asked(of: str, scale: float) -> Case:
    rows = max(20_000, round(ASKED * scale))
    sales = data.made("star-sales", star_schema.sales(rows), rows)
    project = _star(sales)
    contestants = [
        _timed(name, Script("headwater", job, [project, of], _answers, "parts"), Path(sys.executable))
        for name, job in (("call", "queries"), ("open", "queries_open"))
    ]
    duck = _timed("duckdb", Script("duckdb", "queries", [sales, of], _answers, "parts"))
    return Case(of, _right(of, sales), [*contestants, duck], {"rows": rows})


def _timed(name: str, script: Script, python: Path | None = None) -> Contestant:
    """Return a contestant of which the 95th percentile of the calls is compared."""

    def run(folder: Path) -> Ran:
        if python is None:
            require(script)
        ran = script.run(folder, python or interpreter())
        return replace(ran, seconds=ran.parts["p95"])

    return Contestant(name, run, is_ours=python is not None)


def _star(sales: Path) -> Path:
    """Return the project whose warehouse has the star schema."""

    def make(folder: Path) -> None:
        project = written(folder, star_schema.DEFINITIONS)
        (project / "data").mkdir()
        (project / "data" / "sales").symlink_to(sales)
        with duckdb.connect() as con:
            for name, select in star_schema.MEMBERS.items():
                con.execute(f"copy ({select}) to '{project}/data/{name}.parquet'")
        Project(project).run()

    return data.once(f"star-project-{sales.name}", make)


def _right(of: str, sales: Path) -> Answer:
    with duckdb.connect() as con:
        for statement in star_schema.IN_DUCKDB:
            con.execute(statement.format(sales))
        return [
            [name, *sums([con.sql(text).to_arrow_table() for text in texts])]
            for name, texts in star_schema.asked(of).items()
        ]


def _answers(folder: Path) -> Answer:
    answers: Answer = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    return answers
