"""Kafka as a log, with a real broker: retention, deleted topics, transactions and new partitions."""

from __future__ import annotations

import json
import pickle
import socket
import threading
import time
import uuid
from datetime import UTC, datetime

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.connectors.kafka import Avro, Sasl, Tls, client, kafka, ranges
from pipeline.connectors.kafka import tail as tail_module
from pipeline.connectors.kafka.partitions import Partition
from pipeline.core.credentials import secret
from pipeline.core.errors import DefinitionError, SchemaError, SettingsError, SourceError
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION, Extent
from pipeline.core.splits import SourceSplit
from pipeline.kernel.engine import connect
from tests.rigs.logs import source_objects

IDS = Schema.of({"id": "BIGINT"})
SOON_S = 20.0


@pytest.fixture(name="cluster")
def _cluster(kafka):
    return kafka


@pytest.fixture
def topic(cluster):
    """The name of a new topic with one partition."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    cluster.create_topic(name)
    return name


@pytest.fixture
def send(cluster):
    """Send values to a partition and wait for the acknowledgments."""

    def of(name, values, partition=0, **more):
        producer = Producer({"bootstrap.servers": cluster.bootstrap, "log_level": 0, "message.max.bytes": 32 << 20})
        errors = []
        for value in values:
            options = {"on_delivery": lambda error, _: errors.append(error)}
            producer.produce(name, value, partition=partition, **options, **more)
        assert producer.flush(SOON_S) == 0
        assert errors == [None] * len(values)

    return of


def ids(numbers):
    return [json.dumps({"id": n}) for n in numbers]


def rows(reading):
    return reading.rows.column("id").to_pylist()


def split_of(log, begin, end, number=0):
    return SourceSplit(source_objects(log)[number], begin, end, first=begin)


# --- retention, and topics that are created, deleted or extended


def test_retention_of_a_range_is_an_error(cluster, topic, send):
    log = kafka(topic, servers=cluster.bootstrap)
    send(topic, ids(range(10)))
    split = split_of(log, 0, 10)
    delete_before(cluster, topic, 4)

    assert log.extents() == {f"kafka://{topic}/0": Extent(4, 10)}
    with pytest.raises(SourceError, match="records were deleted before they were read"):
        log.read(split, IDS)
    with (
        pytest.raises(SourceError, match=r"got offset 0, but the partition begins at 4"),
        log.tail({split.source_object.uri: 0}),
    ):
        pass
    assert rows(log.read(split_of(log, 4, 10), IDS)) == list(range(4, 10))


def test_retention_ahead_of_a_tail_is_an_error(cluster, topic, send):
    """The tail's buffer is full, so it stops near offset 1 while all records are deleted."""
    log = kafka(topic, servers=cluster.bootstrap, ahead_bytes=1)
    send(topic, [b"x" * (900 << 10)] * 8)
    uri = f"kafka://{topic}/0"
    with log.tail({uri: 0}) as tail:
        ready = tail.ready(SOON_S)
        assert 1 <= ready.offsets[uri] < 8
        send(topic, [b"x" * (900 << 10)] * 8)
        delete_before(cluster, topic, 16)
        send(topic, ids([1]))
        with pytest.raises(SourceError, match=r"were deleted before they were read.*increase the retention"):
            drain(log, tail, uri, 17)


def test_recreated_topic_is_detected_by_range_and_tail(cluster, topic, send):
    log = kafka(topic, servers=cluster.bootstrap)
    send(topic, ids(range(5)))
    old = split_of(log, 0, 3)
    with log.tail({old.source_object.uri: 0}) as tail:
        assert tail.ready(SOON_S).rows
        assert rows(tail.reader().read(old, IDS)) == [0, 1, 2]
        delete(cluster, topic)
        cluster.create_topic(topic)
        send(topic, ids(range(100, 120)))

        with pytest.raises(SourceError, match="was deleted or recreated"):
            drain(log, tail, old.source_object.uri, 20)
    assert source_objects(log)[0].stamp != old.source_object.stamp
    with pytest.raises(SourceError, match=r"its offsets now identify other records"):
        log.read(old, IDS)


def test_new_partitions_and_topics_are_read_from_the_beginning(cluster, send):
    prefix = uuid.uuid4().hex[:8]
    log = kafka(pattern=f"{prefix}-.*", servers=cluster.bootstrap)
    with pytest.raises(SourceError, match="no topic matches"):
        log.plan(None)
    cluster.create_topic(f"{prefix}-a")
    send(f"{prefix}-a", ids([1]))
    assert log.extents() == {f"kafka://{prefix}-a/0": Extent(0, 1)}
    with log.tail({uri: extent.begin for uri, extent in log.extents().items()}) as tail:
        add_partitions(cluster, f"{prefix}-a", 2)
        cluster.create_topic(f"{prefix}-b")
        cluster.create_topic(f"x{prefix}-c")
        send(f"{prefix}-a", ids([2]), partition=1)
        send(f"{prefix}-b", ids([3]))
        extents = log.extents()
        assert extents == {f"kafka://{prefix}-{name}": Extent(0, 1) for name in ("a/0", "a/1", "b/0")}
        tail.add({uri: 0 for uri in extents if not uri.endswith("-a/0")})
        while min((ready := tail.ready(SOON_S)).offsets.values()) < 1:
            assert ready.rows
        reader = tail.reader()
        assert sorted(n for p in source_objects(log) for n in rows(reader.read(SourceSplit(p, 0, 1), IDS))) == [1, 2, 3]


# --- transactions


def test_aborted_records_are_skipped_and_do_not_block_a_range(cluster, topic):
    log = kafka(topic, servers=cluster.bootstrap)
    producer = transactional(cluster)
    in_transaction(producer, topic, range(3), commit=True)
    in_transaction(producer, topic, range(100, 103), commit=False)
    in_transaction(producer, topic, range(3, 6), commit=True)
    in_transaction(producer, topic, range(200, 203), commit=False)
    uri = f"kafka://{topic}/0"
    extent = log.extents()[uri]
    assert extent == Extent(0, 16)  # four times three records and a transaction marker

    reading = log.read(split_of(log, 0, 16), IDS)
    assert rows(reading) == [0, 1, 2, 3, 4, 5]
    assert reading.rows[POSITION].to_pylist() == [0, 1, 2, 8, 9, 10]
    assert [rows(log.read(split_of(log, a, a + 1), IDS)) for a in (3, 4, 7, 11, 15)] == [[]] * 5
    with log.tail({uri: 0}) as tail:
        while tail.ready(SOON_S).offsets[uri] < 16:
            pass
        assert rows(tail.reader().read(split_of(log, 0, 16), IDS)) == [0, 1, 2, 3, 4, 5]


def test_open_transaction_blocks_a_partition_and_is_reported(cluster, topic, send):
    log = kafka(topic, servers=cluster.bootstrap)
    uri = f"kafka://{topic}/0"
    producer = transactional(cluster)
    producer.begin_transaction()
    producer.produce(topic, ids([1])[0])
    producer.flush(SOON_S)
    send(topic, ids([2, 3]))

    assert log.extents() == {uri: Extent(0, 0)}
    assert log.held_back() == {uri: 3}
    with log.tail({uri: 0}) as tail:
        assert tail.ready(0.2).rows == 0
        producer.commit_transaction(SOON_S)
        while (ready := tail.ready(SOON_S)).offsets[uri] < 4:
            assert ready.rows
        assert rows(tail.reader().read(split_of(log, 0, 4), IDS)) == [1, 2, 3]
    assert log.held_back() == {uri: 0}


def test_uncommitted_range_is_rejected_completely(cluster, topic, send, monkeypatch):
    monkeypatch.setattr(ranges, "PATIENCE_S", 0.5)
    log = kafka(topic, servers=cluster.bootstrap)
    send(topic, ids([1]))
    with pytest.raises(SourceError, match=r"the records of a range were not received: got those up to 1 of 0 to 2"):
        log.read(split_of(log, 0, 2), IDS)


# --- tails


def test_full_tail_pauses_and_resumes(cluster, topic, send):
    log = kafka(topic, servers=cluster.bootstrap, format="raw", ahead_bytes=4 << 20)
    blob = Schema.of({"value": "BLOB"})
    uri = f"kafka://{topic}/0"
    with log.tail({uri: 0}) as tail:
        for _ in range(8):
            send(topic, [b"x" * (900 << 10)] * 5)
        seen = at = 0
        while at < 40:
            ready = tail.ready(SOON_S)
            assert tail.waiting_bytes < 12 << 20  # the limit, plus one fetch
            reading = tail.reader().read(SourceSplit(source_objects(log)[0], at, ready.offsets[uri]), blob)
            seen, at = seen + reading.rows.num_rows, ready.offsets[uri]
        assert seen == 40


def test_tail_scans_its_partitions_in_one_query(cluster, send):
    name = f"t-{uuid.uuid4().hex[:8]}"
    cluster.create_topic(name, 3)
    for number in range(3):
        send(name, ids(range(10 * number, 10 * number + 4)), partition=number)
    log = kafka(name, servers=cluster.bootstrap, metadata=("topic", "partition", "offset"))
    schema = Schema.of({"id": "BIGINT", "_topic": "VARCHAR", "_partition": "INTEGER", "_offset": "BIGINT"})
    splits = [split_of(log, 0, 4, 2), split_of(log, 1, 3, 0), split_of(log, 0, 0, 1), split_of(log, 2, 4, 1)]
    with log.tail({split.source_object.uri: 0 for split in splits}) as tail:
        while tail.ready(SOON_S).rows < 12:
            pass
        with connect() as con, tail.reader().scan_together(con, splits, schema) as scan:
            rows = con.sql(scan.query).fetchall()
            assert "union" not in scan.query
    uris = {number: f"kafka://{name}/{number}" for number in range(3)}
    ranges = [(2, range(4)), (0, range(1, 3)), (1, range(2, 4))]
    expected = [(10 * n + at, name, n, at, uris[n], at, False) for n, offsets in ranges for at in offsets]
    assert rows == expected
    assert scan.rows == len(expected)


def test_full_tail_returns_its_records_once_the_brokers_answer(cluster, topic, send, monkeypatch):
    """The buffer is full when the check of the topics fails: the check is repeated although no records arrive."""
    answers = iter([False, False])
    check = tail_module.check_topics
    monkeypatch.setattr(tail_module, "check_topics", lambda *a, **more: next(answers, True) and check(*a, **more))
    send(topic, [b"x" * (900 << 10)])
    log = kafka(topic, servers=cluster.bootstrap, format="raw", ahead_bytes=1)
    with log.tail({f"kafka://{topic}/0": 0}) as tail:
        while not (ready := tail.ready(SOON_S)).rows:
            assert ready.is_unanswered
        assert ready.rows == 1
    assert next(answers, None) is None


def test_client_that_does_not_answer_is_replaced(cluster, topic, monkeypatch):
    monkeypatch.setattr(client, "REPLACE_AFTER_S", 1.0)
    kafka_client = kafka(topic, servers=cluster.bootstrap).client
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(kafka_client, "_admin", AdminClient({"bootstrap.servers": address, "log_level": 0}))
        assert kafka_client.ids([topic], 0.5) is None
        deadline = time.monotonic() + 60
        while (ids := kafka_client.ids([topic], 0.5)) is None:
            assert time.monotonic() < deadline
    assert list(ids) == [topic]
    assert kafka_client.topics([topic], None)[topic].id == ids[topic]


def test_closing_a_tail_stops_its_thread(cluster, topic):
    with kafka(topic, servers=cluster.bootstrap).tail({f"kafka://{topic}/0": 0}):
        assert any(t.name == "headwater-kafka" for t in threading.enumerate())
    assert all(t.name != "headwater-kafka" for t in threading.enumerate())


# --- metadata and errors


def test_record_timestamp(cluster, topic, send):
    log = kafka(topic, servers=cluster.bootstrap, metadata=("timestamp", "key", "headers", "topic", "partition"))
    noon = datetime(2024, 5, 1, 12, tzinfo=UTC)
    at = int(noon.timestamp() * 1000)
    send(topic, ids([1]), timestamp=at - 1, key=b"\xff", headers=[("h", b"1"), ("h", b"2"), ("n", None)])
    send(topic, ids([2]), timestamp=at)

    assert log.offsets_at(noon) == {f"kafka://{topic}/0": 1}
    schema = Schema.of(
        {
            "_headers": "MAP(VARCHAR, BLOB)",
            "_topic": "VARCHAR",
            "_partition": "INTEGER",
            "id": "BIGINT",
            "_timestamp": "TIMESTAMPTZ",
            "_key": "BLOB",
        }
    )
    first, second = log.read(split_of(log, 0, 2), schema).rows.to_pylist()
    assert second["_timestamp"] == noon
    assert (first["_key"], second["_key"]) == (b"\xff", None)
    assert dict(first["_headers"]) == {"h": b"2", "n": None}
    assert (first["_topic"], first["_partition"], first["id"]) == (topic, 0, 1)
    keyed = log.read(split_of(log, 0, 2), Schema.of({"id": "BIGINT", "_key": "VARCHAR"}))
    assert keyed.rejected["reason"].to_pylist() == ["the key is not UTF-8"]


def test_keys_and_values_of_any_length_or_null(cluster, topic, send):
    log = kafka(topic, servers=cluster.bootstrap, format="raw", metadata=("key",), tombstones="keep")
    values = [b"", None, b"a", b"x" * 12, b"x" * 13, b"y" * 5000]
    for value in values:
        send(topic, [value], key=value)
    rows = log.read(split_of(log, 0, len(values)), Schema.of({"v": "BLOB", "_key": "BLOB"})).rows
    assert rows["v"].to_pylist() == values
    assert rows["_key"].to_pylist() == values


def test_metadata_that_is_not_fetched_is_rejected(cluster, topic, send):
    send(topic, ids([1]))
    log = kafka(topic, servers=cluster.bootstrap)
    with pytest.raises(SchemaError, match=r"'_key' is message metadata that is not fetched.*metadata=\('key',\)"):
        log.read(split_of(log, 0, 1), Schema.of({"_key": "BLOB"}))


def test_infer_columns_from_existing_records(cluster, topic, send):
    log = kafka(topic, servers=cluster.bootstrap, metadata=("key",))
    with pytest.raises(SourceError, match="no record contains a JSON object"):
        log.schema(source_objects(log)[0])
    send(topic, [b'{"id": 1,\n "at": "2024-01-01 10:00:00"}', b"nothing", None, b'{"tags": ["a"]}'])
    assert log.schema(source_objects(log)[0]) == Schema.of(
        {"id": "BIGINT", "at": "TIMESTAMP", "tags": "VARCHAR[]", "_key": "BLOB"}
    )


def test_unreachable_broker(monkeypatch):
    monkeypatch.setattr(client, "PATIENCE_S", 0.3)
    with pytest.raises(SourceError, match=r"Kafka does not answer.*check servers="):
        kafka("t", servers="127.0.0.1:1").extents()


def test_missing_topic(cluster):
    with pytest.raises(SourceError, match="the topic does not exist"):
        kafka("nowhere", servers=cluster.bootstrap).plan(None)


def test_bootstrap_servers_are_required(cluster, topic, monkeypatch):
    monkeypatch.delenv("HEADWATER_KAFKA_SERVERS", raising=False)
    with pytest.raises(DefinitionError, match=r"no Kafka bootstrap servers are configured.*HEADWATER_KAFKA_SERVERS"):
        kafka(topic).extents()
    monkeypatch.setenv("HEADWATER_KAFKA_SERVERS", cluster.bootstrap)
    assert kafka(topic).extents()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs either topics or a pattern"),
        ({"topics": "a", "pattern": "b"}, "needs either topics or a pattern"),
        ({"pattern": "("}, "pattern= is not a valid regular expression"),
        ({"topics": "a", "format": "jsn"}, "unknown format of Kafka values: got 'jsn'; did you mean 'json'"),
        ({"topics": "a", "tombstones": "drop"}, "'reject' or 'keep'"),
        ({"topics": "a", "metadata": ("keys",)}, "unknown message metadata: got 'keys'; did you mean 'key'"),
    ],
)
def test_contradictory_kafka_options(options, message):
    with pytest.raises(DefinitionError, match=message):
        kafka(**options)


def test_secrets_are_not_displayed_or_pickled(monkeypatch):
    shown = repr(kafka("t", security=Sasl("me", "geheim", tls=Tls(key_password="heimlich"))))  # noqa: S106 - a fake password
    assert "geheim" not in shown
    assert "heimlich" not in shown
    assert "stumm" not in repr(kafka("t", format=Avro("http://r", "me", "stumm")))
    log = kafka("t", servers="s", security=Sasl("me", "env:KAFKA_PASSWORD"))
    with pytest.raises(SettingsError, match="the environment variable 'KAFKA_PASSWORD' with a Kafka secret is not set"):
        log.options()
    monkeypatch.setenv("KAFKA_PASSWORD", "geheim")
    assert log.options()["sasl.password"] == "geheim"
    assert log.options()["security.protocol"] == "SASL_SSL"
    assert b"geheim" not in pickle.dumps(log)
    assert secret("env:A", "it", {"A": "b"}) == "b"


def test_uri_without_a_partition():
    with pytest.raises(SourceError, match="does not name a Kafka partition: got 'kafka://x'"):
        Partition.of("kafka://x")


# --- the connector contract


def delete_before(cluster, topic, offset):
    admin = cluster.admin()
    for future in admin.delete_records([TopicPartition(topic, 0, offset)]).values():
        future.result()


def delete(cluster, topic):
    admin = cluster.admin()
    for future in admin.delete_topics([topic], operation_timeout=SOON_S).values():
        future.result()


def add_partitions(cluster, topic, count):
    from confluent_kafka.cimpl import NewPartitions  # noqa: PLC0415 - next to its use

    admin = cluster.admin()
    for future in admin.create_partitions([NewPartitions(topic, count)], operation_timeout=SOON_S).values():
        future.result()


def transactional(cluster):
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "transactional.id": uuid.uuid4().hex, "log_level": 0})
    producer.init_transactions(SOON_S)
    return producer


def in_transaction(producer, topic, numbers, *, commit):
    producer.begin_transaction()
    for value in ids(numbers):
        producer.produce(topic, value)
    producer.flush(SOON_S)
    if commit:
        producer.commit_transaction(SOON_S)
    else:
        producer.abort_transaction(SOON_S)


def drain(log, tail, uri, end):
    """Take the records of a tail up to an offset."""
    at = 0
    raw = Schema.of({"id": "BIGINT"})
    while at < end:
        ready = tail.ready(SOON_S)
        assert ready.rows
        tail.reader().read(SourceSplit(source_objects(log)[0], at, ready.offsets[uri]), raw)
        at = ready.offsets[uri]
