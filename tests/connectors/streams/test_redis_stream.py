"""Streams of Valkey as a source: entries are read once by number, and what was trimmed or deleted is an error."""

from __future__ import annotations

import json
import socketserver
import threading
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from pipeline.connectors.streams.redis import json_object, redis_stream
from pipeline.connectors.streams.redis_client import RedisClient
from pipeline.core.cursors import Bound
from pipeline.core.errors import DefinitionError, Place, SettingsError, SourceError, SourceUnavailableError
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION, Extent
from pipeline.core.splits import SourceObject, SourceSplit
from tests.rigs.streams import VALKEY, started, valkey_program
from tests.rigs.streams import valkey as valkey  # noqa: PLC0414 - the fixture

SCHEMA = Schema.of({"id": "BIGINT", "name": "VARCHAR"})
PASSWORD = "env:REDIS_PASSWORD"  # noqa: S105 - a reference


class RedisRig:
    """A stream and its server."""

    def __init__(self, server):
        self.url, self.name = f"redis://127.0.0.1:{server.port}/0", f"orders-{uuid.uuid4().hex[:8]}"
        self.client = Redis(port=server.port)

    def write(self, *ids, **more):
        return [self.client.xadd(self.name, {"id": number, "name": f"n{number}", **more}).decode() for number in ids]

    def reader(self, **options):
        return redis_stream(self.name, url=self.url, **options)


@pytest.fixture
def stream(valkey):
    rig = RedisRig(valkey)
    yield rig
    rig.client.close()


def read(reader, schema=SCHEMA, cursor=None, bound=Bound()):  # noqa: B008 - is frozen
    plan = reader.plan(cursor, bound)
    return [row for split in plan.splits for row in reader.read(split, schema).rows.to_pylist()], plan


def test_fields_are_columns_and_metadata_is_that_of_the_id(stream):
    first, _ = stream.write(1, 2)
    schema = Schema.of({**SCHEMA.as_dict(), "_key": "VARCHAR", "_timestamp": "TIMESTAMPTZ"})
    rows, plan = read(stream.reader(metadata=("timestamp", "key")), schema)
    assert [(row["id"], row["name"], row[POSITION]) for row in rows] == [(1, "n1", 0), (2, "n2", 1)]
    assert rows[0]["_key"] == first
    assert abs(rows[0]["_timestamp"] - datetime.now(UTC)) < timedelta(minutes=1)
    assert stream.reader().schema(plan.splits[0].source_object).as_dict()["id"] == "VARCHAR"


def test_one_field_is_the_value_and_the_others_are_headers(stream):
    stream.client.xadd(stream.name, {"body": '{"id": 7}', "kind": "new"})
    stream.client.xadd(stream.name, {"other": "x"})
    schema = Schema.of({"id": "BIGINT", "_headers": "MAP(VARCHAR, BLOB)"})
    reader = stream.reader(field="body", metadata=("headers",))
    [split] = reader.plan(None).splits
    result = reader.read(split, schema)
    assert result.rows["id"].to_pylist() == [7]
    assert dict(result.rows["_headers"][0].as_py()) == {"kind": b"new"}
    assert result.rejected.select([POSITION, "reason"]).to_pylist() == [{POSITION: 1, "reason": "no value"}]


def test_an_entry_that_is_not_text_or_has_a_field_twice_is_rejected(stream):
    stream.client.xadd(stream.name, {"id": 1, "name": b"\xff"})
    stream.client.execute_command("XADD", stream.name, "*", "id", 1, "id", 2)
    stream.write(3)
    reader = stream.reader()
    [split] = reader.plan(None).splits
    result = reader.read(split, SCHEMA)
    assert result.rows["id"].to_pylist() == [3]
    assert result.rejected[POSITION].to_pylist() == [0, 1]


@given(st.dictionaries(st.binary(max_size=6), st.binary(max_size=6), min_size=1, max_size=4))
def test_texts_stay_as_they_are_and_other_bytes_never_become_text(fields):
    words = [word for pair in fields.items() for word in pair]
    made = json_object(words)
    try:
        texts = {name.decode(): value.decode() for name, value in fields.items()}
    except UnicodeDecodeError:
        with pytest.raises(UnicodeDecodeError):
            made.decode()
    else:
        assert json.loads(made) == texts


def test_ranges_are_found_from_either_end_and_after_bounded_plans(stream):
    stream.write(*range(100))
    stream.client.xtrim(stream.name, maxlen=90, approximate=False)
    for begin, end in ((10, 12), (55, 57), (98, 100), (40, 60)):
        table = stream.reader().records(stream.name, Extent(begin, end))
        assert table[POSITION].to_pylist() == list(range(begin, end))
        assert b'"n%d"' % begin in table["value"][0].as_py()
    reader, cursor, taken = stream.reader(), None, []
    for _ in range(4):
        rows, plan = read(reader, cursor=cursor, bound=Bound(rows=30))
        cursor = plan.cursor
        taken += [row["id"] for row in rows]
    assert taken == list(range(10, 100))


def test_trimmed_entries_are_a_gap_and_an_error(stream):
    stream.write(1, 2, 3)
    reader = stream.reader()
    [split] = reader.plan(None).splits
    cursor = reader.plan(None).cursor
    stream.write(4, 5, 6)
    stream.client.xtrim(stream.name, maxlen=1, approximate=False)
    assert [str(gap) for gap in reader.plan(cursor).gaps] == [f"offsets 3 to 4 of redis://{stream.name}"]
    with pytest.raises(
        SourceError, match="records were removed before they were read: got position 0, but the stream begins at 5"
    ):
        reader.read(split, SCHEMA)


def test_entries_that_were_deleted_singly_are_an_error_until_the_stream_is_trimmed_beyond_them(stream):
    ids = stream.write(1, 2, 3)
    stream.client.xdel(stream.name, ids[1])
    reader = stream.reader()
    with pytest.raises(SourceError, match="single entries of the stream were deleted, so the positions of the others"):
        reader.plan(None)
    stream.client.xtrim(stream.name, minid=ids[2], approximate=False)
    assert [(row["id"], row[POSITION]) for row in read(reader)[0]] == [(3, 2)]


def test_a_stream_that_was_created_again_is_found_by_its_count_or_by_its_last_entry(stream):
    stream.write(1, 2)
    reader = stream.reader()
    rows, plan = read(reader)
    assert len(rows) == 2
    stream.client.delete(stream.name)
    with pytest.raises(SourceError, match=r"the stream 'orders-.*' does not exist"):
        reader.plan(None)
    stream.write(7)
    assert "was deleted and recreated" in stream.reader().plan(plan.cursor).changed
    with pytest.raises(SourceError, match="the stream was deleted and created again"):
        reader.read(plan.splits[0], SCHEMA)
    stream.write(8, 9, 10)
    again = stream.reader().plan(plan.cursor)
    assert "was deleted and recreated" in again.changed
    assert again.lost


def test_with_a_marker_a_stream_that_was_created_again_is_found_whatever_it_contains(stream):
    ids = stream.write(1, 2)
    reader = stream.reader(marker="headwater")
    _, plan = read(reader)
    assert read(stream.reader(marker="headwater"), cursor=plan.cursor)[0] == []
    assert len(stream.client.xinfo_groups(stream.name)) == 1
    before = stream.reader(marker="headwater").extents()[f"redis://{stream.name}"].stamp
    stream.client.delete(stream.name)
    for number, entry in enumerate(ids):  # with the same ids
        stream.client.xadd(stream.name, {"id": number, "name": "other"}, id=entry)
    again = stream.reader(marker="headwater")
    assert again.extents()[f"redis://{stream.name}"].stamp not in {"", before}
    assert "was deleted and recreated" in again.plan(plan.cursor).changed
    with pytest.raises(SourceError, match="the stream was deleted and created again"):
        stream.reader(marker="headwater").read(plan.splits[0], SCHEMA)


def test_a_tail_notices_that_the_stream_is_another_one(stream):
    stream.write(1, 2)
    reader = stream.reader()
    uri = f"redis://{stream.name}"
    with reader.tail({uri: 0}) as tail:
        assert tail.ready(5).offsets == {uri: 2}
        split = SourceSplit(SourceObject(uri, 0, ""), 0, 2)
        assert tail.reader([split]).read(split, SCHEMA).rows.num_rows == 2
        stream.client.delete(stream.name)
        stream.write(5, 6, 7)
        split = SourceSplit(SourceObject(uri, 0, ""), 2, 3)
        with pytest.raises(SourceError, match="the stream was deleted and created again"):
            tail.reader([split]).read(split, SCHEMA)


def test_a_server_that_is_not_there_or_refuses_the_user_is_named(valkey, monkeypatch):
    assert valkey.port  # the program is installed
    with pytest.raises(SourceUnavailableError, match=r"the Redis server does not answer: got .*check url="):
        redis_stream("a", url="redis://127.0.0.1:9").plan(None)
    with started([valkey_program(), *VALKEY, "--requirepass", "right"]) as server:
        url = f"redis://127.0.0.1:{server.port}"
        with pytest.raises(SourceError, match=r"the Redis server refuses the user: got .*check user= and password="):
            redis_stream("a", url=url).plan(None)
        monkeypatch.setenv("REDIS_PASSWORD", "wrong")
        refused = redis_stream("a", url=url, password=PASSWORD)
        with pytest.raises(SourceError, match="the Redis server refuses the user") as error:
            refused.plan(None)
        assert "wrong" not in str(error.value)
        assert "wrong" not in repr(refused)
        monkeypatch.setenv("REDIS_PASSWORD", "right")
        with pytest.raises(SourceError, match="the stream 'a' does not exist"):
            redis_stream("a", url=url, password=PASSWORD).plan(None)
        monkeypatch.delenv("REDIS_PASSWORD")
        with pytest.raises(SettingsError, match="the environment variable 'REDIS_PASSWORD' with the password of"):
            redis_stream("a", url=url, password=PASSWORD).plan(None)


def test_a_key_of_another_type_is_an_error(stream):
    stream.client.set(stream.name, "text")
    with pytest.raises(SourceError, match=r"the stream cannot be read: got .*wrong kind of value"):
        stream.reader().plan(None)


def test_a_stream_that_vanishes_while_an_entry_is_looked_up_is_an_error(stream):
    stream.write(*range(20))
    client = RedisClient(stream.url, {}, Place(stream.url))
    info = client.info(stream.name)
    stream.client.delete(stream.name)
    with pytest.raises(SourceError, match="the stream changed while it was read; run it again"):
        list(client.entries(stream.name, info, 10, 12))


def test_a_server_that_does_not_count_entries_is_refused():
    """Redis 6 does not: its answer to XINFO STREAM has no `entries-added`."""
    answers = {b"XINFO": b"*4\r\n$6\r\nlength\r\n:0\r\n$11\r\nfirst-entry\r\n$-1\r\n"}

    class Answer(socketserver.StreamRequestHandler):
        def handle(self):
            while line := self.rfile.readline():
                words = [self.rfile.read(int(self.rfile.readline()[1:]) + 2)[:-2] for _ in range(int(line[1:]))]
                self.wfile.write(answers.get(words[0], b"+OK\r\n"))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        reader = redis_stream("a", url=f"redis://127.0.0.1:{server.server_address[1]}")
        with pytest.raises(SourceError, match="the server does not count the entries of streams; use Redis 7 or later"):
            reader.plan(None)
        reader._client.close()  # noqa: SLF001 - the thread of its connection ends
        server.shutdown()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"streams": ()}, "a Redis source needs the name of a stream"),
        ({"format": "jsn"}, "unknown format of Redis entries: got 'jsn'; did you mean 'json'"),
        ({"format": "raw"}, "format= of a Redis stream needs field="),
        ({"url": "redis://me:pw@host"}, "the URL of a Redis server contains a user; pass user= and password="),
        ({"url": "host:6379"}, "the URL of a Redis server is not known: got 'host:6379'; write redis://host:6379/0"),
        ({"ca": "ca.pem"}, "ca= needs a URL with TLS"),
        (
            {"metadata": ("size",)},
            "unknown metadata of a Redis stream: got 'size'; known: 'headers', 'key', 'timestamp'",
        ),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(DefinitionError, match=message):
        redis_stream(**{"streams": "a", **options})


def test_positions_of_an_empty_stream_and_at_a_time(stream):
    stream.write(1)
    stream.client.xtrim(stream.name, maxlen=0, approximate=False)
    reader = stream.reader()
    [(uri, extent)] = reader.extents().items()
    assert (extent.begin, extent.end) == (1, 1)
    assert reader.offsets_at(datetime.now(UTC)) == {uri: 1}
    assert reader.plan(None).splits == ()
    assert reader.plan(reader.plan(None).cursor).changed == ""
    stream.write(2, 3)
    assert reader.offsets_at(datetime.now(UTC) - timedelta(hours=1)) == {uri: 1}
    assert reader.offsets_at(datetime.now(UTC) + timedelta(hours=1)) == {uri: 3}
