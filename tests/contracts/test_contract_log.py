"""One test suite for all logs: the contract of `pipeline.core.sources.Log` and `Tail`.

To add a log, add a `World` to `WORLDS`: it appends records and knows how many there are.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import pickle
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import duckdb
import nats
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from confluent_kafka import Producer
from redis import Redis

from benchmarks.kafka import Cluster
from pipeline.connectors.generator import Generator
from pipeline.connectors.kafka import kafka as topics
from pipeline.connectors.spool.record_log import record
from pipeline.connectors.streams.nats import nats_stream
from pipeline.connectors.streams.rabbitmq import rabbitmq_stream
from pipeline.connectors.streams.redis import redis_stream
from pipeline.connectors.webhook.source import webhook
from pipeline.core.cursors import Bound, Cursor
from pipeline.core.errors import SchemaError, SourceError
from pipeline.core.schema import Schema
from pipeline.core.sources import MISFIT, POSITION, Extent, Log, Reader, ReadResult, Tail
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.kernel.engine import connect
from pipeline.kernel.pool import Limits
from tests.rigs.logs import source_objects
from tests.rigs.rabbitmq import RabbitRig
from tests.rigs.rabbitmq import rabbitmq as rabbitmq  # noqa: PLC0414 - the fixture
from tests.rigs.streams import StreamServer
from tests.rigs.streams import jetstream as jetstream  # noqa: PLC0414 - the fixture
from tests.rigs.streams import valkey as valkey  # noqa: PLC0414 - likewise

SOON_S = 20.0


class World(Protocol):
    """A log and the environment that appends to it."""

    log: Log
    schema: Schema
    missing: str
    """The URI of a partition that does not belong to the log."""

    def more(self) -> int:
        """Append records to several partitions, some of them invalid; return their number."""


class KafkaWorld:
    schema = Schema.of({"id": "BIGINT", "name": "VARCHAR", "_offset": "BIGINT"})

    def __init__(self, cluster: Cluster) -> None:
        self.topic = f"contract-{uuid.uuid4().hex[:8]}"
        self.missing = f"kafka://{self.topic}-not/0"
        cluster.create_topic(self.topic, 3)
        self.log: Log = topics(self.topic, servers=cluster.bootstrap, metadata=("offset",))
        self.producer = Producer({"bootstrap.servers": cluster.bootstrap, "log_level": 0})
        self.written = 0

    def more(self) -> int:
        for number in range(40):
            value = "not JSON" if number % 13 == 5 else json.dumps({"id": self.written, "name": f"n{number}"})
            self.producer.produce(self.topic, value, partition=number % 2)
            self.written += 1
        assert self.producer.flush(SOON_S) == 0
        return 40


def of_kafka(request: pytest.FixtureRequest) -> World:
    return KafkaWorld(request.getfixturevalue("kafka"))


class Growing(Generator):
    """Generated rows, up to a given number."""

    def extents(self):
        return {uri: Extent(0, GROWN[self.columns["world"]]) for uri in super().extents()}


GROWN: dict[str, int] = {}


class ComputedWorld:
    schema = Schema.of({"id": "BIGINT", "name": "VARCHAR"})
    missing = "generator://none/0"

    def __init__(self) -> None:
        self.name = f"'{uuid.uuid4().hex}'"
        GROWN[self.name] = 0
        columns = {"id": "i * 2 + p", "name": "'n' || i", "world": self.name}
        self.log: Log = Growing(columns, partitions=2, count=1 << 40)

    def more(self) -> int:
        GROWN[self.name] += 20
        return 40


class MessagesWorld:
    """A durable log of messages, with two partitions."""

    schema = Schema.of({"id": "BIGINT", "name": "VARCHAR"})
    missing = "webhook://contract/9"

    def __init__(self, folder: Path) -> None:
        self.log: Log = webhook("contract", unsigned=True, spool=str(folder))
        self.written = 0

    def more(self) -> int:
        for number in range(40):
            value = b'"not JSON"' if number % 13 == 5 else b'{"id": %d, "name": "n%d"}' % (self.written, number)
            made = record(int(time.time() * 1000), {}, value)
            self.log.partition(str(number % 2)).append([made])
            self.written += 1
        return 40


class NatsWorld:
    """Two streams of a NATS server."""

    schema = Schema.of({"id": "BIGINT", "name": "VARCHAR"})
    missing = "nats://none"

    def __init__(self, server: StreamServer) -> None:
        self.names = [f"contract-{uuid.uuid4().hex[:8]}-{n}" for n in range(2)]
        self.servers = f"nats://127.0.0.1:{server.port}"
        self.log: Log = nats_stream(self.names, servers=self.servers)
        self.written = 0
        asyncio.run(self.with_client(self.create))

    async def with_client(self, work: Callable[..., Awaitable[None]]) -> None:
        client = await nats.connect(self.servers)
        try:
            await work(client.jetstream())
        finally:
            await client.close()

    async def create(self, stream) -> None:
        for name in self.names:
            await stream.add_stream(name=name, subjects=[f"{name}.>"])

    async def write(self, stream) -> None:
        for number in range(40):
            value = "not JSON" if number % 13 == 5 else json.dumps({"id": self.written, "name": f"n{number}"})
            await stream.publish(f"{self.names[number % 2]}.a", value.encode())
            self.written += 1

    def more(self) -> int:
        asyncio.run(self.with_client(self.write))
        return 40


class RedisWorld:
    """Two streams of a Valkey server."""

    schema = Schema.of({"id": "BIGINT", "name": "VARCHAR"})
    missing = "redis://none"

    def __init__(self, server: StreamServer) -> None:
        self.names = [f"contract-{uuid.uuid4().hex[:8]}-{n}" for n in range(2)]
        self.client = Redis(port=server.port)
        for name in self.names:
            self.client.xgroup_create(name, "other", mkstream=True)
        self.log: Log = redis_stream(self.names, url=f"redis://127.0.0.1:{server.port}", field="body")
        self.written = 0

    def more(self) -> int:
        for number in range(40):
            value = "not JSON" if number % 13 == 5 else json.dumps({"id": self.written, "name": f"n{number}"})
            self.client.xadd(self.names[number % 2], {"body": value})
            self.written += 1
        return 40


class RabbitWorld:
    """Two streams of a RabbitMQ server."""

    schema = Schema.of({"id": "BIGINT", "name": "VARCHAR"})
    missing = "rabbitmq://none"

    def __init__(self, server: RabbitRig) -> None:
        self.names = [f"contract-{uuid.uuid4().hex[:8]}-{n}" for n in range(2)]
        self.server, self.written = server, 0
        with server.channel() as channel:
            for name in self.names:
                channel.queue_declare(name, durable=True, arguments={"x-queue-type": "stream"})
        self.log: Log = rabbitmq_stream(self.names, url=f"rabbitmq-stream://127.0.0.1:{server.stream_port}")

    def more(self) -> int:
        with self.server.channel() as channel:
            for number in range(40):
                value = "not JSON" if number % 13 == 5 else json.dumps({"id": self.written, "name": f"n{number}"})
                channel.basic_publish("", self.names[number % 2], value.encode())
                self.written += 1
        return 40


WORLDS: dict[str, Callable[[pytest.FixtureRequest], World]] = {
    "kafka": of_kafka,
    "computed": lambda _: ComputedWorld(),
    "messages": lambda request: MessagesWorld(request.getfixturevalue("tmp_path")),
    "nats": lambda request: NatsWorld(request.getfixturevalue("jetstream")),
    "redis": lambda request: RedisWorld(request.getfixturevalue("valkey")),
    "rabbitmq": lambda request: RabbitWorld(request.getfixturevalue("rabbitmq")),
}


written = pytest.mark.parametrize("world", ["kafka", "messages", "nats", "redis", "rabbitmq"], indirect=True)
"""Logs with a writer: some records are invalid, and each has the time at which it was written."""


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> World:
    return WORLDS[request.param](request)


def by_uri(log: Log) -> dict[str, SourceObject]:
    return {source_object.uri: source_object for source_object in source_objects(log)}


def split_of(source_object: SourceObject, begin: int, end: int) -> SourceSplit:
    return SourceSplit(source_object, begin, end, first=begin)


def read(tail: Tail, split: SourceSplit, schema: Schema) -> ReadResult:
    return tail.reader([split]).read(split, schema)


def read_range(reader: Reader, split: SourceSplit, schema: Schema) -> ReadResult:
    """The result of a run for a range: the fast path if usable, otherwise the validating pass."""
    with connect(Limits(threads=1)) as con, reader.scan(con, split, schema) as scanned:
        if scanned is not None:
            try:
                rows = con.sql(scanned.query).to_arrow_table()
                odd = con.execute(scanned.error_query).fetchall()[0][0]
            except duckdb.Error:
                odd, rows = 1, None
            if not odd and rows.num_rows == scanned.rows and not pc.any(rows[MISFIT]).as_py():
                assert rows.column_names == [*schema.names, POSITION, MISFIT]
                rows = rows.drop_columns(MISFIT)
                return ReadResult(rows, rows.slice(0, 0).select([POSITION]))
    return reader.read(split, schema)


def together(readings: list[ReadResult]) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    rows = [row for reading in readings for row in reading.rows.to_pylist()]
    return rows, [row for reading in readings for row in reading.rejected.to_pylist()]


def whole(world: World, extents: dict[str, Extent]) -> dict[str, ReadResult]:
    objects = by_uri(world.log)
    return {uri: world.log.read(split_of(objects[uri], e.begin, e.end), world.schema) for uri, e in extents.items()}


def caught_up(tail: Tail, extents: dict[str, Extent]) -> dict[str, int]:
    """Wait until a tail has reached the ends, and return its offsets; each wait must make progress."""
    offsets: dict[str, int] = {}
    while any(offsets.get(uri, -1) < extent.end for uri, extent in extents.items()):
        ready = tail.ready(SOON_S)
        assert ready.rows or all(ready.offsets[uri] >= e.end for uri, e in extents.items())
        offsets = dict(ready.offsets)
    return offsets


@written
def test_each_record_is_a_row_or_rejected_at_its_own_offset(world):
    count = world.more()
    extents = world.log.extents()

    readings = whole(world, extents)

    assert sum(r.rows.num_rows + r.rejected.num_rows for r in readings.values()) == count
    assert sum(r.rejected.num_rows for r in readings.values()) > 0
    for uri, reading in readings.items():
        at = sorted([*reading.rows[POSITION].to_pylist(), *reading.rejected[POSITION].to_pylist()])
        assert at == sorted(set(at))
        assert all(extents[uri].begin <= offset < extents[uri].end for offset in at)
        assert reading.rows.column_names == [*world.schema.names, POSITION]


def test_extents_grow_and_existing_records_stay(world):
    world.more()
    before = world.log.extents()
    first = whole(world, before)

    world.more()
    after = world.log.extents()

    assert after.keys() == before.keys() == by_uri(world.log).keys()
    assert all(after[uri].end >= extent.end for uri, extent in before.items())
    assert any(after[uri].end > extent.end for uri, extent in before.items())
    again = whole(world, before)
    for uri, reading in first.items():
        assert again[uri].rows.equals(reading.rows)
        assert again[uri].rejected.equals(reading.rejected)


@pytest.mark.share(2)
@pytest.mark.parametrize("seed", range(3))
def test_rows_are_independent_of_the_offset_ranges(world, seed):
    world.more()
    draw = random.Random(seed)  # noqa: S311 - a reproducible seed
    objects, extents = by_uri(world.log), world.log.extents()
    for uri, reading in whole(world, extents).items():
        extent = extents[uri]
        cuts = sorted({extent.begin, extent.end, *(draw.randint(extent.begin, extent.end) for _ in range(2))})
        splits = [split_of(objects[uri], a, b) for a, b in itertools.pairwise(cuts)]
        assert together([read_range(world.log, each, world.schema) for each in splits]) == together([reading])


@pytest.mark.parametrize("rows", [None, 1, 7])
def test_successive_plans_cover_the_log(world, rows):
    cursor, taken = None, []
    for _ in range(2):
        count = world.more()
        while (plan := world.log.plan(cursor, Bound(rows))).splits:
            assert rows is None or sum(each.end - each.begin for each in plan.splits) <= rows
            taken += plan.splits
            cursor = Cursor(**json.loads(json.dumps(asdict(plan.cursor))))
        assert (plan.cursor, plan.changed, plan.lost, plan.gaps) == (cursor, "", (), ())
    ranges: dict[str, list[tuple[int, int]]] = {}
    for each in taken:
        ranges.setdefault(each.source_object.uri, []).append((each.begin, each.end))
    for uri, extent in world.log.extents().items():
        ends = [extent.begin, *(end for _, end in ranges.get(uri, ()))]
        assert [begin for begin, _ in ranges.get(uri, ())] == ends[:-1]
        assert ends[-1] == extent.end
    assert count


def test_tail_equals_reading_for_epochs_of_any_size(world):
    world.more()
    objects, extents = by_uri(world.log), world.log.extents()
    taken: dict[str, list[ReadResult]] = {uri: [] for uri in extents}
    with world.log.tail({uri: extent.begin for uri, extent in extents.items()}) as tail:
        at = {uri: extent.begin for uri, extent in extents.items()}
        for _ in range(2):
            caught_up(tail, extents)
            for uri, extent in extents.items():
                middle = (at[uri] + extent.end) // 2
                for end in (middle, extent.end):
                    split = split_of(objects[uri], at[uri], end)
                    taken[uri].append(read_range(tail.reader([split]), split, world.schema))
                    at[uri] = end
            world.more()
            extents = world.log.extents()
        ends = {uri: Extent(extents[uri].begin, at[uri]) for uri in extents}
    for uri, reading in whole(world, ends).items():
        assert together(taken[uri]) == together([reading])


def test_tail_begins_at_its_offsets_and_accepts_more_partitions(world):
    world.more()
    objects, extents = by_uri(world.log), world.log.extents()
    first, second = sorted((uri for uri, e in extents.items() if e.end > e.begin))[:2]
    begin = (extents[first].begin + extents[first].end) // 2
    with world.log.tail({first: begin}) as tail:
        assert caught_up(tail, {first: extents[first]}).keys() == {first}
        rest = read(tail, split_of(objects[first], begin, extents[first].end), world.schema)
        tail.add({second: extents[second].begin})
        caught_up(tail, {uri: extents[uri] for uri in (first, second)})
        other = read(tail, split_of(objects[second], extents[second].begin, extents[second].end), world.schema)
    assert rest.rows.equals(world.log.read(split_of(objects[first], begin, extents[first].end), world.schema).rows)
    assert other.rows.num_rows + other.rejected.num_rows > 0


def test_tail_waits_for_records_and_wakes_up(world):
    world.more()
    objects, extents = by_uri(world.log), world.log.extents()
    with world.log.tail({uri: extent.end for uri, extent in extents.items()}) as tail:
        assert tail.ready(0.05).rows == 0
        count = world.more()
        seen = 0
        while seen < count:
            ready = tail.ready(SOON_S)
            assert ready.rows
            for uri, end in ready.offsets.items():
                reading = read(tail, split_of(objects[uri], extents[uri].end, end), world.schema)
                seen += reading.rows.num_rows + reading.rejected.num_rows
                extents[uri] = Extent(extents[uri].begin, end)
        assert seen == count
        assert tail.ready(0.05).rows == 0


def test_range_that_a_tail_no_longer_buffers_is_read_again(world):
    world.more()
    objects, extents = by_uri(world.log), world.log.extents()
    uri = max(extents, key=lambda u: extents[u].end)
    extent, middle = extents[uri], (extents[uri].begin + extents[uri].end) // 2
    with world.log.tail({uri: extent.begin}) as tail:
        caught_up(tail, {uri: extent})
        first = read(tail, split_of(objects[uri], extent.begin, middle), world.schema)
        read(tail, split_of(objects[uri], middle, extent.end), world.schema)
        again = read(tail, split_of(objects[uri], extent.begin, middle), world.schema)
    assert again.rows.equals(first.rows)


@written
def test_offsets_at_a_time(world):
    world.more()
    extents = world.log.extents()

    assert world.log.offsets_at(datetime(2001, 1, 1, tzinfo=UTC)) == {u: e.begin for u, e in extents.items()}
    assert world.log.offsets_at(datetime(2101, 1, 1, tzinfo=UTC)) == {u: e.end for u, e in extents.items()}


def test_log_is_pickled_with_its_results(world):
    world.more()
    extents = world.log.extents()

    other = pickle.loads(pickle.dumps(world.log))  # noqa: S301 - pickled by this test

    assert other == world.log
    assert other.fingerprint == world.log.fingerprint
    assert other.extents() == extents


@written
def test_rejected_rows_are_rejected_again_with_the_same_reason(world):
    world.more()
    readings = whole(world, world.log.extents()).values()
    rejected = pa.concat_tables([r.rejected for r in readings])

    again = world.log.parse(rejected["row"].to_pylist(), world.schema)

    assert again.rows.num_rows == 0
    assert again.rejected["reason"].to_pylist() == rejected["reason"].to_pylist()
    assert again.rejected["row"].to_pylist() == rejected["row"].to_pylist()


def test_missing_partition_is_rejected(world):
    world.more()
    with pytest.raises(SourceError), world.log.tail({world.missing: 0}):
        pass


@written
def test_provenance_column_name_is_rejected(world):
    world.more()
    source_object = source_objects(world.log)[0]
    with pytest.raises(SchemaError, match="'_position' is reserved for the origin"):
        world.log.read(split_of(source_object, 0, 1), Schema.of({"_position": "BIGINT"}))
