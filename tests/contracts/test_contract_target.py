"""One test suite for all sink targets: the contract of `pipeline.core.sinks.Target`.

To add a target, add a `World` to `WORLDS`: it opens the target and reads its rows.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Protocol

import pyarrow as pa
import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from pipeline import to_callback, to_kafka, to_online
from pipeline.connectors.online_store import OnlineStore
from pipeline.core.errors import ConflictError, HeadwaterError, SchemaError, SinkError
from pipeline.core.sinks import Delivery, Destination, SinkContext, SinkPosition, Target

SCHEMA = pa.schema({"id": pa.int64(), "name": pa.string()})
NONE = SCHEMA.empty_table()
V0, V1, V2 = (SinkPosition(number, number + 100) for number in range(3))


def rows(*ids: int, name: str = "n") -> pa.Table:
    return pa.table({"id": list(ids), "name": [f"{name}{i}" for i in ids]}, SCHEMA)


def delivery(
    to: SinkPosition, since: SinkPosition | None, rows: pa.Table, removed: pa.Table = NONE, **more: object
) -> Delivery:
    return Delivery(to, since, rows.to_reader(), removed, ("id",), **({"is_whole": since is None} | more))


class World(Protocol):
    """A target in its environment."""

    to: Destination
    is_exact: bool
    """Whether delivery is exactly-once, otherwise at-least-once."""
    is_replaceable: bool
    """Whether all existing rows can be replaced."""
    checks_rows: bool
    """Whether there are rows that it rejects."""

    def open(self) -> Target:
        """Open it like the next process of the sink."""

    def seen(self) -> list[dict[str, object]]:
        """Return the existing rows in order; a deleted row is missing, or has only its key."""


class OfOnline:
    is_exact = is_replaceable = checks_rows = True

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.to = to_online("store.db", key="id")
        self.home = home(request)

    def open(self) -> Target:
        return self.to.open(self.home)

    def seen(self) -> list[dict[str, object]]:
        store = OnlineStore(self.to.file(self.home.state), self.home.sink)
        rows = [store.get(key) for key in range(20)]
        return [row for row in rows if row is not None]


class OfCallback:
    is_exact = is_replaceable = checks_rows = False

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.taken: list[dict[str, object]] = []
        self.to = to_callback(
            lambda _, table: self.taken.extend(table.to_pylist()),
            gone=lambda _, table: self.taken.extend({"id": key} for key in table["id"].to_pylist()),
        )
        self.home = home(request)

    def open(self) -> Target:
        return self.to.open(self.home)

    def seen(self) -> list[dict[str, object]]:
        return self.taken


class OfKafka:
    is_exact = checks_rows = True
    is_replaceable = False

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.cluster = request.getfixturevalue("kafka")
        self.home = home(request)
        self.topic = f"target-{uuid.uuid4().hex[:8]}"
        self.cluster.create_topic(self.topic)
        self.to = to_kafka(self.topic, servers=self.cluster.bootstrap, key="id")

    def open(self) -> Target:
        return self.to.open(self.home)

    def seen(self) -> list[dict[str, object]]:
        records = committed(self.cluster.bootstrap, self.topic)
        return [{"id": int(key)} if value is None else json.loads(value) for key, value in records]


def committed(servers: str, topic: str) -> list[tuple[bytes, bytes | None]]:
    """Return keys and values of a topic's only partition, as seen by readers of committed records."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "t",
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    messages = []
    try:
        while True:
            for message in consumer.consume(1000, 1.0):
                if message.error() is None:
                    messages.append((message.key(), message.value()))
                else:
                    assert message.error().code() == KafkaError._PARTITION_EOF  # noqa: SLF001
                    return messages
    finally:
        consumer.close()


def home(request: pytest.FixtureRequest) -> SinkContext:
    return SinkContext("contract", uuid.uuid4().hex[:8], "alerts", request.getfixturevalue("tmp_path"))


WORLDS: dict[str, Callable[[pytest.FixtureRequest], World]] = {
    "online": OfOnline,
    "callback": OfCallback,
    "kafka": OfKafka,
}


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> World:
    return WORLDS[request.param](request)


@pytest.fixture
def target(world: World) -> Iterator[Target]:
    opened = world.open()
    yield opened
    opened.close()


def test_versions_are_delivered_in_order_and_a_restart_resumes(world, target):
    assert target.reached() is None
    target.write(delivery(V0, None, rows(1, 2)))
    target.write(delivery(V1, V0, rows(3)))
    assert target.reached() == V1
    target.close()

    again = world.open()

    assert again.reached() == V1
    again.write(delivery(V2, V1, rows(4, 5)))
    assert [row["id"] for row in world.seen()] == [1, 2, 3, 4, 5]
    assert world.seen()[0] == {"id": 1, "name": "n1"}
    again.close()


def test_repeated_delivery_changes_nothing(world, target):
    target.write(delivery(V0, None, rows(1, 2)))
    target.write(delivery(V0, None, rows(1, 2)))

    again = world.open()
    again.write(delivery(V0, None, rows(1, 2)))
    again.close()

    assert [row["id"] for row in world.seen()] == [1, 2]


def test_version_without_rows_is_recorded(world, target):
    target.write(delivery(V0, None, NONE))
    target.write(delivery(V1, V0, NONE))

    again = world.open()
    assert again.reached() == V1
    again.close()
    assert world.seen() == []


def test_out_of_order_delivery_is_rejected(world, target):
    target.write(delivery(V0, None, rows(1)))

    with pytest.raises(ConflictError, match="another process has written to this target"):
        target.write(delivery(V2, V1, rows(3)))

    assert [row["id"] for row in world.seen()] == [1]


def test_recreated_table_is_distinguished(target):
    target.write(delivery(V0, None, rows(1)))

    with pytest.raises(ConflictError, match="instead of version 0"):
        target.write(delivery(V1, SinkPosition(0, 555), rows(2)))


def test_failure_while_reading_rows_leaves_nothing_behind(world, target):
    """As if files of the table became unreadable, or the process died, after some rows were sent."""
    target.write(delivery(V0, None, rows(1)))

    def some() -> Iterator[pa.RecordBatch]:
        yield from rows(2, 3).to_batches()
        raise OSError("gone")

    broken = Delivery(V1, V0, pa.RecordBatchReader.from_batches(SCHEMA, some()), NONE, ("id",))
    with pytest.raises((OSError, HeadwaterError), match="gone"):
        target.write(broken)
    target.close()

    again = world.open()
    assert again.reached() == V0
    assert [row["id"] for row in world.seen()] == [1]
    again.write(delivery(V1, V0, rows(2, 3)))
    assert [row["id"] for row in world.seen()] == [1, 2, 3]
    again.close()


def test_updates_and_deletes_are_delivered(world, target):
    target.write(delivery(V0, None, rows(1, 2, 3)))
    target.write(delivery(V1, V0, rows(2, name="new"), removed=rows(3)))

    newest = {row["id"]: row.get("name") for row in world.seen()}

    assert {key: name for key, name in newest.items() if name is not None} == {1: "n1", 2: "new2"}


def test_entire_table_is_replaced_atomically(world, target):
    target.write(delivery(V0, None, rows(1, 2)))

    if world.is_replaceable:
        target.write(delivery(V1, V0, rows(2, 3), is_whole=True))
        assert [row["id"] for row in world.seen()] == [2, 3]
    else:
        with pytest.raises(SinkError, match="can no longer be determined"):
            target.write(delivery(V1, V0, rows(2, 3), is_whole=True))
        assert [row["id"] for row in world.seen()] == [1, 2]


POISON = {
    "bytes": (pa.table({"id": [1], "name": [b"\x00"]}), "cannot be encoded as JSON: got BLOB"),
    "nan": (pa.table({"id": [1], "x": [float("nan")]}), "a number that JSON cannot represent"),
    "deep": (pa.table({"id": [1], "x": [[1.0, float("inf")]]}), "a number that JSON cannot represent"),
    "key": (pa.table({"it": [1]}), "the key 'id' is not a column of these rows"),
}


@pytest.mark.share(4)
@pytest.mark.parametrize("poison", POISON)
def test_unwritable_rows_are_rejected_with_a_message(world, target, poison):
    if not world.checks_rows:
        pytest.skip("a function takes any rows")
    target.write(delivery(V0, None, rows(1)))
    table, message = POISON[poison]

    with pytest.raises(SchemaError, match=message):
        target.write(delivery(V1, V0, table, removed=table.slice(1)))

    assert world.seen() == [{"id": 1, "name": "n1"}]


def test_many_rows_in_several_chunks(world, target):
    rows = pa.table(
        {
            "id": pa.array(range(20), pa.int64()),
            "at": pa.array([1_700_000_000_000_000 + i for i in range(20)], pa.timestamp("us")),
            "part": pa.array([{"a": i, "b": [None, "é\n"]} for i in range(20)]),
            "none": pa.array([None] * 20, pa.float64()),
        }
    )
    target.write(delivery(V0, None, rows, removed=rows.slice(20)))

    seen = world.seen()

    assert Counter(row["id"] for row in seen) == Counter(range(20))
    assert seen[3]["part"] == {"a": 3, "b": [None, "é\n"]}
    assert seen[3]["none"] is None
    assert str(seen[3]["at"]) == "2023-11-14 22:13:20.000003"
