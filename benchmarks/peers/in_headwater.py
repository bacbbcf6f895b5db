"""Headwater in process, with its own interpreter: a definition called on an Arrow table, as in a unit test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from benchmarks.peers.dashboard import ask
from benchmarks.peers.online_reads import ASKED, FEATURES, for_seconds, timed, together
from benchmarks.peers.timings import Clock
from ml import feature_view, features
from ml.features.online.opening import open_store
from ml.features.online.reading import FeatureReader
from ml.features.online.target import FeatureTarget
from ml.features.point_in_time import Join
from pipeline import sql
from pipeline.core.sinks import Delivery, SinkPosition
from pipeline.project import Workspace, load
from pipeline.warehouse.duckdb import DuckDBWarehouse


def groupby(clock: Clock, rows: str, to: str) -> None:
    """Five aggregates by one key, from an in-memory table to an in-memory table: the median after a warm-up call."""
    totals = sql("select k, count(*) as n, sum(v) as total, avg(v) as mean, max(v) as most from rows group by k")
    table = pq.read_table(rows)
    result = clock.often("totals", lambda: totals(rows=table))
    Path(to, "totals").mkdir()
    pq.write_table(result, f"{to}/totals/0.parquet")


def point(clock: Clock, project: str, number: str, to: str) -> None:
    """Read the row of a key."""
    text = f"select id, step, balance, owner from accounts where id = {number}"
    pq.write_table(clock.often("point", lambda: _query(project, text)), f"{to}/rows.parquet")


def travel(clock: Clock, project: str, number: str, to: str) -> None:
    """Sum a column of the first version."""
    del number
    text = "select sum(step)::bigint as total from accounts"
    pq.write_table(clock.often("travel", lambda: _query(project, text, at={"accounts": 0})), f"{to}/rows.parquet")


def queries(clock: Clock, project: str, of: str, to: str) -> None:
    """Ask the queries of a dashboard over the warehouse: each opens the file and closes it, so that runs can load it."""
    warehouse = Workspace(load(Path(project))).warehouse
    ask(clock, of, warehouse.query, to)


def queries_open(clock: Clock, project: str, of: str, to: str) -> None:
    """Ask them with one connection that stays open: no run can load the file meanwhile."""
    warehouse = Workspace(load(Path(project))).warehouse
    with cast("DuckDBWarehouse", warehouse).read() as con:
        ask(clock, of, lambda text: con.sql(text).to_arrow_table(), to)


def online(clock: Clock, url: str, data: str, to: str) -> None:
    """Load a feature view into an online store and read it."""
    columns = [f"f{n}" for n in range(FEATURES)]
    view = feature_view(f"select e, t, {', '.join(columns)} from rows", entity="e", event_time="t").named("view")
    files = pa.dataset.dataset(data)
    with clock.part("load"), closing(open_store(url, "bench", "dev")) as store:
        rows = files.scanner().to_reader()
        none = files.schema.empty_table()
        delivery = Delivery(SinkPosition(0), None, rows, none, view.key, is_whole=True)
        FeatureTarget(store, view).write(delivery)
    count = files.count_rows()
    read = _online_reader(url)
    answer = read(ASKED).append_column("e", pa.array(ASKED))
    pq.write_table(answer.select(["e", "f0", "f99"]), f"{to}/rows.parquet")
    timed(clock, read, count)
    together(clock, partial(_online_reads, url), count)


def _online_reader(url: str) -> Callable[[Sequence[int]], pa.Table]:
    columns = ", ".join(f"f{n}" for n in range(FEATURES))
    view = feature_view(f"select e, t, {columns} from rows", entity="e", event_time="t").named("view")
    reader, joins = FeatureReader(open_store(url, "bench", "dev")), [Join(view, features("view"), "f0")]
    return lambda keys: reader.read(joins, pa.table({"e": pa.array(keys)})).values


def _online_reads(url: str, seconds: float, entities: int) -> int:
    return for_seconds(_online_reader(url), seconds, entities)


def _query(project: str, text: str, at: dict[str, int] | None = None) -> pa.Table:
    return Workspace(load(Path(project))).query(text, at=at)


JOBS: dict[str, Callable[..., None]] = {
    "groupby": groupby,
    "online": online,
    "point": point,
    "travel": travel,
    "queries": queries,
    "queries_open": queries_open,
}

if __name__ == "__main__":
    clock = Clock()
    JOBS[sys.argv[1]](clock, *sys.argv[2:])
    clock.say()
