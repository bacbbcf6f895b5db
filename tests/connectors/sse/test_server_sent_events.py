"""Server-sent events: the format, interruptions, runs and streams."""

from __future__ import annotations

import itertools
import json
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.connectors.spool.record_log import parts_of
from pipeline.connectors.sse import events as events_module
from pipeline.connectors.sse.events import EventParser, ServerEvent
from pipeline.connectors.sse.source import server_sent_events
from pipeline.core.errors import DefinitionError, SourceError, SourceUnavailableError
from pipeline.core.schema import Schema
from pipeline.core.splits import SourceObject, SourceSplit
from tests.rigs.http_faults import Reply, http_server
from tests.rigs.sse_server import EventServer

SCHEMA = Schema.of({"n": "bigint"})


@pytest.fixture(scope="module")
def running():
    with http_server() as server:
        yield server


@pytest.fixture
def server(running):
    made = EventServer()
    running.routes, running.script, running.received = {"/events": made.answer}, [], []
    made.http, made.url = running, f"{running.url}/events"
    yield made
    made.is_closing.set()


def stream(server, folder, **options):
    return server_sent_events(server.url, idle="300 milliseconds", listen="10 seconds", spool=str(folder), **options)


def bodies(reader) -> list[object]:
    return [json.loads(parts_of(line)[2]) for line in reader.partition().records(0, 1 << 40)]


def parsed(*chunks: bytes) -> list[ServerEvent]:
    parser = EventParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"data: a\n\n", [ServerEvent("a")]),
        (b"\xef\xbb\xbfdata:a\r\rdata:  b\r\n\r\n", [ServerEvent("a"), ServerEvent(" b")]),
        (b"event: add\nid: 7\ndata: a\ndata: b\ndata\n\n", [ServerEvent("a\nb\n", "add", "7")]),
        (b": comment\nid: 1\n\ndata: x\n\nid\ndata: y\n\n", [ServerEvent("x", "message", "1"), ServerEvent("y")]),
        (b"id: a\0b\ndata: x\n\n", [ServerEvent("x")]),
        (b"event: e\n\ndata: x\n\n", [ServerEvent("x")]),
        (b"unknown: 1\nretry: soon\ndata: x\n\ndata: incomplete\n", [ServerEvent("x")]),
        ("data: \u2028 é\n\n".encode(), [ServerEvent("\u2028 é")]),
        (b"data: \xff\n\n", [ServerEvent("\ufffd")]),
    ],
)
def test_the_format(text, expected):
    assert parsed(text) == expected
    assert parsed(*(text[n : n + 1] for n in range(len(text)))) == expected


def test_an_event_that_was_cut_off_is_asked_for_again():
    parser = EventParser(last_id="0")
    assert [event.id for event in parser.feed(b"data: z\n\nid: 1\ndata: a\n\nid: 2\ndata: b")] == ["0", "1"]
    assert parser.last_id == "1"
    assert EventParser(last_id="1").feed(b"data: c\n\n") == [ServerEvent("c", id="1")]
    parser.feed(b"\n\nid: 3\n\n")
    assert parser.last_id == "3"  # an event without data


def test_how_long_to_wait():
    parser = EventParser()
    parser.feed(b"retry: 1500\n\nretry: x\n\n")
    assert parser.retry_ms == 1500


@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=4))
def test_garbage_gives_the_same_events_in_any_pieces(data, cuts):
    ends = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    assert parsed(*(data[a:b] for a, b in itertools.pairwise(ends))) == parsed(data)


def test_an_event_that_is_too_large(monkeypatch):
    monkeypatch.setattr(events_module, "MOST_CHARACTERS", 10)
    with pytest.raises(SourceError, match="an event is too large: got more than 10 characters"):
        EventParser().feed(b"data: 12345\ndata: 678901\n")


def test_a_run_receives_events_until_none_comes(server, tmp_path):
    reader = stream(server, tmp_path, metadata=("id", "event", "received_at"))
    server.add('{"n": 1}')
    server.add('{"n": 2}', event="change")
    plan = reader.plan(None)
    schema = Schema.of({"n": "bigint", "_id": "varchar", "_event": "varchar", "_received_at": "timestamptz"})
    rows = reader.read(plan.splits[0], schema).rows.to_pylist()
    assert [(row["n"], row["_id"], row["_event"]) for row in rows] == [(1, "1", "message"), (2, "2", "change")]
    assert abs((datetime.now(UTC) - rows[0]["_received_at"]).total_seconds()) < 60
    assert reader.plan(plan.cursor).splits == ()
    server.add('{"n": 3}')
    assert [split.end - split.begin for split in reader.plan(plan.cursor).splits] == [1]
    assert [received.headers.get("last-event-id") for received in server.http.received] == [None, "2", "2"]


def test_an_interrupted_stream_continues_after_the_last_event(server, tmp_path):
    server.cut_after = 2
    for n in range(7):
        server.add(json.dumps({"n": n}))
    reader = stream(server, tmp_path)
    reader.plan(None)
    assert bodies(reader) == [{"n": n} for n in range(7)]
    assert [received.headers.get("last-event-id") for received in server.http.received] == [None, "2", "4", "6"]


def test_a_short_stream_ends(server, tmp_path):
    server.http.routes["/events"] = lambda _: Reply(b"data: {}\n\n")
    begun = time.monotonic()
    reader = server_sent_events(server.url, listen="2 seconds", spool=str(tmp_path))
    reader.plan(None)
    assert 1 <= time.monotonic() - begun < 5
    assert bodies(reader) == [{}] * len(server.http.received)
    server.http.routes["/events"] = lambda _: Reply(b"", 204)
    assert server_sent_events(server.url, spool=str(tmp_path / "other")).plan(None).splits == ()


def test_data_that_is_no_object_is_rejected(server, tmp_path):
    for data in ('{"n": 1}', "hello", "[1]", '{"n": "x"}'):
        server.add(data)
    reader = stream(server, tmp_path)
    reading = reader.read(reader.plan(None).splits[0], SCHEMA)
    assert reading.rows.num_rows == 1
    assert reading.rejected.column("row").to_pylist() == ['"hello"', "[1]", '{"n": "x"}']


@pytest.mark.parametrize(
    ("reply", "kind", "problem"),
    [
        (Reply(b"", 404), SourceError, "was refused: got status 404"),
        (Reply(b"", 503), SourceUnavailableError, "status 503"),
    ],
)
def test_a_server_that_refuses(server, tmp_path, reply, kind, problem):
    server.http.routes["/events"] = lambda _: reply
    url = server.url.replace("127.0.0.1", "localhost")
    reader = server_sent_events(url, deadline="1 second", spool=str(tmp_path))
    with pytest.raises(kind, match=problem):
        reader.plan(None)


def test_a_tail_receives_events_as_they_come(server, tmp_path):
    server.cut_after = 3
    reader = stream(server, tmp_path)
    extents = reader.extents()
    seen: list[int] = []
    with reader.tail(dict.fromkeys(extents, 0)) as tail:
        for n in range(10):
            server.add(json.dumps({"n": n}))
        deadline = time.monotonic() + 20
        while len(seen) < 10 and time.monotonic() < deadline:
            ready = tail.ready(1.0)
            for uri, end in ready.offsets.items():
                split = SourceSplit(SourceObject(uri, 0, ""), len(seen), end, first=len(seen))
                seen += tail.reader([split]).read(split, SCHEMA).rows.column("n").to_pylist()
        assert reader.plan(None).splits  # the other receiver is not disturbed
        begun = time.monotonic()
    assert seen == list(range(10))
    assert time.monotonic() - begun < 5


def test_a_tail_raises_the_error_of_its_receiver(server, tmp_path):
    server.http.routes["/events"] = lambda _: Reply(b"", 404)
    reader = stream(server, tmp_path)
    with reader.tail({}) as tail:
        deadline = time.monotonic() + 20
        while tail.receiver.error is None and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(SourceError, match="status 404"):
            tail.ready(0.1)


def test_options_that_are_refused():
    with pytest.raises(DefinitionError, match="begins with https:// or http://"):
        server_sent_events("ws://example.com")
    with pytest.raises(DefinitionError, match=r"unknown metadata: got 'ids'; did you mean 'id'\?"):
        server_sent_events("https://example.com", metadata=("ids",))
