"""Correctness and throughput of NEXMark queries.

Persons, auctions and bids are loaded into three topics. Each query is streamed until it has read them, and its table is
compared, as a multiset of rows, with the result of the query's oracle over the same events in plain SQL.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from benchmarks.interleaved_runs import Figures, UnableError
from benchmarks.kafka import Cluster
from benchmarks.measure import measure
from benchmarks.nexmark.events import KEYS, KINDS, SCHEMAS, House
from benchmarks.nexmark.queries import QUERIES, Query
from benchmarks.project import HEADWATER, Project, written
from benchmarks.stream.events import PARTITIONS, STAMP
from benchmarks.stream.jobs import IMPORTS
from benchmarks.stream.load import fill
from benchmarks.stream.rig import broker
from pipeline.project import Workspace, load

EVENTS = 1_000_000
SIDES = "sides = source(files('sides.parquet'), schema={'id': 'bigint', 'value': 'varchar'})\n"


def measured(scale: float, folder: Path, only: Sequence[str] = ()) -> Figures:
    """Stream each query, or the given ones, and return the figures; a failed query has its reason."""
    house = House(max(500, round(EVENTS * scale)))
    cases: dict[str, Figures] = {}
    with duckdb.connect() as con, broker(folder) as cluster:
        house.build(con)
        _fill(cluster, con)
        sources = "".join(_source(kind, cluster.bootstrap) for kind in KINDS)
        for name, query in QUERIES.items():
            if name in only or not only:
                with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=folder) as place:
                    try:
                        cases[name] = {**_asked(con, query, sources, Path(place)), "note": query.note}
                    except UnableError as error:
                        cases[name] = {"skipped": str(error), "note": query.note}
    rates = {name: case["events_per_s"] for name, case in cases.items() if "events_per_s" in case}
    return {"events": house.events, "queries": cases, "events_per_s": rates}


def streamed(query: Query, sources: str, folder: Path) -> tuple[Project, dict[str, float]]:
    """Write a project for a query and update its tables; return the seconds and the peak memory in bytes."""
    tables = "".join(table.text(name) for name, table in {**query.tables, **query.afterwards}.items())
    project = Project(written(folder, sources + SIDES + tables))
    if any("sides" in table.sql for table in query.tables.values()):
        _sides(folder)
        project.run("sides")
    result, _ = project.stream(*query.tables, drain=True)
    figures = {"seconds": result.seconds, "peak_bytes": float(result.peak_bytes)}
    if query.afterwards:
        batch = measure([HEADWATER, "run", "--json", *(w for n in query.afterwards for w in ("--select", n))], folder)
        if batch.code:
            raise UnableError(f"headwater run exited with {batch.code}: {batch.errors[-300:]}")
        figures["afterwards_seconds"] = batch.seconds
    return project, figures


def differences(con: duckdb.DuckDBPyConnection, query: Query, actual: pa.Table) -> tuple[int, int]:
    """Return the number of missing and of unexpected rows compared with the oracle."""
    con.register("actual", actual)
    columns = ", ".join(_comparable(column, con.sql(query.oracle)) for column in query.columns)
    con.execute(f"create or replace temp view expected as {query.oracle}")
    sides = (f"select {columns} from expected", f"select {columns} from actual")
    missing, unexpected = (_count(con, f"(({left}) except all ({other}))") for left, other in (sides, sides[::-1]))
    con.unregister("actual")
    return missing, unexpected


def _count(con: duckdb.DuckDBPyConnection, of: str) -> int:
    return int(con.sql(f"select count(*) from {of}").fetchall()[0][0])


def _comparable(column: str, of: duckdb.DuckDBPyRelation) -> str:
    """Return an expression that makes equal numbers of different types compare equal; fractions have three digits."""
    kind = str(of.types[of.columns.index(column)])
    if kind in {"DOUBLE", "FLOAT"} or kind.startswith("DECIMAL"):
        return f"round({column}::double, 3) as {column}"
    return f"{column}::{kind} as {column}"


def _asked(con: duckdb.DuckDBPyConnection, query: Query, sources: str, folder: Path) -> Figures:
    project, figures = streamed(query, sources, folder)
    table = Workspace(load(project.folder)).query(f"from {query.answer}")
    missing, unexpected = differences(con, query, table)
    read = _read(con, query)
    if missing or unexpected:
        raise UnableError(f"wrong answer: {missing} rows missing, {unexpected} unexpected of {table.num_rows}")
    return {**figures, "rows": table.num_rows, "events": read, "events_per_s": read / figures["seconds"]}


def _read(con: duckdb.DuckDBPyConnection, query: Query) -> int:
    """Return the number of events that a query's streams read, counting each kind once."""
    texts = " ".join(table.sql for table in query.tables.values())
    return sum(_count(con, kind) for kind in KINDS if re.search(rf"(from|join) {kind}\b|^{kind}$", texts))


def _source(kind: str, brokers: str) -> str:
    return (
        f"{IMPORTS}{kind} = source(kafka({kind!r}, servers={brokers!r}), schema={SCHEMAS[kind]!r}, "
        "event_time='date_time', stored=False)\n"
    )


def messages(con: duckdb.DuckDBPyConnection, kind: str) -> pa.Table:
    """Return the events of a kind as JSON with their partitions, ordered by time."""
    schema: Mapping[str, str] = SCHEMAS[kind]
    texts = {"timestamp": f"strftime({{}}, '{STAMP}')"}
    fields = ", ".join(f"{name!r}: {texts.get(of, '{}').format(name)}" for name, of in schema.items())
    key = KEYS[kind]
    return con.sql(
        f"""select to_json({{{fields}}})::varchar::blob as text, {key}::varchar::blob as key,
            {key} % {PARTITIONS} as partition
        from {kind} order by date_time, rowid"""
    ).to_arrow_table()


def _fill(cluster: Cluster, con: duckdb.DuckDBPyConnection) -> None:
    for kind in KINDS:
        cluster.create_topic(kind, PARTITIONS)
        fill(cluster.bootstrap, kind, messages(con, kind))


def _sides(folder: Path) -> None:
    with duckdb.connect() as con:
        con.execute(
            f"copy (select range as id, 'side ' || range as value from range(1000)) to '{folder / 'sides.parquet'}'"
        )


def show(figures: Figures) -> None:
    """Print the queries."""
    print(f"{'':6} {'events/s':>10} {'seconds':>8} {'rows':>9}")
    for name, case in figures["queries"].items():
        print(_line(name, case))


def _line(name: str, case: Mapping[str, Any]) -> str:
    asks = QUERIES[name].asks
    if "skipped" in case:
        return f"{name:6} skipped: {case['skipped'][:110]}  ({asks})"
    return f"{name:6} {case['events_per_s']:10,.0f} {case['seconds']:8.2f} {case['rows']:9,}  {asks}"
