"""Both Kafka clients return the same columns; copies of values are exact and do not read past their ends."""

from __future__ import annotations

import ctypes
import mmap
import time
import uuid
from contextlib import closing

import numpy as np
import pytest
from confluent_kafka import KafkaError, Producer
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.connectors.kafka import kafka, native
from pipeline.connectors.kafka.messages import PythonConsumer
from pipeline.connectors.kafka.native import NativeConsumer, _copied, is_available
from pipeline.core.errors import SourceError
from pipeline.core.schema import Schema
from pipeline.core.splits import SourceSplit
from tests.rigs.proofs import examples

LONG = st.integers(0, 300).map(lambda n: bytes(i % 251 for i in range(n)))


@settings(max_examples=examples(16, 150), deadline=None)
@given(st.lists(st.one_of(st.none(), st.binary(max_size=14), LONG), max_size=30))
def test_values_of_any_length_are_copied_exactly(values):
    buffers = [None if v is None else ctypes.create_string_buffer(v, max(1, len(v))) for v in values]
    starts = np.array([0 if h is None else ctypes.addressof(h) for h in buffers], np.int64)
    lengths = np.array([len(v or b"") for v in values], np.int64)
    assert _copied(starts, lengths).to_pylist() == values


@pytest.mark.parametrize("size", [1, 11, 12, 13, 100])
def test_value_at_the_end_of_mapped_memory(size):
    """The memory after the last page of an anonymous map is usually unmapped: reading it would crash the process."""
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        page[-size:] = bytes(range(size))
        here = ctypes.c_char.from_buffer(page)
        start = ctypes.addressof(here) + mmap.PAGESIZE - size
        assert _copied(np.array([start]), np.array([size])).to_pylist() == [bytes(range(size))]
        del here


def test_values_larger_than_one_array_are_chunked(monkeypatch):
    monkeypatch.setattr(native, "_WINDOW_BYTES", 1000)
    value = ctypes.create_string_buffer(b"x" * 300, 300)
    copied = _copied(np.full(10, ctypes.addressof(value)), np.full(10, 300))
    assert copied.num_chunks > 1
    assert copied.to_pylist() == [b"x" * 300] * 10


CLIENTS = pytest.mark.parametrize("client", [NativeConsumer, PythonConsumer])


@CLIENTS
def test_unknown_client_option(client):
    with pytest.raises(SourceError, match=r"Kafka's client cannot be set up: got .*no.such"):
        client({"no.such": "1", "group.id": "g"}, lambda *_: None)


@CLIENTS
def test_partition_that_is_already_assigned_is_rejected(client, kafka_cluster):
    refused = pytest.raises(SourceError, match=r"Kafka's client cannot read the partitions: got .*already")
    with closing(client(options(kafka_cluster), lambda *_: None)) as consumer:
        consumer.add([("t", 0, 0)])
        with refused:
            consumer.add([("t", 0, 0)])


def test_both_clients_return_the_same_columns(kafka_cluster):
    topics = [f"both-{uuid.uuid4().hex[:8]}" for _ in range(2)]
    producer = Producer({"bootstrap.servers": kafka_cluster.bootstrap})
    for topic in topics:
        kafka_cluster.create_topic(topic, 2)
        for i in range(40):
            value = [None, b"", b"short", b"x" * 12, b"y" * 13, b"\xff" * 3000][i % 6]
            headers = [("a", b"1"), ("a", b"2"), ("none", None), ("umlaut-\u00fc", b"")] if i % 3 == 0 else []
            key = None if i % 4 == 0 else f"key {i}"
            producer.produce(topic, value, key, i % 2, timestamp=1_700_000_000_000 + i, headers=headers)
    assert producer.flush(30) == 0

    native_rows, native_ends = fetched(NativeConsumer, kafka_cluster, topics)
    python_rows, python_ends = fetched(PythonConsumer, kafka_cluster, topics)
    assert native_rows == python_rows
    assert len(native_rows) == 80
    assert native_ends == python_ends == {(topic, number): 20 for topic in topics for number in (0, 1)}


@CLIENTS
def test_unreachable_broker_is_reported(client):
    heard = []
    with closing(
        client({"bootstrap.servers": "127.0.0.1:1", "group.id": "g"}, lambda *error: heard.append(error))
    ) as c:
        c.add([("t", 0, 0)])
        until = time.monotonic() + 20
        while not heard and time.monotonic() < until:
            with c.batch(10, 0.1) as batch:
                assert batch is None or not len(batch)
    code, text = heard[0]
    assert code in {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN}  # noqa: SLF001 - the client's names for its internal errors
    assert "127.0.0.1:1" in text or "brokers" in text


def test_fallback_to_the_python_client_without_the_symbols(kafka_cluster, monkeypatch, caplog):
    name = f"hidden-{uuid.uuid4().hex[:8]}"
    kafka_cluster.create_topic(name, 1)
    producer = Producer({"bootstrap.servers": kafka_cluster.bootstrap})
    for i in range(5):
        producer.produce(name, b'{"id": %d}' % i)
    assert producer.flush(30) == 0
    monkeypatch.setitem(native.FUNCTIONS, "no_such_function", (None,))
    for cached in (native.library, native.is_available):
        cached.cache_clear()
    try:
        with caplog.at_level("WARNING", "headwater.connectors"):
            assert not is_available()
            log = kafka(name, servers=kafka_cluster.bootstrap)
            (source_object,) = (split.source_object for split in log.plan(None).splits)
            rows = log.read(SourceSplit(source_object, 0, 5), Schema.of({"id": "BIGINT"})).rows
        assert rows["id"].to_pylist() == [0, 1, 2, 3, 4]
        assert "slower client in Python" in caplog.text
    finally:
        monkeypatch.undo()
        for cached in (native.library, native.is_available):
            cached.cache_clear()
    assert is_available()


def options(cluster):
    return {
        "bootstrap.servers": cluster.bootstrap,
        "group.id": "headwater",
        "enable.auto.commit": "false",
        "auto.offset.reset": "error",
        "enable.partition.eof": "true",
    }


def fetched(client, cluster, topics):
    """Read all partitions to their ends; return the rows by partition, and the end of each partition."""
    rows, ends = [], {}
    with closing(client(options(cluster), lambda *_: None)) as consumer:
        consumer.add([(topic, number, 0) for topic in topics for number in (0, 1)])
        until = time.monotonic() + 30
        while len(ends) < 2 * len(topics) and time.monotonic() < until:
            with consumer.batch(7, 0.5) as batch:
                if batch is None:
                    continue
                ends |= {(f.topic, f.partition): f.offset for f in batch.faults if f.code == KafkaError._PARTITION_EOF}  # noqa: SLF001
                columns = (batch.values(), batch.keys(), batch.offsets(), batch.timestamps(), batch.headers())
                places = [(batch.topics[place >> 32], place & 0xFFFFFFFF) for place in batch.places.tolist()]
                rows += zip(places, *(column.to_pylist() for column in columns), strict=True)
    return sorted(rows, key=lambda row: (row[0], row[3])), ends
