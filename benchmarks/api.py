"""Rows of a table over HTTP, compared with other servers of tables, and with a server that does nothing.

A table of ten million trips with a key. Cases: `cached`, the same page again; `point`, a row by its key; `page`, the first rows of a
filter; `aggregate`, a sum by a group; `export`, all rows of a filter as Arrow (CSV for Datasette, Arrow for ROAPI). Parts, for 1, 16 and 64
connections that ask again as soon as they have an answer: the median, the 99th percentile, `each`, the seconds between two answers, and
`MB`, the seconds for each megabyte. `shared` has a Valkey server for several replicas; what that is for is the case `cold`: a replica that
has answered nothing is asked for sums that another one has answered twice, with the server and without it (`alone`). Otherwise, compared are the sums of `each`. Our requests are authenticated, limited and recorded; those of the others are
not. `bare` is uvicorn with the bytes of our response. The client needs cores of the same machine.
"""

from __future__ import annotations

import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb

from benchmarks import data
from benchmarks.interleaved_runs import Answer, Case, Contestant, Ran, UnableError
from benchmarks.peer import interpreter
from benchmarks.served import HEADWATER, answered, command, loaded, server
from benchmarks.valkey import valkey
from cluster.local.ports import unused_port

ROWS = 10_000_000
CONNECTIONS = "1,16,64"
SECONDS = 5.0
_POINTS = 2_000
_SUMS = 100
_DEFINITIONS = """
from pipeline import files, mart, source

raw_trips = source(files("{files}/*.parquet"))
trips = mart("select id, station, km, fare from raw_trips", key="id")
"""
_TOML = """\
[project]
name = "trips"
definitions = "trips.py"

[env.dev.serve]
requests_per_second = 1_000_000
burst = 1_000_000
"""
_BARE = """
import sys
import uvicorn

BODY = open(sys.argv[2], "rb").read()
HEAD = {"type": "http.response.start", "status": 200,
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]}
BODY = {"type": "http.response.body", "body": BODY}

async def app(scope, receive, send):
    await send(HEAD)
    await send(BODY)

uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False, lifespan="off")
"""


@dataclass(frozen=True)
class _Question:
    """What a case asks of each server, as paths, and how its rows are read from the first answer."""

    ours: Sequence[str]
    roapi: Sequence[str]
    datasette: Sequence[str]
    sql: str
    """The statement whose rows are the right answer."""
    accept: str = "application/json"


def _questions(rows: int) -> dict[str, _Question]:
    points = [number * 7_919 % rows for number in range(_POINTS)]
    return {
        "cached": _Question(
            ["/v1/tables/trips?select=id,km&order=id&limit=20"],
            ["/api/tables/trips?columns=id,km&sort=id&limit=20"],
            ["/trips/trips.json?_shape=array&_col=id&_col=km&_sort=id&_size=20"],
            "select id, km from trips order by id limit 20",
        ),
        "point": _Question(
            [f"/v1/tables/trips?select=id,km&id=eq.{point}&limit=1" for point in points],
            [f"/api/tables/trips?columns=id,km&filter[id]={point}" for point in points],
            [f"/trips/trips.json?_shape=array&_col=id&_col=km&id={point}&_nofacet=1&_nocount=1" for point in points],
            f"select id, km from trips where id = {points[0]}",
        ),
        "page": _Question(
            [f"/v1/tables/trips?select=id,km&station=eq.s{n}&order=km.desc,id&limit=20" for n in range(500)],
            [f"/api/tables/trips?columns=id,km&filter[station]='s{n}'&sort=-km,id&limit=20" for n in range(500)],
            [
                "/trips.json?_shape=array&sql=" + quote(f"select id, km from trips where station = 's{n}' order by km desc, id limit 20")
                for n in range(500)
            ],
            "select id, km from trips where station = 's0' order by km desc, id limit 20",
        ),
        "aggregate": _Question(
            [f"/v1/tables/trips?select=station,count()&km=lt.{n / 100 + 1}&order=station&limit=1000" for n in range(500)],
            [],
            ["/trips.json?_shape=array&sql=" + quote(f"select station, count(*) as count from trips where km < {n / 100 + 1} group by station order by station") for n in range(500)],
            "select station, count(*) as count from trips where km < 1 group by station order by station",
        ),
        "export": _Question(
            ["/v1/tables/trips?limit=all&id=lt.2000000"],
            [],
            [],
            "",
            "application/vnd.apache.arrow.stream",
        ),
    }  # fmt: skip


def cases(scale: float, only: Sequence[str] = ()) -> Iterator[Case]:
    """Yield the cases, all or those that are named."""
    rows = max(20_000, round(ROWS * scale))
    made = "select i as id, 's' || (hash(i) % 500) as station, (hash(i, 1) % 10000) / 100.0 as km, (hash(i, 2) % 10000)::integer as fare"
    files = data.made("trips", made, rows)
    seconds = max(0.5, SECONDS * min(scale * 10, 1.0))
    if not only or "cold" in only:
        asked = _questions(rows)["aggregate"]
        contestants = [
            Contestant("auto", partial(_cold, files, asked, is_shared=True), is_ours=True),
            Contestant("alone", partial(_cold, files, asked, is_shared=False)),
        ]
        yield Case("cold", _expected(files, asked), contestants, {"rows": rows})
    for name, question in _questions(rows).items():
        if only and name not in only:
            continue
        contestants = [Contestant("auto", partial(_ours, files, question, seconds), is_ours=True)]
        if name in {"cached", "point"}:
            contestants.append(Contestant("shared", partial(_shared, files, question, seconds), is_ours=True))
        if name == "cached":
            contestants.append(Contestant("bare", partial(_bare, files, question, seconds)))
        if question.roapi:
            contestants.append(Contestant("roapi", partial(_roapi, files, question, seconds)))
        if question.datasette:
            contestants.append(Contestant("datasette", partial(_datasette, files, question, seconds)))
        yield Case(name, _expected(files, question), contestants, {"rows": rows, "seconds": seconds})


def _expected(files: Path, question: _Question) -> Answer:
    if not question.sql:
        return [(True,)]
    with duckdb.connect() as con:
        con.execute(f"create view trips as select * from '{files}/*.parquet'")
        return con.execute(question.sql).fetchall()


def _shared(files: Path, question: _Question, seconds: float, folder: Path) -> Ran:
    with valkey(folder) as url:
        return _ours(files, question, seconds, folder, url)


def _cold(files: Path, question: _Question, folder: Path, *, is_shared: bool) -> Ran:
    """Return how long a replica takes for each answer that another one has given twice."""
    begun = time.perf_counter()
    with ExitStack() as stack:
        project, key = _project(files, folder, stack.enter_context(valkey(folder)) if is_shared else "")
        host = "data.example.com"  # both have one address for their clients
        headers, asked = {"Authorization": f"Bearer {key}", "Accept": question.accept, "Host": host}, []
        for name in ("warm", "cold"):
            (folder / name).mkdir()
            port, direct = unused_port(), unused_port()
            words = [HEADWATER, "serve", "--port", port, "--direct-port", direct, "--project", project]
            stack.enter_context(server(words, folder / name, f"http://127.0.0.1:{port}/health"))
            asked.append({"url": f"http://127.0.0.1:{direct}", "headers": headers})
        warm, cold = asked
        for path in [*question.ours[:_SUMS], *question.ours[:_SUMS]]:
            answered(warm, path)
        taken, answer = [], answered(cold, question.ours[0])["rows"]
        for path in question.ours[1:_SUMS]:
            asked_at = time.perf_counter()
            answered(cold, path)
            taken.append(time.perf_counter() - asked_at)
    parts = {"p50": statistics.median(taken), "each": statistics.fmean(taken)}
    rows = [tuple(row.values()) for row in answer]
    return Ran(parts["each"], time.perf_counter() - begun, 0, rows, parts)


def _project(files: Path, folder: Path, redis_url: str) -> tuple[Path, str]:
    """Return the folder of a project whose table is computed, and a key."""
    project = folder / "project"
    project.mkdir()
    (project / "headwater.toml").write_text(_TOML + (f'redis_url = "{redis_url}"\n' if redis_url else ""))
    (project / "trips.py").write_text(_DEFINITIONS.format(files=files))
    command("run", "--no-summary", "--project", project)
    return project, command("keys", "create", "benchmark", "--project", project)


def _ours(files: Path, question: _Question, seconds: float, folder: Path, redis_url: str = "") -> Ran:
    project, key = _project(files, folder, redis_url)
    port, direct = unused_port(), unused_port()
    words = [HEADWATER, "serve", "--port", port, "--direct-port", direct, "--project", project]
    with server(words, folder, f"http://127.0.0.1:{port}/health") as process:
        headers = {"Authorization": f"Bearer {key}", "Accept": question.accept}
        asked = {"url": f"http://127.0.0.1:{direct}", "paths": question.ours, "headers": headers}
        return _measured(asked, question, seconds, folder, process, lambda found: found["rows"])


def _bare(files: Path, question: _Question, seconds: float, folder: Path) -> Ran:
    """Return the figures of uvicorn with the bytes of our response."""
    lines = ",\n".join(f'{{"id":{key},"km":{km}}}' for key, km in _expected(files, question))
    (folder / "body.json").write_text(f'{{"table": "trips", "version": 0, "rows": [{lines}], "next": null}}')
    (folder / "bare.py").write_text(_BARE)
    port = unused_port()
    words = [HEADWATER.with_name("python"), folder / "bare.py", port, folder / "body.json"]
    with server(words, folder, f"http://127.0.0.1:{port}/") as process:
        asked = {"url": f"http://127.0.0.1:{port}", "paths": ["/"]}
        return _measured(asked, question, seconds, folder, process, lambda found: found["rows"])


def _roapi(files: Path, question: _Question, seconds: float, folder: Path) -> Ran:
    program, port = _program("roapi"), unused_port()
    words = [program, "--addr-http", f"127.0.0.1:{port}", "--table", f"trips={files}/,format=parquet"]
    with server(words, folder, f"http://127.0.0.1:{port}/api/schema") as process:
        asked = {"url": f"http://127.0.0.1:{port}", "paths": [quote(path, safe="/?=&,-") for path in question.roapi]}
        return _measured(asked, question, seconds, folder, process, lambda found: found)


def _datasette(files: Path, question: _Question, seconds: float, folder: Path) -> Ran:
    program, port = _program("datasette"), unused_port()
    file = data.once(f"{files.name}-sqlite", partial(_to_sqlite, files)) / "trips.db"
    words = [program, "serve", "--immutable", file, "--port", port, "--setting", "sql_time_limit_ms", 60_000]
    with server(words, folder, f"http://127.0.0.1:{port}/-/versions.json") as process:
        asked = {"url": f"http://127.0.0.1:{port}", "paths": question.datasette}
        return _measured(asked, question, seconds, folder, process, lambda found: found)


def _to_sqlite(files: Path, folder: Path) -> None:
    """Write the table with indexes for the questions."""
    with duckdb.connect() as con, sqlite3.connect(folder / "trips.db") as out:
        out.execute("create table trips (id integer primary key, station text, km real, fare integer)")
        reader = con.execute(f"select id, station, km::double, fare from '{files}/*.parquet' order by id")
        while rows := reader.fetchmany(100_000):
            out.executemany("insert into trips values (?, ?, ?, ?)", rows)
        out.execute("create index stations on trips (station, km desc, id)")


def _program(name: str) -> Path:
    program = interpreter("-api").with_name(name)
    if not program.exists():
        raise UnableError(f"not available: no {program}")
    return program


def _measured(  # noqa: PLR0913 - what is asked of whom, and how its answer is read
    asked: Mapping[str, Any],
    question: _Question,
    seconds: float,
    folder: Path,
    process: int,
    rows_of: Callable[[Any], Sequence[Mapping[str, object]]],
) -> Ran:
    answer: Answer = [(True,)]
    if question.sql:
        answer = [tuple(row.values()) for row in rows_of(answered(asked, asked["paths"][0]))]
    connections = CONNECTIONS if question.sql else "1"
    return loaded(asked, connections, seconds, folder, process, answer)
