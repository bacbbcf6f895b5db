"""Deleted documents of MongoDB: marked by a filter, or missing when the ids are compared."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import bson
import pytest
from bson import Binary, ObjectId
from bson.binary import UuidRepresentation
from hypothesis import given
from hypothesis import strategies as st

from pipeline import mongodb
from pipeline.commit.moments import Moment
from pipeline.connectors.databases.mongodb import planning
from pipeline.connectors.databases.mongodb.deletes import deleted_ids, object_ids
from pipeline.connectors.databases.mongodb.documents import lines_of
from pipeline.connectors.databases.mongodb.planning import DocumentRange
from pipeline.core.errors import DefinitionError, Place, SourceError
from pipeline.core.graph import Graph
from pipeline.project import Project, Workspace
from pipeline.runner import Runner
from tests.rigs.ferret import MongoDatabase
from tests.rigs.shop import Shop

SCHEMA = {"_id": "bigint", "v": "varchar", "at": "timestamptz", "_deleted": "boolean"}
AT = datetime(2026, 1, 1, tzinfo=UTC)
UID = Binary.from_uuid(UUID(int=5), UuidRepresentation.STANDARD)


class Items:
    """The collection `items` of a database."""

    def __init__(self, database: MongoDatabase) -> None:
        self.database, self.seconds = database, 0

    def put(self, *ids: Any, **fields: Any) -> None:
        """Insert documents, or replace them; each has a later time than the ones before."""
        with self.database.client() as client:
            for each in ids:
                self.seconds += 1
                document = {"_id": each, "v": "a", "at": AT + timedelta(seconds=self.seconds), **fields}
                client[self.database.name]["items"].replace_one({"_id": each}, document, upsert=True)

    def delete(self, *ids: Any) -> None:
        with self.database.client() as client:
            for each in ids:
                assert client[self.database.name]["items"].delete_one({"_id": each}).deleted_count == 1


def shop_of(items: Items, folder: Path, schema: dict[str, str] = SCHEMA, **options: Any) -> Shop:
    reader = mongodb(items.database.url, "items", cursor="at", **options)
    return Shop(folder, reader, lambda change: change(), key="_id", schema=schema)


def only_raw(shop: Shop) -> Project:
    project = shop.project()
    return Project(project.settings, Graph.of([project.graph["raw"]]))


@pytest.fixture
def items(mongo: MongoDatabase) -> Items:
    return Items(mongo)


@pytest.fixture
def shop(items: Items, tmp_path: Path) -> Shop:
    items.put(1, 2, 3)
    return shop_of(items, tmp_path, reconcile="1 day")


def test_a_document_that_vanished_is_deleted_when_the_ids_are_compared(items, shop):
    shop.run()
    shop.run(lambda: items.delete(2), hours=23)
    assert shop.rows() == [(1, "a"), (2, "a"), (3, "a")]
    assert shop.run(hours=1) == ["append", "merge"]
    assert shop.rows() == [(1, "a"), (3, "a")]
    assert shop.run() == ["skip", "skip"]

    shop.run(lambda: items.put(2, v="again"))
    assert shop.rows() == [(1, "a"), (2, "again"), (3, "a")]
    shop.run(lambda: items.delete(2), lambda: items.put(1, v="b"), hours=24)
    assert shop.rows() == [(1, "b"), (3, "a")]


def test_a_comparison_that_finds_nothing_is_not_repeated(items, shop):
    shop.run()
    assert shop.run(hours=24)[0] == "append"
    assert shop.run(hours=23) == ["skip", "skip"]
    assert shop.rows() == [(1, "a"), (2, "a"), (3, "a")]
    assert shop.run(lambda: items.delete(1, 2, 3), hours=1)[0] == "append"
    assert shop.rows() == []


@pytest.mark.parametrize("moment", [Moment.DECIDED, Moment.STAGED, Moment.COMMITTED])
def test_a_run_that_dies_loses_and_doubles_no_delete(items, shop, moment):
    class DiedError(Exception):
        pass

    def die(event: Any) -> None:
        if event.moment is moment:
            raise DiedError

    shop.run()
    with pytest.raises(DiedError):
        shop.run(lambda: items.delete(2), hours=24, observer=die)
    shop.run()
    assert shop.rows() == [(1, "a"), (3, "a")]
    assert len(shop.rows("raw")) == 4


def test_marked_documents_are_deleted_and_come_back(items, tmp_path):
    items.put(1, 2, 3)
    items.put(4, v="gone")
    shop = shop_of(items, tmp_path, deleted_when={"v": "gone"}, reconcile="1 day")
    shop.run()
    assert shop.rows() == [(1, "a"), (2, "a"), (3, "a")]
    shop.run(lambda: items.put(2, v="gone"))
    assert shop.rows() == [(1, "a"), (3, "a")]
    shop.run(lambda: items.put(2, v="back"))
    assert shop.rows() == [(1, "a"), (2, "back"), (3, "a")]
    shop.run(lambda: items.delete(4, 3), hours=24)
    gone = Workspace(shop.project()).query("select _id, v from raw where _deleted order by _id, v").to_pylist()
    assert [tuple(row.values()) for row in gone] == [(2, "gone"), (3, None), (4, "gone")]


def test_documents_that_do_not_fit_are_rejected_beside_the_mark(items, tmp_path):
    items.put(1, 2)
    items.put("text", 9, v="gone")
    shop = shop_of(items, tmp_path, deleted_when={"v": "gone"}, reconcile="1 day")
    shop.run()
    assert shop.rows() == [(1, "a"), (2, "a")]
    assert Workspace(shop.project()).lake.quarantine("raw").version().rows == 1
    shop.run(lambda: items.delete("text", 1), hours=24)
    assert shop.rows() == [(2, "a")]


def test_documents_that_leave_the_filter_vanish(items, tmp_path):
    items.put(1, 2)
    shop = shop_of(items, tmp_path, filter={"v": {"$ne": "draft"}}, reconcile="1 day")
    shop.run()
    shop.run(lambda: items.put(2, v="draft"), hours=24)
    assert shop.rows() == [(1, "a")]


IDS = {
    "bigint": [1, 2**62, -3],
    "double": [0.1, 1e300, 3],
    "boolean": [True, False],
    "timestamptz": [AT, AT + timedelta(milliseconds=1), AT + timedelta(days=1)],
    "varchar": [ObjectId(b"123456789012"), ObjectId(b"123456789013"), UID, 'é"\\\n\u2028', "", 7, AT, 1.5, {"a": 1.50}],
    "json": [{"a": 1.5, "b": [1, {"c": None}]}, {"a": 2}, 4, {"a": "x"}],
    "struct(a integer, b varchar, c timestamptz)": [{"a": 1, "b": "x'\"y"}, {"a": 1, "b": None}, {"a": 1, "c": AT}],
}  # fmt: skip


@pytest.mark.parametrize("kind", IDS)
def test_ids_of_any_type_are_compared_as_the_table_has_them(items, tmp_path, kind):
    items.put(*IDS[kind])
    shop = shop_of(items, tmp_path, {**SCHEMA, "_id": kind}, reconcile="1 day")
    raw = only_raw(shop)
    for every in (False, True):
        Runner(raw).run()
        if not every:
            items.delete(*IDS[kind][::2])
            shop.time += timedelta(days=1)
            raw = only_raw(shop)
    rows = Workspace(raw).query("select _id::varchar as i, _deleted, v from raw").to_pylist()
    stored = [row["i"] for row in rows if not row["_deleted"]]
    assert len(set(stored)) == len(stored) == len(IDS[kind])
    gone = [row for row in rows if row["_deleted"]]
    assert {row["i"] for row in gone} < set(stored)
    assert [row["v"] for row in gone] == [None] * len(IDS[kind][::2])
    left = {row["i"] for row in rows} - {row["i"] for row in gone}
    items.put(*IDS[kind][1::2], v="b")
    Runner(raw).run()
    again = Workspace(raw).query("select _id::varchar as i from raw where v = 'b'").to_pylist()
    assert {row["i"] for row in again} == left


def test_a_large_collection_is_divided_unless_its_ids_have_several_types(mongo, items, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "SPLIT_DOCUMENTS", 10)
    monkeypatch.setattr(planning, "_IDS_PER_SPLIT", 7)
    mongo.insert("items", *({"_id": n, "v": "m", "at": AT + timedelta(seconds=n)} for n in range(100)))
    full = mongodb(mongo.url, "items")
    assert len(full.plan(None).splits) == 10
    shop = shop_of(items, tmp_path, reconcile="1 day")
    shop.run()
    shop.run(lambda: items.delete(*range(0, 100, 2)), hours=24)
    assert [row[0] for row in shop.rows()] == list(range(1, 100, 2))
    items.put("text")
    (split,) = full.plan(None).splits
    assert sum(batch.num_rows for batch in full.batches(split)) == 51


def test_new_fields_are_added_when_ids_are_compared(items, tmp_path):
    items.put(1, 2)
    shop = shop_of(items, tmp_path, reconcile="1 day")
    shop.options["new_columns"] = "evolve"
    shop.run()
    shop.run(lambda: items.put(3, new="x"), lambda: items.delete(1), hours=24)
    assert shop.rows() == [(2, "a"), (3, "a")]
    shop.run(hours=24)
    assert Workspace(shop.project()).query("select new from raw where _id = 3").to_pylist() == [{"new": "x"}]


def test_columns_are_inferred_with_the_mark(items):
    items.put(1)
    for options in ({"deleted_when": {"v": "b"}}, {"reconcile": "1 day", "cursor": "at"}):
        reader = mongodb(items.database.url, "items", **options)
        split = reader.plan(None).splits[0]
        assert reader.schema(split.source_object).as_dict()["_deleted"] == "BOOLEAN"
        assert reader.check()[0].what == "items"
    copy = pickle.loads(pickle.dumps(reader.evolving("evolve").compared_with(None)))  # noqa: S301 - the test wrote it
    assert copy == reader
    assert copy.new_columns == "evolve"


def test_a_filter_of_deleted_documents_that_is_refused(items):
    items.put(1)
    with pytest.raises(SourceError, match=r"MongoDB refuses to be read: got .*nosuch"):
        mongodb(items.database.url, "items", deleted_when={"v": {"$nosuch": 1}}).check()


def test_marks_belong_to_ids_with_their_types():
    documents = [
        {"_id": 1},
        {"_id": True},
        {"_id": "1"},
        {"_id": {"a": 1}},
        {"_id": UID},
        {"_id": 2, "_deleted": "own"},
    ]
    raw = b"".join(map(bson.encode, documents))
    marks = deleted_ids([b"".join(map(bson.encode, documents[1:5:2])), bson.encode({"_id": UID})], Place("c"))
    lines = lines_of(raw, marks)
    assert [line.endswith('"_deleted":true}') for line in lines] == [False, True, False, True, True, False]
    assert lines[-1] == '{"_id":2,"_deleted":false}'
    bad = bson.encode({"_id": 1, "s": "xx"}).replace(b"xx", b"\xff\xfe")
    assert lines_of(bad + bson.encode({"_id": True}), marks)[1] == '{"_id":true,"_deleted":true}'
    with pytest.raises(SourceError, match="deleted_when= needs documents with an _id"):
        deleted_ids([bson.encode({})], Place("c"))


@given(st.lists(st.binary(min_size=12, max_size=12), max_size=4), st.sampled_from([None, 1, "text", "x" * 7, {"a": 1}]))
def test_object_ids_are_the_text_of_lines(ids, other):
    raw = b"".join(bson.encode({"_id": ObjectId(each)}) for each in ids)
    assert object_ids(raw).to_pylist() == [json.loads(line)["_id"] for line in lines_of(raw)]
    assert object_ids(raw + bson.encode({"_id": other})) is None


def test_object_ids_and_others_are_compared(items, tmp_path):
    ids = [ObjectId() for _ in range(5)]
    items.put(*ids)
    shop = shop_of(items, tmp_path, {**SCHEMA, "_id": "varchar"}, reconcile="1 day")
    shop.run()
    shop.run(lambda: items.delete(*ids[:2]), hours=24)
    assert [row[0] for row in shop.rows()] == sorted(map(str, ids[2:]))
    shop.run(lambda: items.put("text"))
    shop.run(lambda: items.delete(ids[2]), hours=24)
    assert [row[0] for row in shop.rows()] == sorted([*map(str, ids[3:]), "text"])


def test_the_id_must_be_in_the_table_of_the_source(items, tmp_path):
    items.put(1)
    shop = shop_of(items, tmp_path, reconcile="1 day")
    shop.options["schema"] = {name: kind for name, kind in SCHEMA.items() if name != "_id"}
    shop.options["new_columns"] = "discard_value"
    Runner(only_raw(shop)).run()
    shop.time += timedelta(days=1)
    with pytest.raises(SourceError, match="lacks a column: got '_id'; add it to schema="):
        Runner(only_raw(shop)).run()


def test_options_that_contradict_each_other(shop):
    url = "mongodb://db/shop"
    with pytest.raises(DefinitionError, match="reconcile= needs the name of a column as cursor="):
        mongodb(url, "t", reconcile="1 day")
    with pytest.raises(DefinitionError, match="reconcile= is not a duration: got 'daily'"):
        mongodb(url, "t", cursor="at", reconcile="daily")
    for condition in ({}, "v = 'gone'"):
        with pytest.raises(DefinitionError, match="deleted_when= must be a filter of MongoDB that is not empty"):
            mongodb(url, "t", deleted_when=condition)
    shop.options["stored"] = False
    with pytest.raises(DefinitionError, match="has no table to compare its keys with; remove stored=False"):
        shop.run()


def test_the_fingerprint_changes_only_with_the_column():
    plain, marked = (mongodb("mongodb://db/shop", "t", cursor="c", deleted_when=each) for each in (None, {"a": 1}))
    daily, hourly = (mongodb("mongodb://db/shop", "t", cursor="c", reconcile=each) for each in ("1 day", "1 hour"))
    assert daily.fingerprint == hourly.fingerprint
    assert len({plain.fingerprint, marked.fingerprint, daily.fingerprint}) == 3


def test_a_range_of_vanished_ids_survives_as_text():
    part = DocumentRange({}, vanished=("1", '"x"', '{"a":1}'))
    assert DocumentRange.of(part.stamp()) == part
    assert "vanished" not in DocumentRange({}).stamp()
