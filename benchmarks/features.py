"""Time and memory to make a training set: labelled rows with the features of five views, as they were at the time of each row.

Each view has a fifth as many rows as there are labelled rows, 5 to 80 of them for each entity, and two features; two views have
a time to live. For Headwater, the time of the entire `headwater run` process is measured, from Delta tables to a Delta table with
a unique key; the labelled rows and the views are loaded before. DuckDB runs five ASOF joins that are written by hand, and Feast
its point-in-time join with its DuckDB offline store, both over Parquet files. The answer is the count and the sum of each feature.
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
from benchmarks.peers.feature_views import FEATURES, HISTORY, TTL_DAYS, VIEWS, joined
from benchmarks.project import Project, ours, seconds, source_text, written

SIZES = {"1M": 10**6, "10M": 10**7}
"""Labelled rows at scale 1."""
MOST_IN_FEAST = 10**6
"""Feast joins each labelled row to all earlier rows of its entity: ten times as many rows need more than 16 GB of memory."""
YEAR_US = 365 * 86_400_000_000
ANSWER = f"select count(*), sum(id)::double, {', '.join(f'count({n}), sum({n})' for n in FEATURES)} from {{}}"


def cases(scale: float, only: Sequence[str] = ()) -> Iterator[Case]:
    """Yield each size, or only the given ones."""
    for name, size in SIZES.items():
        if name in only or not only:
            rows = max(1_000, round(size * scale))
            labels, views = _labels(rows), [_view(n, rows // len(VIEWS)) for n in VIEWS]
            size_bytes = sum(data.size_bytes(files) for files in (labels, *views))
            facts = {"rows": rows, "views": len(views), "rows of each view": rows // len(VIEWS), "bytes_in": size_bytes}
            arguments: list[str | Path] = [labels, *views]
            peers = [peer(Script("duckdb", "features", arguments, _answer))]
            if rows <= MOST_IN_FEAST:
                peers.append(peer(Script("feast", "features", arguments, _answer, home="-feast")))
            with _loaded(labels, views) as base:
                yield Case(name, _expected(labels, views), [*ours(partial(_job, base)), *peers], facts)


def _time(of: str) -> str:
    return f"timestamp '2025-01-01' + to_microseconds({of})"


def _labels(rows: int) -> Path:
    entities = ", ".join(f"(hash(i, 'e{n}') % {_entities(n, rows)})::bigint as e{n}" for n in VIEWS)
    at = _time(f"(hash(i, 'at') % {YEAR_US})::bigint")
    return data.made(
        "feature-labels", f"select i::bigint as id, {entities}, {at} as at, (hash(i, 'y') % 2)::int as y", rows
    )


def _view(number: int, rows: int) -> Path:
    """Return the rows of a view, in the order of their times, which are unique."""
    entities = _entities(number, rows * len(VIEWS))
    values = ", ".join(f"hash(i, '{name}{number}') / 2::double ** 64 as {name}{number}" for name in "ab")
    select = f"select (hash(i, 'v{number}') % {entities})::bigint as e{number}, {_time(f'i * {YEAR_US // rows}')} as t, {values}"
    return data.made(f"feature-view{number}", select, rows)


def _entities(number: int, labelled_rows: int) -> int:
    return max(1, labelled_rows // len(VIEWS) // HISTORY[number])


@contextmanager
def _loaded(labels: Path, views: Sequence[Path]) -> Iterator[Path]:
    base = data.home() / f"features-lake-{labels.name}"
    shutil.rmtree(base, ignore_errors=True)
    texts = ["from ml import feature_view, features, training_set\n", source_text("labels", labels / "*.parquet")]
    for n, (files, days) in enumerate(zip(views, TTL_DAYS, strict=True)):
        ttl = "" if days is None else f", ttl='{days} days'"
        texts.append(source_text(f"rows{n}", files / "*.parquet"))
        texts.append(
            f"v{n} = feature_view('select e{n}, t, a{n}, b{n} from rows{n}', entity='e{n}', event_time='t'{ttl})\n"
        )
    columns = ", ".join(("id", *(f"e{n}" for n in VIEWS), "at", "y"))
    chosen = ", ".join(f"features('v{n}')" for n in VIEWS)
    texts.append(
        f"examples = training_set('select {columns} from labels', key='id', event_time='at', features=[{chosen}])\n"
    )
    project = Project(written(base, "".join(texts)))
    project.run("labels", *(f"rows{n}" for n in VIEWS), *(f"v{n}" for n in VIEWS))
    yield base
    shutil.rmtree(base)


def _job(base: Path, nodes: Nodes | None, folder: Path) -> Ran:
    del folder  # all runs use the rows that are already loaded
    project = Project(base, nodes)
    result, steps = project.run("examples", full=True)
    return Ran(
        result.seconds, result.seconds, result.peak_bytes, project.rows(ANSWER.format("examples")), seconds(steps)
    )


def _expected(labels: Path, views: Sequence[Path]) -> Answer:
    with duckdb.connect() as con:
        return con.sql(ANSWER.format(f"({joined(labels, views)})")).fetchall()


def _answer(folder: Path) -> Answer:
    with duckdb.connect() as con:
        return con.sql(ANSWER.format(f"'{folder}/examples/*.parquet'")).fetchall()
