"""Resources of dlt: its state is the cursor, values stay as they are."""

from __future__ import annotations

import datetime as dt
import json
import pickle
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.connectors.dlt_resource import DltSource, dlt_resource
from pipeline.core.cursors import Cursor
from pipeline.core.errors import DefinitionError, SourceError
from pipeline.core.schema import Schema

dlt = pytest.importorskip("dlt")
DAY = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


class Api:
    """Items, and resources that yield them."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []

    def add(self, *days: int) -> None:
        begin = len(self.items)
        self.items += [
            {"id": begin + n, "at": DAY + dt.timedelta(days=day), "d": Decimal("1.10")} for n, day in enumerate(days)
        ]

    def incremental(self):
        @dlt.resource(name="items")
        def items(at=dlt.sources.incremental("at", initial_value=DAY)):  # noqa: B008 - dlt's way
            yield [item for item in self.items if item["at"] >= at.last_value]

        return items()

    def complete(self):
        @dlt.resource(name="everything")
        def items():
            yield from self.items

        return items()


@pytest.fixture
def api():
    made = Api()
    made.add(0, 1, 1)
    return made


def rows(reader, plan) -> list[Any]:
    found = []
    for split in plan.splits:
        with reader.segments.path(split.source_object.stamp + ".ndjson") as path:
            found += [json.loads(line) for line in Path(path).read_text().splitlines()]
    return found


def kept(cursor: Cursor) -> Cursor:
    return Cursor(cursor.kind, json.loads(json.dumps(cursor.value)))


def test_what_is_new_by_the_state_of_dlt(api, tmp_path):
    reader = dlt_resource(api.incremental, name="items", spool=str(tmp_path))
    plan = reader.plan(None)
    assert [row["id"] for row in rows(reader, plan)] == [0, 1, 2]
    assert reader.plan(kept(plan.cursor)).splits == ()
    api.add(1, 2)
    again = reader.plan(kept(plan.cursor))
    assert [row["id"] for row in rows(reader, again)] == [3, 4]
    assert reader.plan(kept(again.cursor)).splits == ()


def test_a_resource_without_a_state_is_compared(api, tmp_path):
    reader = dlt_resource(api.complete(), spool=str(tmp_path))
    assert reader.uri == "dlt://everything"
    plan = reader.plan(None)
    assert reader.plan(kept(plan.cursor)).splits == ()
    api.add(0)
    again = reader.plan(kept(plan.cursor))
    assert again.changed
    assert len(rows(reader, again)) == 4


def test_values_and_names_stay_as_they_are(api, tmp_path):
    api.items = [{"na!e": 1, "na%e": "x", "d": Decimal("12345678901234567.89"), "b": b"hi", "n": {"a": [1, None]}}]
    reader = dlt_resource(api.complete, name="items", spool=str(tmp_path))
    split = reader.plan(None).splits[0]
    schema = Schema.of(
        {"na!e": "bigint", "na%e": "varchar", "d": "decimal(19, 2)", "b": "varchar", "n": "struct(a bigint[])"}
    )
    (row,) = reader.read(split, schema).rows.to_pylist()
    assert (row["na!e"], row["na%e"], row["d"]) == (1, "x", Decimal("12345678901234567.89"))
    assert (row["b"], row["n"]) == ("aGk=", {"a": [1, None]})


def test_tables_are_rows(tmp_path):
    @dlt.resource(name="tables")
    def tables():
        yield pa.table({"id": [1, 2]})
        yield {"id": 3}
        pandas = pytest.importorskip("pandas")
        yield pandas.DataFrame({"id": [4]})

    reader = dlt_resource(tables, spool=str(tmp_path))
    assert [row["id"] for row in rows(reader, reader.plan(None))] == [1, 2, 3, 4]


def test_it_is_pickled_without_the_resource(api, tmp_path):
    reader = dlt_resource(api.incremental, name="items", spool=str(tmp_path))
    split = reader.plan(None).splits[0]
    other = pickle.loads(pickle.dumps(reader))  # noqa: S301 - our own
    assert other.read(split, Schema.of({"id": "bigint"})).rows.num_rows == 3
    assert other.fingerprint == reader.fingerprint


def test_a_resource_that_fails(tmp_path):
    @dlt.resource(name="broken")
    def broken():
        yield {"id": 1}
        raise ValueError("no such page")

    with pytest.raises(SourceError, match=r"the resource failed: got .*no such page.*dlt://broken"):
        dlt_resource(broken, spool=str(tmp_path)).plan(None)


def test_a_state_that_is_too_large(api, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[DltSource.__module__], "_MOST_STATE", 10)
    with pytest.raises(
        SourceError, match=r"the state of the resource is too large .*: got \d+ characters; use a finer cursor"
    ):
        dlt_resource(api.incremental, name="items", spool=str(tmp_path)).plan(None)


def test_what_is_no_resource():
    with pytest.raises(DefinitionError, match="this is not a resource of dlt: got <class 'int'>"):
        dlt_resource(5)
    with pytest.raises(DefinitionError, match="the resource has no name; pass name="):
        dlt_resource(lambda: None)
