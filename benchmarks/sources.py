"""Speed of reading sources into a table of the lake, compared with the usual readers of each system.

Compared are the seconds of reading. For Headwater, they are those of the run's steps: list what is new, read it, validate
every value against the contract, write zstd Parquet, commit to Delta with statistics. Peers read the same rows into zstd
Parquet, without validation. `wall` is the entire process, which for Headwater also updates the catalog and the report.
Of `rest`, the limit of requests per second takes `limit_s`. Of `changes`, a slot exists, and the changes were made
before; the seconds include the merge into a table of current rows.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import duckdb
import psycopg

from benchmarks import data
from benchmarks.etl import LINEITEM
from benchmarks.interleaved_runs import Answer, Case, Contestant, Ran, UnableError
from benchmarks.peer import Script, peer
from benchmarks.postgres import postgres_server
from benchmarks.project import Project, seconds, written
from pipeline.core.errors import UnavailableError

FILE_PEERS = ("duckdb", "polars", "spark")
DATABASE_PEERS = ("adbc", "connectorx", "dlt")
PEER_HOME = "-sources"
SHARE = 0.3
"""The size of the data at scale 1, as a share of TPC-H's scale factor 1."""
CHANGES, PAGES, PAGE_ROWS, RATE = 200_000, 300, 100, 100
IMPORT = "from pipeline import files, postgres, postgres_changes, rest, source, sql\n"
ANSWER = "select count(*), sum(l_orderkey)::double, sum(l_quantity), count(distinct l_comment), min(l_shipdate)::varchar from {}"
TABLE = ", ".join(
    f"{name} {kind.replace('double', 'double precision').replace('varchar', 'text')}" for name, kind in LINEITEM.items()
)


def cases(scale: float, only: Sequence[str] = ()) -> Iterator[Case]:
    """Yield each system, or only the given ones; servers run while their case does."""
    for name, make in CASES.items():
        if name in only or not only:
            yield from make(scale)


def _files(form: str, scale: float) -> Iterator[Case]:
    rows = _lineitem(form, scale)
    suffix = "json" if form == "ndjson" else form
    definition = f'lines = source(files("{rows}/*.{suffix}"), schema={dict(LINEITEM)!r})\n'
    peers = [peer(Script(who, "read", [form, rows], _answer, "parts")) for who in FILE_PEERS]
    yield _case(form, definition, peers, {"bytes_in": data.size_bytes(rows)}, _expected(rows, form))


def _database(scale: float) -> Iterator[Case]:
    rows = _lineitem("csv", scale)
    with _server() as url, psycopg.connect(url, autocommit=True) as con:
        con.execute(f"create table lineitem ({TABLE})")
        for file in sorted(rows.glob("*.csv")):
            with con.cursor().copy("copy lineitem from stdin (format csv, header)") as copy, file.open("rb") as lines:
                while block := lines.read(1 << 20):
                    copy.write(block)
        con.execute("vacuum analyze lineitem")
        definition = f'lines = source(postgres("{url}", "lineitem"), schema={dict(LINEITEM)!r})\n'
        peers = [peer(Script(who, "read", [url], _answer, "parts", PEER_HOME)) for who in DATABASE_PEERS]
        peers.append(peer(Script("spark", "read", ["jdbc", url], _answer, "parts")))
        yield _case("postgres", definition, peers, {}, _expected(rows, "csv"))


def _changes(scale: float) -> Iterator[Case]:
    count = max(1000, round(CHANGES * scale))
    with _server() as url:
        yield Case(
            "changes",
            [(count // 2,)],
            [Contestant("auto", partial(_run_changes, url, count), is_ours=True)],
            {"changes": count},
        )


def _run_changes(url: str, count: int, folder: Path) -> Ran:
    """Run once without changes, make them, and measure the next run: half are inserts, a quarter updates, a quarter deletes."""
    definition = f"""shop = postgres_changes("{url}", "accounts", slot="bench")
changes = source(shop.table("accounts"))
accounts = sql("select id, owner, balance, _sequence, _op from changes", key="id", sequence_by="_sequence", apply_as_deletes="_op = 'delete'")
"""
    half, quarter = count // 2, count // 4
    with psycopg.connect(url, autocommit=True) as con:
        con.execute("drop table if exists accounts")
        con.execute(
            "create table accounts (id bigint primary key, owner text, balance numeric(12, 2), at timestamptz default now())"
        )
        con.execute("insert into accounts values (0, 'nobody', 0)")
        project = Project(written(folder, IMPORT + definition))
        project.run()
        for first in range(1, half + 1, 1000):
            con.execute(
                "insert into accounts select i, 'owner ' || i, i from generate_series(%s::bigint, %s::bigint) i",
                (first, min(first + 999, half)),
            )
        con.execute("update accounts set balance = balance + 1 where id between 1 and %s", (quarter,))
        con.execute("delete from accounts where id > %s", (half - quarter,))
        result, steps = project.run()
        rows = project.rows("select count(*) from changes where _op <> 'read'")
        con.execute("select pg_drop_replication_slot('bench')")
        con.execute("drop publication if exists bench")
    if rows != [(count,)]:
        raise UnableError(f"wrong answer: {rows}")
    return Ran(
        sum(step.seconds for step in steps.values()), result.seconds, result.peak_bytes, [(half,)], seconds(steps)
    )


def _rest(scale: float) -> Iterator[Case]:
    pages = max(3, round(PAGES * scale))
    with _pages(pages) as url:
        definition = f'items = source(rest("{url}", rows="$.items", rate="{RATE}/s"))\n'
        expected = [(pages * PAGE_ROWS, float(sum(range(pages * PAGE_ROWS))))]
        query = "select count(*), sum(id)::double from items"
        ours = Contestant("auto", partial(_ours, definition, query), is_ours=True)
        peers = [peer(Script("dlt", "rest", [url, str(RATE)], partial(_read, query), "parts", PEER_HOME))]
        yield Case("rest", expected, [ours, *peers], {"requests": pages, "limit_s": pages / RATE})


CASES: dict[str, Callable[[float], Iterator[Case]]] = {
    **{form: partial(_files, form) for form in ("csv", "ndjson", "parquet")},
    "postgres": _database,
    "changes": _changes,
    "rest": _rest,
}


def _case(
    name: str, definition: str, peers: Sequence[Contestant], facts: Mapping[str, object], expected: Answer
) -> Case:
    ours = Contestant("auto", partial(_ours, definition, ANSWER.format("lines")), is_ours=True)
    return Case(name, expected, [ours, *peers], facts)


def _ours(definition: str, query: str, folder: Path) -> Ran:
    project = Project(written(folder, IMPORT + definition))
    result, steps = project.run()
    return Ran(
        sum(step.seconds for step in steps.values()),
        result.seconds,
        result.peak_bytes,
        project.rows(query),
        seconds(steps),
    )


def _answer(folder: Path) -> Answer:
    return _read(ANSWER.format("items"), folder)


def _read(query: str, folder: Path) -> Answer:
    """Return the answer from the Parquet files that a peer wrote."""
    with duckdb.connect() as con:
        con.execute(f"create view items as from read_parquet('{folder}/**/*.parquet')")
        return con.sql(query).fetchall()


def _expected(rows: Path, form: str) -> Answer:
    reader = {
        "csv": f"read_csv('{rows}/*.csv', header = true, columns = {LINEITEM})",
        "ndjson": f"read_json('{rows}/*.json', columns = {LINEITEM})",
        "parquet": f"read_parquet('{rows}/*.parquet')",
    }[form]
    with duckdb.connect() as con:
        return con.sql(ANSWER.format(reader)).fetchall()


def _lineitem(form: str, scale: float) -> Path:
    """Return a folder of files with TPC-H's `lineitem`."""
    lines = data.lineitem_csv(SHARE * scale)
    if form == "csv":
        return lines
    suffix = "json" if form == "ndjson" else form

    def make(folder: Path) -> None:
        with duckdb.connect() as con:
            for number, file in enumerate(sorted(lines.glob("*.csv"))):
                read = f"from read_csv('{file}', header = true, columns = {LINEITEM})"
                con.execute(f"copy ({read}) to '{folder}/{number:05d}.{suffix}' (format {suffix})")

    return data.once(f"lineitem-{form}-{SHARE * scale:g}", make)


@contextmanager
def _server() -> Iterator[str]:
    try:
        with postgres_server(wal_kept="4GB") as url:
            yield url
    except UnavailableError as error:
        raise SystemExit(str(error)) from error


@contextmanager
def _pages(pages: int) -> Iterator[str]:
    """Serve an API with numbered pages, whose last one is empty."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # a response is one packet: the client would wait 40 ms for the second one

        def do_GET(self) -> None:
            page = int(parse_qs(urlsplit(self.path).query).get("page", ["1"])[0])
            first = (page - 1) * PAGE_ROWS
            rows = range(first, first + PAGE_ROWS) if page <= pages else ()
            items = [{"id": i, "name": f"item {i}", "price": i / 100, "tags": ["a", "b"]} for i in rows]
            body = json.dumps({"items": items, "page": page, "total_pages": pages}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/items"
        finally:
            server.shutdown()
