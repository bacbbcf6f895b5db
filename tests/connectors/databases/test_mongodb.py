"""Collections of MongoDB: documents arrive as they are, or as rejected rows, and each once for each cursor value."""

from __future__ import annotations

import importlib
import json
import socket
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from urllib.parse import urlsplit
from uuid import UUID

import bson
import pytest
from bson import Binary, DBRef, Decimal128, Int64, ObjectId, Regex
from bson.binary import UuidRepresentation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import mongodb
from pipeline.connectors.databases.mongodb import planning
from pipeline.connectors.databases.mongodb.documents import lines_of
from pipeline.connectors.databases.mongodb.planning import CollectionPlanning, DocumentRange, of_text, to_text
from pipeline.connectors.guard.calls import guard_here
from pipeline.core.cursors import Bound, Cursor
from pipeline.core.errors import DefinitionError, SourceError, SourceUnavailableError
from pipeline.core.schema import Schema
from tests.rigs.gate import Gate
from tests.rigs.proofs import examples

AT = datetime(2026, 1, 1, tzinfo=UTC)


class Runs:
    """Runs that follow each other: each one continues from the cursor of the previous one."""

    def __init__(self, reader):
        self.reader, self.cursor, self.rows, self.plan = reader, None, [], None

    def run(self, bound=None, between=lambda: None):
        self.plan = self.reader.plan(self.cursor, *([] if bound is None else [bound]))
        between()
        rows = []
        for split in self.plan.splits:
            rows += self.reader.read(split, Schema.of({"_id": "bigint", "at": "varchar"})).rows.to_pylist()
        if self.plan.splits:
            self.cursor = Cursor(**json.loads(json.dumps(asdict(self.plan.cursor))))
        self.rows += rows
        return sorted(row["_id"] for row in rows)


def insert(mongo, *rows):
    mongo.insert("t", *({"_id": each, "at": at} for each, at in rows))


def test_values_become_json():
    document = {
        "i": 1,
        "l": Int64(2**63 - 1),
        "d": 1.5,
        "nan": float("nan"),
        "inf": [float("-inf")],
        "n": Decimal128("1.50"),
        "s": "é\n\u2028",
        "at": datetime(2026, 1, 1, 1, 2, 3, 4000, UTC),
        "far": bson.datetime_ms.DatetimeMS(2**62),
        "id": ObjectId("0123456789ab0123456789ab"),
        "b": b"\x00\xff",
        "u": Binary.from_uuid(UUID(int=1), UuidRepresentation.STANDARD),
        "o": {"a": [1, {"b": None}]},
        "r": Regex("a+"),
        "ref": DBRef("c", 1),
        "t": True,
    }
    raw = bson.encode(document)
    (line,) = lines_of(raw)
    assert "\n" not in line
    got = json.loads(line, parse_int=str)
    assert got == {
        "i": "1",
        "l": "9223372036854775807",
        "d": 1.5,
        "nan": "NaN",
        "inf": ["-Infinity"],
        "n": "1.50",
        "s": "é\n\u2028",
        "at": "2026-01-01T01:02:03.004Z",
        "far": str(bson.datetime_ms.DatetimeMS(2**62)),
        "id": "0123456789ab0123456789ab",
        "b": "AP8=",
        "u": "00000000-0000-0000-0000-000000000001",
        "o": {"a": ["1", {"b": None}]},
        "r": str(Regex("a+")),
        "ref": {"$ref": "c", "$id": "1"},
        "t": True,
    }


def test_a_document_that_is_not_valid_does_not_end_the_batch():
    good, bad = bson.encode({"s": "ok"}), bson.encode({"s": "xx"}).replace(b"xx", b"\xff\xfe")
    lines = lines_of(good + bad + good)
    assert [lines[0], lines[2]] == ['{"s":"ok"}'] * 2
    assert json.loads(lines[1])[0].startswith("not decodable")


@pytest.mark.parametrize("size", [0, 4, 2**31, 2**32 - 1])
def test_a_length_that_is_impossible_ends_the_batch_with_one_rejected_row(size):
    good = bson.encode({"s": "ok"})
    lines = lines_of(good + size.to_bytes(4, "little") + b"rest")
    assert (lines[0], len(lines)) == ('{"s":"ok"}', 2)
    assert json.loads(lines[1])[0].startswith("not decodable")


def test_documents_follow_the_contract(mongo):
    mongo.insert(
        "t",
        {"_id": 1, "n": "1.50", "at": AT, "l": [1, 2], "o": {"a": 1}, "i": Int64(5)},
        {"_id": 2, "n": 1.25, "at": None, "i": 2},
        {"_id": 3, "n": "word"},
        {"_id": 4, "i": 1.5},
    )
    schema = Schema.of(
        {"_id": "int", "n": "decimal(10,2)", "at": "timestamptz", "l": "int[]", "o": "struct(a int)", "i": "bigint"}
    )
    reader = mongodb(mongo.url, "t")
    result = reader.read(reader.plan(None).splits[0], schema)
    assert [tuple(row.values()) for row in result.rows.to_pylist()] == [
        (1, Decimal("1.50"), AT, [1, 2], {"a": 1}, 5, 1),
        (2, Decimal("1.25"), None, None, None, 2, 2),
    ]
    rejected = result.rejected.to_pylist()
    assert [row["_position"] for row in rejected] == [3, 4]
    assert rejected[0]["reason"].startswith("column 'n' is not DECIMAL(10,2): word")
    assert reader.parse([rejected[0]["row"]], Schema.of({"_id": "int", "n": "varchar"})).rows.num_rows == 1


def test_columns_are_inferred_and_new_fields_noticed(mongo):
    mongo.insert("t", {"_id": 1, "a": 1}, {"_id": 2, "b": "x"})
    reader = mongodb(mongo.url, "t")
    split = reader.plan(None).splits[0]
    assert reader.schema(split.source_object).as_dict() == {"_id": "BIGINT", "a": "BIGINT", "b": "VARCHAR"}
    known = Schema.of({"_id": "int", "a": "int"})
    assert reader.evolving("evolve").beyond(split, known).names == ("b",)
    aside = reader.evolving("discard_row").read(split, known)
    assert aside.rejected["reason"].to_pylist() == ["column 'b' is not in the contract: x"]
    assert [batch.num_rows for batch in reader.batches(split)] == [2]
    assert reader.check()[0].what == "t"


def test_equal_late_and_missing_values(mongo):
    reading = Runs(mongodb(mongo.url, "t", cursor="at", lag="1 minute"))
    insert(mongo, (1, AT), (2, AT))
    assert reading.run(between=lambda: insert(mongo, (3, AT))) == [1, 2]
    assert reading.run() == [3]
    assert reading.run() == []
    late = AT - timedelta(minutes=1)
    insert(mongo, (4, late), (5, late - timedelta(seconds=1)), (6, None))
    mongo.insert("t", {"_id": 7})
    assert reading.run() == [4, 6, 7]
    insert(mongo, (8, AT + timedelta(hours=1)))
    assert reading.run() == [8]
    assert reading.run() == []
    assert [row["_position"] for row in reading.rows] == list(range(1, len(reading.rows) + 1))


@pytest.mark.parametrize(("value", "lag"), [(18, 5), (22, None)])
def test_a_document_that_arrives_between_two_queries_of_a_plan_is_read_once(mongo, monkeypatch, value, lag):
    hashes = CollectionPlanning._hashes  # noqa: SLF001 - where the queries of a plan pass
    queries, arrives_before = 0, 0

    def counted(collection, wanted):
        nonlocal queries
        queries += 1
        if queries == arrives_before:
            insert(mongo, (3, value))
        return hashes(collection, wanted)

    monkeypatch.setattr(CollectionPlanning, "_hashes", counted)
    for arrives_before in range(1, 6):
        with mongo.client() as client:
            client[mongo.name]["t"].delete_many({})
        queries = -100
        reading = Runs(mongodb(mongo.url, "t", cursor="at", lag=lag))
        insert(mongo, (1, 10), (2, 20))
        reading.run()
        insert(mongo, (7, 22))
        queries = 0
        reading.run()
        if queries < arrives_before:
            break
        reading.run()
        reading.run()
        assert Counter(row["_id"] for row in reading.rows) == Counter([1, 2, 3, 7]), f"before query {arrives_before}"
    assert arrives_before > 3


def test_null_cursors_are_left_out_or_refused(mongo):
    insert(mongo, (1, 5), (2, None))
    assert Runs(mongodb(mongo.url, "t", cursor="at", null_cursors="exclude")).run() == [1]
    with pytest.raises(SourceError, match="the cursor 'at' is null or missing: got 1 document"):
        Runs(mongodb(mongo.url, "t", cursor="at", null_cursors="refuse")).run()


def test_a_cursor_has_one_type(mongo):
    insert(mongo, (1, 5), (2, "five"))
    with pytest.raises(SourceError, match="values of several types, which cannot be compared: got 1 document"):
        Runs(mongodb(mongo.url, "t", cursor="at")).run()
    assert Runs(mongodb(mongo.url, "t", cursor="at", filter={"at": {"$type": "number"}})).run() == [1]


def test_a_bound_keeps_equal_values_together(mongo):
    reading = Runs(mongodb(mongo.url, "t", cursor="at", lag=1))
    insert(mongo, (1, 1), (2, 2), (3, 2), (4, 3))
    assert reading.run(Bound(rows=2)) == [1, 2, 3]
    assert reading.plan.has_more
    assert reading.run(Bound(rows=2)) == [4]
    assert reading.run(Bound(rows=2)) == []


def test_object_ids_and_paths_are_cursors(mongo):
    ids = [ObjectId.from_datetime(AT + timedelta(seconds=n)) for n in range(3)]
    mongo.insert("t", {"_id": ids[0], "m": {"at": 1}}, {"_id": ids[2], "m": {"at": 2}})
    by_id = mongodb(mongo.url, "t", cursor="_id", lag="5 seconds")
    by_path = mongodb(mongo.url, "t", cursor="m.at")
    plans = [by_id.plan(None), by_path.plan(None)]
    mongo.insert("t", {"_id": ids[1], "m": {"at": 3}})
    for reader, plan in zip((by_id, by_path), plans, strict=True):
        (split,) = reader.plan(plan.cursor).splits
        rows = reader.read(split, Schema.of({"_id": "varchar", "m": "struct(at int)"})).rows.to_pylist()
        assert [(row["_id"], row["m"]["at"]) for row in rows] == [(str(ids[1]), 3)]


def test_many_equal_values_do_not_fill_the_cursor(mongo, monkeypatch):
    monkeypatch.setattr("pipeline.connectors.databases.seen_rows.MOST_HASHES", 3)
    reading = Runs(mongodb(mongo.url, "t", cursor="at"))
    insert(mongo, *((n, 7) for n in range(5)))
    assert len(reading.run()) == 5
    assert reading.run() == []
    insert(mongo, (10, 7))
    assert len(reading.run()) == 6
    assert reading.plan.notes[0].startswith("6 documents near the cursor are read again")


def test_large_collections_are_divided(mongo, monkeypatch):
    monkeypatch.setattr(planning, "SPLIT_DOCUMENTS", 10)
    insert(mongo, *((n, n // 2) for n in range(35)))
    for reading in (Runs(mongodb(mongo.url, "t")), Runs(mongodb(mongo.url, "t", cursor="at"))):
        assert reading.run() == list(range(35))
        assert len(reading.plan.splits) >= 4
    assert reading.reader.plan(reading.cursor).splits == ()
    full = mongodb(mongo.url, "t")
    assert full.plan(full.plan(None).cursor).changed == "it is read in full by each run"


def test_servers_that_cannot_be_read(mongo, monkeypatch):
    module = importlib.import_module("pipeline.connectors.databases.mongodb.source")
    monkeypatch.setattr(module, "_CONNECTS_WITHIN_MS", 200)
    with pytest.raises(SourceUnavailableError, match=r"MongoDB is unavailable: .*\(mongodb://127.0.0.1:1/shop\)"):
        mongodb("mongodb://127.0.0.1:1/shop", "t").plan(None)
    insert(mongo, (1, 5))
    with pytest.raises(SourceError, match=r"MongoDB refuses to be read: got .*nosuch") as caught:
        mongodb(mongo.url, "t", filter={"a": {"$nosuch": 1}}).plan(None)
    assert not isinstance(caught.value, SourceUnavailableError)


class DroppingGate(Gate):
    """Drops the connection at the next `drops` queries."""

    drops = 0

    def _pass(self, source, target):
        with suppress(OSError):
            while content := source.recv(1 << 16):
                if b"\x02find\0" in content and self.drops:
                    self.drops -= 1
                    break
                target.sendall(content)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def test_reads_that_fail_are_retried_and_counted(mongo):
    insert(mongo, *((number, number) for number in range(1, 6)))
    address = urlsplit(mongo.url)
    gate = DroppingGate(address.port)
    try:
        server = f"127.0.0.1:{gate.port}"
        reader = mongodb(mongo.url.replace(address.netloc, server), "t", cursor="at")
        gate.drops = 1
        plan = reader.plan(None)
        assert (gate.drops, guard_here().reports()[server].failures) == (0, 1)
        gate.drops = 2
        rows = [
            row
            for split in plan.splits
            for row in reader.read(split, Schema.of({"_id": "bigint", "at": "bigint"})).rows["_id"].to_pylist()
        ]
        assert (sorted(rows), gate.drops) == ([1, 2, 3, 4, 5], 0)
        assert guard_here().reports()[server].failures == 3
        gate.drops = 100
        with pytest.raises(
            SourceUnavailableError,
            match=rf"the database on {server} was not called: the circuit breaker is open .*: MongoDB is unavailable",
        ):
            reader.plan(None)
    finally:
        gate.close()


def test_options_that_contradict_each_other(mongo):
    with pytest.raises(DefinitionError, match="contains a password"):
        mongodb("mongodb://reader:s3cret@db/shop", "t")
    with pytest.raises(DefinitionError, match="null_cursors= must be"):
        mongodb("mongodb://db/shop", "t", null_cursors="drop")
    with pytest.raises(DefinitionError, match="lag= needs the name of a field"):
        mongodb("mongodb://db/shop", "t", lag="1 minute")
    with pytest.raises(DefinitionError, match="lag= is not a duration"):
        mongodb("mongodb://db/shop", "t", cursor="at", lag="soon")
    insert(mongo, (1, AT))
    with pytest.raises(DefinitionError, match="the lag does not suit the cursor 'at': got 5"):
        mongodb(mongo.url, "t", cursor="at", lag=5).plan(None)


def test_ranges_are_text_and_back():
    value = DocumentRange({"at": {"$gt": AT}, "_id": ObjectId(b"123456789012")}, ("at", "_id"), ("a1",))
    assert DocumentRange.of(value.stamp()) == value
    assert of_text(to_text(Int64(5))) == 5


@settings(max_examples=examples(15, 150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("insert"), st.one_of(st.none(), st.integers(0, 5))),
            st.tuples(st.sampled_from(["run", "bounded"]), st.none()),
        ),
        max_size=20,
    )
)
def test_any_order_of_inserts_and_runs_reads_every_document_once(mongo, steps):
    with mongo.client() as client:
        client[mongo.name]["t"].delete_many({})
    reading, ids = Runs(mongodb(mongo.url, "t", cursor="at", lag=5)), []
    for number, (step, value) in enumerate([*steps, ("run", None), ("run", None)]):
        if step == "insert":
            insert(mongo, (number, value))
            ids.append(number)
        else:
            reading.run(Bound(rows=1) if step == "bounded" else None)
    assert reading.run() == []
    assert Counter(row["_id"] for row in reading.rows) == Counter(ids)
