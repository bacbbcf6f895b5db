"""Streams of RabbitMQ as a source: messages are read once by offset, and what was removed is an error."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
import uuid
import zlib
from datetime import UTC, datetime, timedelta

import pika
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.connectors.streams import rabbitmq_client
from pipeline.connectors.streams.amqp_messages import AmqpMessage, MessageError, decode
from pipeline.connectors.streams.rabbitmq import rabbitmq_stream
from pipeline.connectors.streams.rabbitmq_frames import Chunk, FrameError, chunk
from pipeline.connectors.streams.rabbitmq_messages import MessageColumns
from pipeline.core.cursors import Bound
from pipeline.core.errors import DefinitionError, SettingsError, SourceError, SourceUnavailableError
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION, Extent
from tests.rigs.rabbitmq import rabbitmq as rabbitmq  # noqa: PLC0414 - the fixture

SCHEMA = Schema.of({"id": "BIGINT"})
PASSWORD = "env:RABBITMQ_PASSWORD"  # noqa: S105 - a reference


class StreamRig:
    """A stream and its server."""

    def __init__(self, server):
        self.server, self.name = server, f"orders-{uuid.uuid4().hex[:8]}"
        self.url = f"rabbitmq-stream://127.0.0.1:{server.stream_port}/"
        self.declare()

    def declare(self, **arguments):
        with self.server.channel() as channel:
            channel.queue_declare(self.name, durable=True, arguments={"x-queue-type": "stream", **arguments})

    def delete(self):
        with self.server.channel() as channel:
            channel.queue_delete(self.name)

    def write(self, *ids, body=None, headers=None):
        with self.server.channel() as channel:
            for number in ids:
                content = b'{"id": %d}' % number if body is None else body
                channel.basic_publish("", self.name, content, pika.BasicProperties(headers=headers))

    def reader(self, **options):
        return rabbitmq_stream(self.name, url=self.url, **options)


@pytest.fixture
def stream(rabbitmq):
    return StreamRig(rabbitmq)


def read(reader, schema=SCHEMA, cursor=None, bound=Bound()):  # noqa: B008 - is frozen
    plan = reader.plan(cursor, bound)
    return [row for split in plan.splits for row in reader.read(split, schema).rows.to_pylist()], plan


def test_messages_are_read_once_with_their_metadata(stream):
    stream.write(1, 2, headers={"kind": "new", "attempt": 3})
    stream.write(3)
    reader = stream.reader(metadata=("timestamp", "headers"))
    schema = Schema.of({"id": "BIGINT", "_timestamp": "TIMESTAMPTZ", "_headers": "MAP(VARCHAR, BLOB)"})
    rows, plan = read(reader, schema)
    assert [(row["id"], row[POSITION]) for row in rows] == [(1, 0), (2, 1), (3, 2)]
    assert dict(rows[0]["_headers"]) == {"kind": b"new", "attempt": b"3"}
    assert abs(rows[0]["_timestamp"] - datetime.now(UTC)) < timedelta(minutes=1)
    stream.write(4)
    assert [row["id"] for row in read(reader, schema, plan.cursor)[0]] == [4]
    assert reader.schema(plan.splits[0].source_object).as_dict()["id"] == "BIGINT"


def test_bodies_of_all_sizes_are_kept(stream):
    sizes = (0, 1, 200, 255, 256, 70_000, 3_000_000)
    for size in sizes:
        stream.write(1, body=b"x" * size)
    table = stream.reader(format="raw").records(stream.name, Extent(0, len(sizes)))
    assert [len(value.as_py()) for value in table["value"]] == list(sizes)


def test_ranges_and_bounded_plans(stream):
    stream.write(*range(200))
    reader = stream.reader()
    for begin, end in ((0, 1), (57, 120), (199, 200)):
        assert reader.records(stream.name, Extent(begin, end))[POSITION].to_pylist() == list(range(begin, end))
    cursor, taken = None, []
    for _ in range(3):
        rows, plan = read(reader, cursor=cursor, bound=Bound(rows=70))
        cursor = plan.cursor
        taken += [row["id"] for row in rows]
    assert taken == list(range(200))


def test_messages_that_retention_removed_are_a_gap_and_an_error(rabbitmq):
    stream = StreamRig(rabbitmq)
    stream.delete()
    stream.declare(**{"x-max-length-bytes": 40_000, "x-stream-max-segment-size-bytes": 10_000})
    stream.write(1, 2, 3)
    reader = stream.reader()
    _, plan = read(reader)
    begin = 0
    until = time.monotonic() + 60
    while not begin and time.monotonic() < until:
        stream.write(*range(100), headers={"fill": "x" * 1000})
        begin = reader.extents()[f"rabbitmq://{stream.name}"].begin
    assert begin
    [gap] = reader.plan(plan.cursor).gaps
    assert (gap.begin, gap.end > 3) == (3, True)
    with pytest.raises(SourceError, match="records were removed before they were read: got position 0, but the stream"):
        reader.read(plan.splits[0], SCHEMA)


def test_a_stream_that_was_created_again_is_found_by_its_last_message(stream):
    stream.write(1, 2)
    reader = stream.reader()
    _, plan = read(reader)
    stream.delete()
    with pytest.raises(SourceError, match=r"the stream 'orders-.*' does not exist"):
        reader.plan(None)
    stream.declare()
    stream.write(7)
    with pytest.raises(SourceError, match="the stream was deleted and created again"):
        reader.read(plan.splits[0], SCHEMA)
    stream.write(8, 9)
    again = reader.plan(plan.cursor)
    assert "was deleted and recreated" in again.changed
    assert again.lost


def test_with_a_marker_a_stream_that_was_created_again_is_found_whatever_it_contains(stream):
    stream.write(1, 2)
    uri = f"rabbitmq://{stream.name}"
    _, plan = read(stream.reader(marker="headwater"))
    before = stream.reader(marker="headwater").extents()[uri].stamp
    assert before == plan.splits[0].source_object.stamp != ""
    assert read(stream.reader(marker="headwater"), cursor=plan.cursor)[0] == []
    stream.delete()
    stream.declare()
    stream.write(1, 2, 3, 4)
    again = stream.reader(marker="headwater")
    assert again.extents()[uri].stamp not in {"", before}
    assert "was deleted and recreated" in again.plan(plan.cursor).changed
    with pytest.raises(SourceError, match="the stream was deleted and created again"):
        again.read(plan.splits[0], SCHEMA)


def test_a_marker_that_cannot_be_stored_is_an_error(stream, monkeypatch):
    """Without the permission to write, the server ignores the request."""
    monkeypatch.setattr(rabbitmq_client, "_MARKER_ATTEMPTS", 0)
    with pytest.raises(SourceError, match="no offset can be stored in the stream 'orders-"):
        stream.reader(marker="headwater").plan(None)


def test_positions_of_an_empty_stream_and_at_a_time(stream):
    reader = stream.reader()
    uri = f"rabbitmq://{stream.name}"
    assert reader.extents() == {uri: Extent(0, 0)}
    assert reader.offsets_at(datetime.now(UTC)) == {uri: 0}
    assert reader.plan(None).splits == ()
    assert reader.plan(reader.plan(None).cursor).changed == ""
    stream.write(1, 2)
    assert reader.offsets_at(datetime.now(UTC) - timedelta(hours=1)) == {uri: 0}
    assert reader.offsets_at(datetime.now(UTC) + timedelta(hours=1)) == {uri: 2}


def test_a_server_that_is_not_there_or_refuses_the_user_is_named(stream, monkeypatch):
    with pytest.raises(SourceUnavailableError, match=r"the RabbitMQ server does not answer: got .*check url="):
        rabbitmq_stream("a", url="rabbitmq-stream://127.0.0.1:9/").plan(None)
    monkeypatch.setenv("RABBITMQ_PASSWORD", "wrong")
    refused = stream.reader(user="guest", password=PASSWORD)
    with pytest.raises(SourceError, match=r"RabbitMQ refuses the user: got authentication failure \(guest\)") as error:
        refused.plan(None)
    assert "wrong" not in str(error.value)
    assert "wrong" not in repr(refused)
    monkeypatch.delenv("RABBITMQ_PASSWORD")
    with pytest.raises(SettingsError, match="the environment variable 'RABBITMQ_PASSWORD' with the password of"):
        stream.reader(password=PASSWORD).plan(None)
    with pytest.raises(SourceError, match=r"RabbitMQ refuses the user: got no access to the virtual host \(other\)"):
        rabbitmq_stream("a", url=f"{stream.url}other").plan(None)
    with pytest.raises(SourceError, match="the stream 'none' does not exist"):
        rabbitmq_stream("none", url=stream.url).plan(None)
    with pytest.raises(SourceError, match="the file of authorities cannot be read"):
        rabbitmq_stream("a", url="rabbitmq-stream+tls://127.0.0.1/", ca="none.pem").plan(None)


def test_a_queue_that_is_not_a_stream_is_an_error(stream):
    stream.delete()
    with stream.server.channel() as channel:
        channel.queue_declare(stream.name)
    with pytest.raises(SourceError, match=r"the stream 'orders-.*' does not exist"):
        stream.reader().plan(None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"streams": ()}, "a RabbitMQ source needs the name of a stream"),
        ({"format": "jsn"}, "unknown format of RabbitMQ messages: got 'jsn'; did you mean 'json'"),
        ({"url": "rabbitmq-stream://me:pw@host"}, "the URL of a RabbitMQ server contains a user; pass user= and pass"),
        ({"url": "amqp://host"}, "the URL of a RabbitMQ server is not known: got 'amqp://host'; write rabbitmq-stream"),
        ({"ca": "ca.pem"}, "ca= needs a URL with TLS"),
        ({"metadata": ("key",)}, "unknown metadata of a RabbitMQ stream: got 'key'; known: 'headers', 'timestamp'"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(DefinitionError, match=message):
        rabbitmq_stream(**{"streams": "a", **options})


def chunk_of(*entries, count, kind=0):
    data = b"".join(entries)
    head = struct.pack(">bbHIqQQIIII", 0x50, kind, len(entries), count, 1000, 1, 7, zlib.crc32(data), len(data), 0, 0)
    return head + data


def sized(*bodies):
    return b"".join(struct.pack(">I", len(body)) + body for body in bodies)


def amqp(body):
    return b"\x00\x53\x75\xb0" + struct.pack(">I", len(body)) + body


@pytest.mark.parametrize(
    ("kind", "pack"),
    [
        (0, lambda data: data),
        (1, lambda data: zlib.compress(data, wbits=31)),
        (3, lambda data: pa.Codec("lz4").compress(data, asbytes=True)),
        (4, lambda data: pa.Codec("zstd").compress(data, asbytes=True)),
    ],
    ids=["none", "gzip", "lz4", "zstd"],
)
def test_compressed_messages_are_read(kind, pack):
    content = sized(amqp(b"one"), amqp(b"two"))
    packed = pack(content)
    batch = struct.pack(">BHII", 0x80 | kind << 4, 2, len(content), len(packed)) + packed
    columns = MessageColumns(has_headers=False)
    columns.add(chunk(chunk_of(batch, sized(amqp(b"three")), count=3)), 8, 10)
    table = columns.table()
    assert table["value"].to_pylist() == [b"two", b"three"]
    assert table[POSITION].to_pylist() == [8, 9]


@pytest.mark.parametrize("full", [100, 1 << 26, (1 << 32) - 1])
def test_compressed_messages_expand_to_what_their_frame_names_within_a_limit(full):
    packed = zlib.compress(bytes(1 << 26), wbits=31)
    head = struct.pack(">BHII", 0x80 | 1 << 4, 1, full, len(packed))
    delivered = chunk(chunk_of(head + packed, count=1))
    tracemalloc.start()
    try:
        with pytest.raises(FrameError, match=r"do not have the size|more than 200 times"):
            list(delivered.messages())
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_chunk_that_cannot_be_read_is_an_error():
    assert chunk(chunk_of(sized(b"x"), count=1, kind=1)) is None
    with pytest.raises(FrameError, match="a chunk of messages is damaged"):
        chunk(chunk_of(sized(b"x"), count=1)[:-1] + b"y")
    columns = MessageColumns(has_headers=False)
    snappy = struct.pack(">BHII", 0x80 | 2 << 4, 1, 5, 5) + b"\0\0\0\1x"
    with pytest.raises(FrameError, match="compressed with Snappy, which cannot be read: use zstd, lz4 or gzip"):
        columns.add(chunk(chunk_of(snappy, count=1)), 7, 8)
    with pytest.raises(FrameError, match="a chunk has 1 messages, not 2"):
        columns.add(chunk(chunk_of(sized(b"x"), count=2)), 7, 9)
    with pytest.raises(FrameError, match="a chunk of messages is not valid"):
        columns.add(Chunk(7, 1, 0, b"\x00\x00", 1), 7, 8)


@given(st.binary(max_size=60))
def test_bytes_that_are_not_a_message_never_end_a_run(data):
    columns = MessageColumns(has_headers=True)
    columns.add(Chunk(0, 1, 0, sized(data), 1), 0, 1)
    assert columns.table().num_rows == 1


@given(st.binary(max_size=400), st.dictionaries(st.text(max_size=5), st.integers(-9, 9), max_size=3))
def test_a_message_with_properties_has_its_body(body, named):
    items = b"".join(
        b"\xa1" + bytes([len(name.encode())]) + name.encode() + b"\x55" + struct.pack("b", value)
        for name, value in named.items()
    )
    properties = b"\x00\x53\x74\xd1" + struct.pack(">II", len(items) + 4, 2 * len(named)) + items
    decoded = decode(properties + amqp(body), headers=True)
    assert decoded == AmqpMessage(body, tuple((name, str(value).encode()) for name, value in named.items()))
    assert decode(properties + amqp(body)) == AmqpMessage(body)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x01", "no section at byte 0"),
        (b"\x00\x53\x75\xa0\x09x", "the message ends within a value"),
        (b"\x00\x53\x75\xee", "unknown type 0xee at byte 3"),
        (b"\x00\x53\x74\xc1\x03\x02\xa1\x00", "a list is shorter than its number of items"),
    ],
)
def test_invalid_messages_have_a_reason(data, message):
    with pytest.raises(MessageError, match=message):
        decode(data, headers=True)


def test_a_value_that_is_not_bytes_is_rejected_and_texts_are_read():
    assert decode(b"\x00\x53\x77\x54\x05").body is None
    assert decode(b"\x00\x53\x77\xa1\x02hi").body == b"hi"
    assert json.loads(decode(amqp(b'{"id": 1}')).body) == {"id": 1}
