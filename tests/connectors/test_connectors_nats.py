"""NATS JetStream as a source: what was removed is an error, and each message is read with its metadata."""

from __future__ import annotations

import asyncio
import shutil
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nats
import pytest

from pipeline.connectors.streams.nats import nats_stream
from pipeline.core.errors import DefinitionError, SettingsError, SourceError, SourceUnavailableError
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION
from pipeline.core.splits import SourceObject, SourceSplit
from tests.rigs.streams import jetstream as jetstream  # noqa: PLC0414 - the fixture
from tests.rigs.streams import started

SCHEMA = Schema.of({"id": "BIGINT"})
PASSWORD = "env:NATS_PASSWORD"  # noqa: S105 - a reference


@pytest.fixture
def stream(jetstream):
    """A stream of the server, and what is done with it."""
    return NatsRig(f"nats://127.0.0.1:{jetstream.port}")


class NatsRig:
    """A stream and its server."""

    def __init__(self, servers):
        self.servers, self.name = servers, f"orders-{uuid.uuid4().hex[:8]}"
        self.do(lambda js: js.add_stream(name=self.name, subjects=[f"{self.name}.>"]))

    def do(self, work):
        async def run():
            client = await nats.connect(self.servers)
            try:
                return await work(client.jetstream())
            finally:
                await client.close()

        return asyncio.run(run())

    def write(self, *ids, subject="new", headers=None):
        async def publish(js):
            for number in ids:
                await js.publish(f"{self.name}.{subject}", b'{"id": %d}' % number, headers=headers)

        self.do(publish)

    def reader(self, **options):
        return nats_stream(self.name, servers=self.servers, **options)


def read(reader, schema=SCHEMA, cursor=None):
    plan = reader.plan(cursor)
    return [row for split in plan.splits for row in reader.read(split, schema).rows.to_pylist()], plan


def test_messages_are_read_once_with_their_metadata(stream):
    stream.write(1, 2, subject="eu", headers={"a": "b"})
    stream.write(3, subject="us")
    reader = stream.reader(metadata=("timestamp", "key", "headers"))
    schema = Schema.of(
        {"id": "BIGINT", "_key": "VARCHAR", "_timestamp": "TIMESTAMPTZ", "_headers": "MAP(VARCHAR, BLOB)"}
    )
    rows, plan = read(reader, schema)
    assert [(row["id"], row["_key"], row[POSITION]) for row in rows] == [
        (1, f"{stream.name}.eu", 1),
        (2, f"{stream.name}.eu", 2),
        (3, f"{stream.name}.us", 3),
    ]
    assert dict(rows[0]["_headers"]) == {"a": b"b"}
    assert abs(rows[0]["_timestamp"] - datetime.now(UTC)) < timedelta(minutes=1)
    stream.write(4)
    assert [row["id"] for row in read(reader, schema, plan.cursor)[0]] == [4]
    assert [row["id"] for row in read(stream.reader(subject=f"{stream.name}.us"))[0]] == [3]
    assert reader.schema(plan.splits[0].source_object).as_dict()["id"] == "BIGINT"


def test_messages_that_were_deleted_alone_are_skipped_and_those_of_a_purge_are_an_error(stream):
    stream.write(1, 2, 3, 4)
    reader = stream.reader()
    [split] = reader.plan(None).splits
    stream.do(lambda js: js.delete_msg(stream.name, 3))
    assert reader.read(split, SCHEMA).rows["id"].to_pylist() == [1, 2, 4]
    cursor = reader.plan(None).cursor
    stream.write(5, 6)
    stream.do(lambda js: js.purge_stream(stream.name, keep=1))
    plan = reader.plan(cursor)
    assert [str(gap) for gap in plan.gaps] == [f"offsets 5 to 5 of nats://{stream.name}"]
    with pytest.raises(
        SourceError, match="records were removed before they were read: got position 1, but the stream begins at 6"
    ):
        reader.read(split, SCHEMA)


def test_a_stream_that_was_created_again_is_an_error(stream):
    stream.write(1, 2)
    reader = stream.reader()
    plan = reader.plan(None)
    stream.do(lambda js: js.delete_stream(stream.name))
    with pytest.raises(SourceError, match=r"the stream 'orders-.*' does not exist"):
        reader.plan(None)
    stream.do(lambda js: js.add_stream(name=stream.name, subjects=[f"{stream.name}.>"]))
    stream.write(7, 8)
    with pytest.raises(SourceError, match="the stream was deleted and created again"):
        reader.read(plan.splits[0], SCHEMA)
    assert "was deleted and recreated" in reader.plan(plan.cursor).changed


def test_a_server_that_is_not_there_or_refuses_the_user_is_named(jetstream, tmp_path, monkeypatch):
    assert jetstream.port  # the program is installed
    absent = nats_stream("a", servers="nats://127.0.0.1:9")
    with pytest.raises(
        SourceUnavailableError, match=r"the NATS server does not answer: got .*check servers= \(nats://127\.0\.0\.1:9\)"
    ):
        absent.plan(None)
    config = tmp_path / "nats.conf"
    config.write_text('authorization { user: me, password: "right" }\n')
    program = shutil.which("nats-server", path=Path(sys.executable).parent)
    with started([program, "-a", "127.0.0.1", "-p", "{port}", "-js", "-sd", "{folder}", "-c", str(config)]) as server:
        servers = f"nats://127.0.0.1:{server.port}"
        monkeypatch.setenv("NATS_PASSWORD", "wrong")
        refused = nats_stream("a", servers=servers, user="me", password=PASSWORD)
        with pytest.raises(SourceError, match="the NATS server refuses the user") as error:
            refused.plan(None)
        assert "wrong" not in str(error.value)
        assert "wrong" not in repr(refused)
        monkeypatch.setenv("NATS_PASSWORD", "right")
        with pytest.raises(SourceError, match="the stream 'a' does not exist"):
            nats_stream("a", servers=servers, user="me", password=PASSWORD).plan(None)
        monkeypatch.delenv("NATS_PASSWORD")
        with pytest.raises(SettingsError, match="the environment variable 'NATS_PASSWORD' with the password of"):
            nats_stream("a", servers=servers, user="me", password=PASSWORD).plan(None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"streams": ()}, "a NATS source needs the name of a stream"),
        ({"format": "jsn"}, "unknown format of NATS messages: got 'jsn'; did you mean 'json'"),
        ({"servers": "nats://me:pw@host"}, "the address of a NATS server contains a user; pass user= and password="),
        (
            {"metadata": ("size",)},
            "unknown metadata of a NATS stream: got 'size'; known: 'headers', 'key', 'timestamp'",
        ),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(DefinitionError, match=message):
        nats_stream(**{"streams": "a", **options})


def test_positions_of_an_empty_stream(stream):
    reader = stream.reader()
    [(uri, extent)] = reader.extents().items()
    assert (extent.begin, extent.end) == (1, 1)
    assert reader.offsets_at(datetime.now(UTC)) == {uri: 1}
    assert reader.plan(None).splits == ()
    assert reader.read(SourceSplit(SourceObject(uri, 0, extent.stamp), 1, 1), SCHEMA).rows.num_rows == 0
