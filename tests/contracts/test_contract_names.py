"""Names of columns: two that differ only in case are refused before a row is read, all others are kept as they are."""

from __future__ import annotations

import json
import sqlite3
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import fastavro
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer
from deltalake import write_deltalake
from pyarrow.orc import write_table as write_orc

from benchmarks.kafka import Cluster
from pipeline import (
    airbyte_messages,
    delta_sharing,
    delta_table,
    dlt_resource,
    duckdb_file,
    files,
    generate,
    graphql,
    iceberg_table,
    kafka,
    mongodb,
    mysql,
    odata,
    rest,
    server_sent_events,
    singer,
    source,
    sqlite,
    webhook,
)
from pipeline import postgres as read_postgres
from pipeline.connectors.generator import Generator
from pipeline.core.errors import HeadwaterError
from pipeline.core.graph import Graph
from pipeline.core.settings import Settings
from pipeline.kernel.sql_text import quoted
from pipeline.project import Project, Workspace
from pipeline.runner import Runner
from tests.rigs.ferret import ferret as ferret  # noqa: PLC0414 - the fixture
from tests.rigs.ferret import mongo as mongo  # noqa: PLC0414 - the fixture
from tests.rigs.http_faults import HttpServer, Reply, http_server
from tests.rigs.iceberg import IcebergCatalog
from tests.rigs.mysql import maria as maria  # noqa: PLC0414 - the fixture
from tests.rigs.mysql import mariadb as mariadb  # noqa: PLC0414 - the fixture
from tests.rigs.postgres import pg as pg  # noqa: PLC0414 - the fixture
from tests.rigs.postgres import pg_database as pg_database  # noqa: PLC0414 - the fixture
from tests.rigs.postgres import postgres as postgres  # noqa: PLC0414 - the fixture
from tests.rigs.sharing_server import SharingServer
from tests.rigs.sse_server import EventServer

CASE = {"Aa": 1, "aA": 2}
ODD = {"na!e": 1, "na%e": 2, "na e": 3, "näe": 4}
Row = Mapping[str, Any]


@contextmanager
def csv(folder: Path, row: Row) -> Iterator[Any]:
    (folder / "a.csv").write_text(",".join(row) + "\n" + ",".join(map(str, row.values())) + "\n")
    yield files(folder / "a.csv")


@contextmanager
def ndjson(folder: Path, row: Row) -> Iterator[Any]:
    (folder / "a.ndjson").write_text(json.dumps(row) + "\n")
    yield files(folder / "a.ndjson")


@contextmanager
def json_array(folder: Path, row: Row) -> Iterator[Any]:
    (folder / "a.json").write_text(json.dumps([row]))
    yield files(folder / "a.json")


@contextmanager
def parquet(folder: Path, row: Row) -> Iterator[Any]:
    pq.write_table(pa.Table.from_pylist([row]), folder / "a.parquet")
    yield files(folder / "a.parquet")


@contextmanager
def orc(folder: Path, row: Row) -> Iterator[Any]:
    write_orc(pa.Table.from_pylist([row]), folder / "a.orc")
    yield files(folder / "a.orc")


@contextmanager
def avro(folder: Path, row: Row) -> Iterator[Any]:
    fields = [{"name": name, "type": "long"} for name in row]
    with (folder / "a.avro").open("wb") as file:
        fastavro.writer(file, fastavro.parse_schema({"type": "record", "name": "r", "fields": fields}), [row])
    yield files(folder / "a.avro")


@contextmanager
def excel(folder: Path, row: Row) -> Iterator[Any]:
    book = openpyxl.Workbook()
    book.active.append(list(row))
    book.active.append(list(row.values()))
    book.save(folder / "a.xlsx")
    yield files(folder / "a.xlsx")


@contextmanager
def xml(folder: Path, row: Row) -> Iterator[Any]:
    (folder / "a.xml").write_text(f"<r><o>{''.join(f'<{n}>{v}</{n}>' for n, v in row.items())}</o></r>")
    yield files(folder / "a.xml", rows="o")


@contextmanager
def sqlite_query(folder: Path, row: Row) -> Iterator[Any]:
    columns = ", ".join(f"cast({value} as integer) as {quoted(name)}" for name, value in row.items())
    with closing(sqlite3.connect(folder / "a.db")) as con:
        if row is ODD:
            con.execute(f"create table t ({', '.join(f'{quoted(name)} integer' for name in row)})")
            con.execute(f"insert into t {_select(row)}")
            con.commit()
    yield sqlite(folder / "a.db", "t") if row is ODD else sqlite(folder / "a.db", query=f"select {columns}")


@contextmanager
def duckdb_query(folder: Path, row: Row) -> Iterator[Any]:
    duckdb.connect(str(folder / "a.duckdb")).close()
    yield duckdb_file(folder / "a.duckdb", query=_select(row))


@contextmanager
def delta(folder: Path, row: Row) -> Iterator[Any]:
    write_deltalake(str(folder / "t"), pa.Table.from_pylist([row]))
    yield delta_table(folder / "t")


@contextmanager
def iceberg(folder: Path, row: Row) -> Iterator[Any]:
    catalog = IcebergCatalog(folder)
    rows = pa.Table.from_pylist([row])
    catalog.create("t", rows.schema).append(rows)
    yield iceberg_table("shop.t", catalog=catalog.properties)
    catalog.close()


@contextmanager
def shared(folder: Path, row: Row) -> Iterator[Any]:
    write_deltalake(str(folder / "t"), pa.Table.from_pylist([row]))
    with http_server() as running:
        (folder / "profile.share").write_text(SharingServer(running, folder / "t").profile)
        profile = folder / "profile.share"
        yield delta_sharing(profile, "market", "public", "trades", allowed_hosts=("localhost",))


@contextmanager
def generated(folder: Path, row: Row) -> Iterator[Any]:
    del folder
    yield generate({name: f"{value}::bigint" for name, value in row.items()}, count=1)


def _with_server(make: Callable[[HttpServer, Path, Row], Any]) -> Any:
    @contextmanager
    def made(folder: Path, row: Row) -> Iterator[Any]:
        with http_server() as server:
            yield make(server, folder, row)

    return made


def _rest(server: HttpServer, folder: Path, row: Row) -> Any:
    server.routes = {"/items": lambda _: Reply([row])}
    return rest(f"{server.url}/items", spool=str(folder / "spool"))


def _graphql(server: HttpServer, folder: Path, row: Row) -> Any:
    server.routes = {"/graphql": lambda _: Reply({"data": {"items": [row]}})}
    return graphql(f"{server.url}/graphql", "query { items { id } }", rows="$.data.items", spool=str(folder / "spool"))


def _odata(server: HttpServer, folder: Path, row: Row) -> Any:
    server.routes = {"/odata/items": lambda _: Reply({"value": [row]})}
    return odata(f"{server.url}/odata", "items", spool=str(folder / "spool"))


def _events(server: HttpServer, folder: Path, row: Row) -> Any:
    events = EventServer(stays_s=2)
    events.add(json.dumps(row))
    server.routes = {"/events": events.answer}
    return server_sent_events(f"{server.url}/events", idle="200 milliseconds", spool=str(folder / "spool"))


@contextmanager
def messages(folder: Path, row: Row) -> Iterator[Any]:
    reader = webhook("items", unsigned=True, spool=str(folder / "spool"))
    reader.receiver().receive({}, json.dumps(row).encode())
    yield reader


def _tap(kind: Any) -> Any:
    @contextmanager
    def made(folder: Path, row: Row) -> Iterator[Any]:
        (folder / "items.jsonl").write_text(json.dumps(row) + "\n")
        program = [sys.executable, str(Path(__file__).parents[1] / "rigs" / "tap_program.py")]
        yield kind(program, "items", config={"file": str(folder / "items.jsonl")}, spool=str(folder / "spool"))

    return made


@contextmanager
def dlt_items(folder: Path, row: Row) -> Iterator[Any]:
    dlt = pytest.importorskip("dlt")
    yield dlt_resource(lambda: dlt.resource([dict(row)], name="items"), name="items", spool=str(folder / "spool"))


def _select(row: Row, quote: Callable[[str], str] = quoted) -> str:
    return "select " + ", ".join(f"{value} as {quote(name)}" for name, value in row.items())


LOCAL = {
    "csv": csv,
    "ndjson": ndjson,
    "json array": json_array,
    "parquet": parquet,
    "orc": orc,
    "avro": avro,
    "excel": excel,
    "xml": xml,
    "sqlite": sqlite_query,
    "duckdb_file": duckdb_query,
    "delta_table": delta,
    "iceberg_table": iceberg,
    "delta_sharing": shared,
    "generate": generated,
    "rest": _with_server(_rest),
    "graphql": _with_server(_graphql),
    "odata": _with_server(_odata),
    "server_sent_events": _with_server(_events),
    "webhook": messages,
    "singer": _tap(singer),
    "airbyte_messages": _tap(airbyte_messages),
    "dlt_resource": dlt_items,
}
REFUSED_BY_DELTA = {"delta_table", "delta_sharing"}
"""Delta does not write such tables; tests/connectors/tables reads one whose log a test wrote."""
NO_SUCH_NAMES = {"avro", "xml"}
"""Formats whose names are identifiers."""


def project_of(reader: Any, folder: Path, row: Row) -> Project:
    schema = dict.fromkeys(row, "bigint") if isinstance(reader, Generator) else None
    home = folder / "project"
    home.mkdir()
    settings = Settings(
        "names",
        home,
        home / "none.py",
        lake=str(home / "lake"),
        warehouse=str(home / "warehouse.duckdb"),
        catalog=f"sqlite:///{home / 'catalog.db'}",
    )
    return Project(settings, Graph.of([source(reader, schema=schema).named("rows")]))


def version_after_refusal(reader: Any, folder: Path) -> int | None:
    """Run a project that must be refused, and return the version of its table."""
    project = project_of(reader, folder, CASE)
    with pytest.raises(HeadwaterError, match=r"(?i)case|duplicate column"):
        Runner(project).run()
    return Workspace(project).version("rows")


def rows_after_run(reader: Any, folder: Path, row: Row) -> list[dict[str, Any]]:
    """Run a project, and return the columns of its table that the row has."""
    project = project_of(reader, folder, row)
    Runner(project).run()
    names = ", ".join(map(quoted, row))
    rows: list[dict[str, Any]] = Workspace(project).query(f"select {names} from rows").to_pylist()
    return rows


@pytest.mark.parametrize("name", [name for name in LOCAL if name not in REFUSED_BY_DELTA])
def test_names_that_differ_only_in_case_are_refused(name, tmp_path):
    with LOCAL[name](tmp_path, CASE) as reader:
        assert version_after_refusal(reader, tmp_path) is None


@pytest.mark.share(8)
@pytest.mark.parametrize("name", [name for name in LOCAL if name not in NO_SUCH_NAMES])
def test_other_names_are_kept(name, tmp_path):
    with LOCAL[name](tmp_path, ODD) as reader:
        assert rows_after_run(reader, tmp_path, ODD) == [ODD]


class TestServers:
    def test_postgres(self, pg, tmp_path):
        pg.run('create table t ("Aa" int, "aA" int)', "insert into t values (1, 2)")
        assert version_after_refusal(read_postgres(pg.url, "public.t"), tmp_path) is None

    def test_mysql(self, maria, tmp_path):
        reader = mysql(maria.url, query=_select(CASE, lambda name: f"`{name}`"))
        assert version_after_refusal(reader, tmp_path) is None

    def test_mongodb(self, mongo, tmp_path):
        mongo.insert("items", {"_id": 1, **CASE})
        assert version_after_refusal(mongodb(mongo.url, "items"), tmp_path) is None

    def test_kafka(self, kafka_cluster: Cluster, tmp_path):
        topic = f"names-{uuid.uuid4().hex[:8]}"
        kafka_cluster.create_topic(topic, 1)
        producer = Producer({"bootstrap.servers": kafka_cluster.bootstrap, "log_level": 0})
        producer.produce(topic, json.dumps(CASE))
        assert producer.flush(20) == 0
        assert version_after_refusal(kafka(topic, servers=kafka_cluster.bootstrap), tmp_path) is None


@pytest.fixture
def kafka_cluster(request: pytest.FixtureRequest) -> Cluster:
    """The brokers; the name `kafka` is the source here."""
    cluster: Cluster = request.getfixturevalue("kafka")
    return cluster
