"""What each kind of system is found to contain, against the real one."""

from __future__ import annotations

import asyncio
import gzip
import json
import sqlite3
import uuid
from contextlib import closing

import duckdb
import nats
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer
from deltalake import write_deltalake
from redis import Redis

import pipeline
from pipeline.connectors.discovery import files as discovery_of_files
from pipeline.connectors.discovery.system import SystemAddress, discoverable
from pipeline.core.discovery import DiscoveryLimits, ReaderCall
from pipeline.core.errors import DefinitionError, RequestError, SourceError
from tests.rigs.http_faults import Reply, http_server
from tests.rigs.iceberg import IcebergCatalog
from tests.rigs.sharing_server import SharingServer
from tests.rigs.weed import credentials

LIMITS = DiscoveryLimits(rows=5)


def found(uri, limits=LIMITS, **options):
    """Return the objects by name, each with a sample; the code of its reader can be evaluated."""
    system = discoverable(SystemAddress(uri, options))
    objects = {each.name: each for each in system.objects(limits)}
    for each in objects.values():
        eval(each.reader.code(), dict(vars(pipeline), **{n: getattr(pipeline, n) for n in pipeline.__all__}))  # noqa: S307 - our own
    return objects, {name: system.sample(each, limits) for name, each in objects.items()}


class TestFiles:
    def test_files_are_grouped_by_what_does_not_change_in_their_names(self, tmp_path):
        for day in (1, 2):
            (tmp_path / f"orders-2026-01-0{day}.csv").write_text(f"id;name\n{day};a\n")
        (tmp_path / "customers.csv").write_text("id,name\n1,a\n")
        (tmp_path / "readme.txt").write_text("nothing")
        (tmp_path / ".hidden.csv").write_text("a\n1\n")
        for month in (1, 2):
            folder = tmp_path / "events" / "year=2026" / f"month={month}"
            folder.mkdir(parents=True)
            pq.write_table(pa.table({"n": [1, 2]}), folder / f"part-0000{month}-{uuid.uuid4()}.snappy.parquet")

        objects, samples = found(str(tmp_path))

        events = objects["events/year=*/month=*/*.snappy.parquet"]
        assert sorted(objects) == ["customers.csv", events.name, "orders-*.csv"]
        assert objects["orders-*.csv"].reader.code() == f'files("{tmp_path}/orders-*.csv", delimiter=";")'
        assert objects["orders-*.csv"].notes == ("2 files",)
        assert (events.kind, events.partitioning) == ("Parquet files", "by the folders year=, month=")
        assert samples["orders-*.csv"].to_pylist() == [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]
        assert samples[events.name].num_rows == 4

    def test_the_beginning_of_a_large_file_is_enough(self, tmp_path):
        text = "id,name\n" + "".join(f"{n},{'x' * 90}\n" for n in range(10_000)) + "word,y\n"
        (tmp_path / "large.csv").write_text(text)
        (tmp_path / "large.csv.gz").write_bytes(gzip.compress(text.encode(), 1) + b"\0" * 20_000)
        limits = DiscoveryLimits(rows=5, size_bytes=10_000)

        _, samples = found(str(tmp_path / "large.csv"), limits)
        assert samples["large.csv"].schema.field("id").type == pa.int64()
        assert samples["large.csv"].num_rows == 5
        with pytest.raises(SourceError, match=r"large compressed file cannot be looked at in part.*--bytes"):
            found(str(tmp_path / "large.csv.gz"), limits)

    def test_databases_and_delta_tables_among_files(self, tmp_path):
        with closing(sqlite3.connect(tmp_path / "shop.db")) as con:
            con.execute("create table orders (id integer primary key, v text)")
            con.execute("insert into orders values (1, 'a')")
            con.commit()
        write_deltalake(str(tmp_path / "lake" / "t"), pa.table({"id": [1]}))

        objects, samples = found(str(tmp_path))

        assert {name: each.kind for name, each in objects.items()} == {
            "lake/t": "Delta table",
            "shop.db:orders": "table",
        }
        assert samples["shop.db:orders"].to_pylist() == [{"id": 1, "v": "a"}]
        assert samples["lake/t"].to_pylist() == [{"id": 1}]
        assert list(found(str(tmp_path / "lake" / "t"))[0]) == ["t"]
        assert list(found(str(tmp_path), table="orders")[0]) == ["shop.db:orders"]
        with pytest.raises(SourceError, match="there is no such file or table: got 'none'"):
            found(str(tmp_path), table="none")

    def test_the_size_of_a_table_is_that_of_its_files(self, tmp_path):
        for name, rows in (("orders", 1), ("orders_old", 10_000)):
            write_deltalake(str(tmp_path / name), pa.table({"id": list(range(rows))}))

        objects, _ = found(str(tmp_path))

        assert objects["orders"].size_bytes < objects["orders_old"].size_bytes

    def test_more_files_than_are_listed_is_said(self, tmp_path, monkeypatch):
        monkeypatch.setattr(discovery_of_files, "_MOST_FILES", 2)
        for name in ("a.csv", "b.csv", "c.csv"):
            (tmp_path / name).write_text("id\n1\n")

        objects, _ = found(str(tmp_path))

        notes = ("only 2 files of the location were listed, so there may be more",)
        assert {name: each.notes for name, each in objects.items()} == {"a.csv": notes, "b.csv": notes}

    def test_there_is_nothing(self, tmp_path):
        (tmp_path / "a.txt").write_text("")
        with pytest.raises(SourceError, match=r"there are no data files: got 1 file: .txt"):
            found(str(tmp_path))
        with pytest.raises(SourceError, match="there is no such file or folder; check the path"):
            found(str(tmp_path / "none"))
        with pytest.raises(RequestError, match="no connector can look at foo://"):
            found("foo://x")

    def test_a_bucket(self, s3, monkeypatch):
        options = credentials(s3.endpoint)
        monkeypatch.setenv("STORE_SECRET", options["AWS_SECRET_ACCESS_KEY"])
        storage = s3.storage("discovered")
        storage.write_text("in/a-1.csv", "id,v\n1,x\n")
        storage.write_text("in/a-2.csv", "id,v\n2,x\n")
        write_deltalake("s3://lake/discovered/t", pa.table({"id": [1]}), storage_options=options)
        given = {**options, "AWS_SECRET_ACCESS_KEY": "env:STORE_SECRET"}

        system = discoverable(SystemAddress("s3://lake/discovered", {k: v for k, v in given.items() if k != "AWS_ALLOW_HTTP"} | {"AWS_ALLOW_HTTP": "true"}))  # fmt: skip
        objects = {each.name: each for each in system.objects(LIMITS)}

        assert {name: each.kind for name, each in objects.items()} == {"in/a-*.csv": "CSV files", "t": "Delta table"}
        assert [system.sample(each, LIMITS).num_rows for each in objects.values()] == [2, 1]
        assert "env:STORE_SECRET" in objects["t"].reader.code()


class TestDatabases:
    def test_duckdb(self, tmp_path):
        with duckdb.connect(str(tmp_path / "a.duckdb")) as con:
            con.execute("create schema s; create table s.t (a integer, b integer, primary key (a, b))")
            con.execute("create table empty (x decimal(9,2)); create view v as select 1 as one")

        objects, samples = found(str(tmp_path / "a.duckdb"))

        assert {name: (each.kind, each.key) for name, each in objects.items()} == {
            "empty": ("table", ()),
            "s.t": ("table", ("a", "b")),
            "v": ("view", ()),
        }
        assert samples["empty"].schema.field("x").type == pa.decimal128(9, 2)
        assert samples["v"].to_pylist() == [{"one": 1}]
        assert list(found(f"duckdb://{tmp_path}/a.duckdb", table="v")[0]) == ["v"]
        with pytest.raises(SourceError, match="there is no such table: got 'w'"):
            found(str(tmp_path / "a.duckdb"), table="w")

    def test_postgres(self, pg):
        pg.run(
            "create table orders (id bigint, line int, at timestamptz, primary key (id, line))",
            "insert into orders select n, 1, now() from generate_series(1, 50) n",
            "create table parted (id int) partition by range (id)",
            "create table parted_1 partition of parted for values from (0) to (9)",
            "create view latest as select max(id) as id from orders",
            "analyze orders",
        )

        objects, samples = found(pg.url)

        assert {name: (each.kind, each.key) for name, each in objects.items()} == {
            "public.latest": ("view", ()),
            "public.orders": ("table", ("id", "line")),
            "public.parted": ("table", ()),
        }
        assert objects["public.orders"].rows == 50
        assert objects["public.parted"].partitioning == "by RANGE (id)"
        assert samples["public.orders"].num_rows == 5
        assert samples["public.orders"].schema.field("at").type == pa.timestamp("us", "UTC")
        with pytest.raises(DefinitionError, match="contains a password"):
            found("postgresql://u:hunter2@127.0.0.1/x")

    def test_mariadb(self, maria):
        maria.run("create table items (id int primary key, name varchar(9))", "insert into items values (1, 'a')")

        objects, samples = found(maria.url)

        assert objects["items"].key == ("id",)
        assert samples["items"].to_pylist() == [{"id": 1, "name": "a"}]


def test_topics_of_kafka(kafka):
    topic, text = (f"look-{kind}-{uuid.uuid4().hex[:6]}" for kind in ("json", "text"))
    kafka.create_topic(topic, 2)
    kafka.create_topic(text, 1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    for number in range(8):
        producer.produce(topic, json.dumps({"id": number, "at": "2026-01-01T00:00:00Z"}), partition=number % 2)
    producer.produce(text, "plain")
    assert producer.flush(20) == 0

    objects, samples = found(f"kafka://{kafka.bootstrap}/{topic}")

    assert (objects[topic].rows, objects[topic].partitioning) == (8, "2 partitions")
    assert samples[topic].column_names == ["id", "at"]
    assert topic in {each.name for each in discoverable(SystemAddress(f"kafka://{kafka.bootstrap}")).objects(DiscoveryLimits(objects=10_000))}  # fmt: skip
    with pytest.raises(SourceError, match="the messages are not JSON objects"):
        found(f"kafka://{kafka.bootstrap}/{text}")
    with pytest.raises(SourceError, match="there is no such topic"):
        found(f"kafka://{kafka.bootstrap}/nothing-of-this-name")


class TestStreams:
    """Messages are JSON, and a stream of another name is not looked at."""

    def test_nats(self, jetstream):
        stream, url = f"look-{uuid.uuid4().hex[:8]}", f"nats://127.0.0.1:{jetstream.port}"

        async def publish() -> None:
            client = await nats.connect(url)
            js = client.jetstream()
            await js.add_stream(name=stream, subjects=[f"{stream}.>"])
            for number in range(8):
                await js.publish(f"{stream}.a", json.dumps({"id": number}).encode())
            await client.close()

        asyncio.run(publish())
        objects, samples = found(url, table=stream)

        assert objects[stream].reader.code() == f'nats_stream("{stream}", servers="{url}")'
        assert (objects[stream].kind, objects[stream].rows, samples[stream].num_rows) == ("stream", 8, 5)
        assert stream in {each.name for each in discoverable(SystemAddress(url)).objects(LIMITS)}
        with pytest.raises(SourceError, match="there is no such stream: got 'none'"):
            found(url, table="none")

    def test_redis(self, valkey):
        stream, url = f"look-{uuid.uuid4().hex[:8]}", f"redis://127.0.0.1:{valkey.port}/3"
        client = Redis(port=valkey.port, db=3)
        for number in range(8):
            client.xadd(stream, {"id": number})
        entries = [client.xadd(f"{stream}-gap", {"id": number}) for number in range(3)]
        client.xdel(f"{stream}-gap", entries[1])
        client.set("no-stream", "1")

        system = discoverable(SystemAddress(url))
        objects = {each.name: each for each in system.objects(LIMITS)}

        assert sorted(objects) == [stream, f"{stream}-gap"]
        assert objects[stream].reader.code() == f'redis_stream("{stream}", url="{url}")'
        assert (objects[stream].rows, objects[f"{stream}-gap"].rows) == (8, None)
        assert system.sample(objects[stream], LIMITS).to_pylist()[0] == {"id": "0"}
        with pytest.raises(SourceError, match="single entries of the stream were deleted"):
            system.sample(objects[f"{stream}-gap"], LIMITS)

    def test_rabbitmq(self, rabbitmq):
        stream, url = f"look-{uuid.uuid4().hex[:8]}", f"rabbitmq-stream://127.0.0.1:{rabbitmq.stream_port}/"
        with rabbitmq.channel() as channel:
            channel.queue_declare(stream, durable=True, arguments={"x-queue-type": "stream"})
            for number in range(8):
                channel.basic_publish("", stream, json.dumps({"id": number}).encode())

        objects, samples = found(url, table=stream)

        assert objects[stream].rows == 8
        assert samples[stream].to_pylist()[0] == {"id": 0}
        with pytest.raises(RequestError, match=r"the streams of RabbitMQ cannot be listed; name one of them: --table"):
            found(url)
        with pytest.raises(SourceError, match="the stream 'none' does not exist"):
            found(url, table="none")

    def test_the_user_is_part_of_the_uri_and_the_password_a_reference(self):
        system = discoverable(SystemAddress("redis://ann@cache:6379/0", {"password": "env:CACHE", "table": "s"}))

        assert system.uri == "redis://cache:6379/0"
        assert dict(system.options) == {"url": "redis://cache:6379/0", "user": "ann", "password": "env:CACHE"}


def test_collections_of_mongodb(mongo):
    mongo.insert("orders", *({"_id": number, "item": {"sku": f"s{number}"}} for number in range(8)))
    mongo.insert("customers", {"_id": "c1"})

    objects, samples = found(mongo.url)

    assert {name: (each.kind, each.key) for name, each in objects.items()} == {
        "customers": ("collection", ("_id",)),
        "orders": ("collection", ("_id",)),
    }
    assert objects["orders"].reader.code() == f'mongodb("{mongo.url}", "orders")'
    assert samples["orders"].to_pylist()[:2] == [{"_id": 0, "item": {"sku": "s0"}}, {"_id": 1, "item": {"sku": "s1"}}]
    assert samples["orders"].num_rows == 5
    with pytest.raises(SourceError, match="there is no such collection: got 'none'"):
        found(mongo.url, table="none")
    with pytest.raises(DefinitionError, match="contains a password"):
        found("mongodb://u:hunter2@127.0.0.1/x")


class TestTables:
    def test_an_iceberg_catalog(self, tmp_path):
        catalog = IcebergCatalog(tmp_path)
        rows = pa.table({"id": pa.array(range(8), pa.int64())})
        catalog.catalog.create_namespace(("shop", "inner"))
        catalog.create("orders", rows.schema).append(rows)
        catalog.create("inner.orders", rows.schema)
        given = {name: each for name, each in catalog.properties.items() if name not in {"type", "uri"}}
        uri = f"iceberg+{catalog.properties['uri']}"

        objects, samples = found(uri, **given)

        assert {name: each.kind for name, each in objects.items()} == {
            "shop.inner.orders": "Iceberg table",
            "shop.orders": "Iceberg table",
        }
        assert (samples["shop.orders"].num_rows, samples["shop.inner.orders"].num_rows) == (5, 0)
        assert list(found(uri, **given, table="shop.orders")[0]) == ["shop.orders"]
        with pytest.raises(DefinitionError, match="'token' contains a credential"):
            found(uri, **given, token="hunter2")  # noqa: S106 - the test of it
        with pytest.raises(SourceError, match="the Iceberg catalog cannot be listed"):
            found("iceberg+sqlite:////nothing/here.db")
        catalog.close()

    def test_a_profile_of_delta_sharing(self, tmp_path, monkeypatch):
        write_deltalake(str(tmp_path / "t"), pa.table({"id": list(range(8))}))
        profile = tmp_path / "market.share"
        with http_server() as running:
            server = SharingServer(running, tmp_path / "t")
            profile.write_text(server.profile)
            monkeypatch.setenv("MARKET_PROFILE", server.profile)

            objects, samples = found("delta-sharing://env:MARKET_PROFILE", allowed_hosts="localhost")
            by_file, _ = found(str(profile), allowed_hosts="localhost")

        name = "market.public.trades"
        assert objects[name].reader.code() == (
            'delta_sharing("env:MARKET_PROFILE", "market", "public", "trades", allowed_hosts=(\'localhost\',))'
        )
        assert by_file[name].reader.arguments[0] == str(profile)
        assert (objects[name].kind, samples[name].num_rows) == ("shared table", 5)
        with http_server() as running:
            profile.write_text(SharingServer(running, tmp_path / "t").profile)
            running.routes = {"/share/shares": lambda _: Reply(b"<html>")}
            with pytest.raises(SourceError, match="the answer of the server is not one of Delta Sharing"):
                found(str(profile))


def test_a_package_can_add_a_scheme(tmp_path, monkeypatch):
    (tmp_path / "desk.py").write_text("def look(address):\n    return ('looks at', address.uri)\n")
    (tmp_path / "desk-1.dist-info").mkdir()
    (tmp_path / "desk-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: desk\nVersion: 1\n")
    (tmp_path / "desk-1.dist-info" / "entry_points.txt").write_text("[headwater.discovery]\ndesk = desk:look\n")
    monkeypatch.syspath_prepend(tmp_path)

    assert discoverable(SystemAddress("desk://tickets")) == ("looks at", "desk://tickets")


class TestEndpoints:
    @pytest.fixture
    def server(self):
        with http_server() as running:
            yield running

    def test_an_endpoint(self, server):
        page = {"items": [{"id": n, "name": "n"} for n in range(9)], "next": f"{server.url}/v1/users?page=2"}
        server.routes = {"/v1/users": lambda _: Reply(page)}

        objects, samples = found(f"{server.url}/v1/users?active=true")

        assert objects["users"].reader.code() == f'rest("{server.url}/v1/users", params={{"active": "true"}})'
        assert objects["users"].notes == ("the rows are in several pages",)
        assert samples["users"].num_rows == 5
        assert server.received[0].params == {"active": "true"}

    def test_no_rows(self, server):
        server.routes = {"/v1/users": lambda _: Reply([])}
        assert found(f"{server.url}/v1/users")[1]["users"].num_columns == 0

    def test_a_file(self, server):
        server.routes = {"/a.csv": lambda _: Reply(b"id,v\n1,x\n")}
        objects, samples = found(f"{server.url}/a.csv")
        assert objects["a.csv"].reader == ReaderCall("files", (f"{server.url}/a.csv",))
        assert samples["a.csv"].to_pylist() == [{"id": 1, "v": "x"}]
