from __future__ import annotations

import datetime as dt

import pyarrow as pa

from pipeline.discovery.profiles import profile


def columns(**values):
    return {each.name: each for each in profile(pa.table(values)).columns}


def test_missing_and_distinct_values():
    found = columns(
        u=[1, 2, 3, 4], c=[1, 1, 1, 1], f=["a", "b", "a", "b"], m=[1, 2, 3, None], e=pa.nulls(4, pa.string())
    )
    assert {name: (each.cardinality, each.distinct, each.nulls) for name, each in found.items()} == {
        "u": ("unique", 4, 0),
        "c": ("constant", 1, 0),
        "f": ("few", 2, 0),
        "m": ("many", 3, 1),
        "e": ("empty", 0, 4),
    }


def test_texts_that_are_times():
    found = columns(
        d=["2026-01-01"], t=["2026-01-01 00:00"], z=["2026-01-01T00:00:00.5+01:00"], n=["2026-01-01x"], empty=[None]
    )
    assert {name: each.suggested_type for name, each in found.items() if each.suggested_type} == {
        "d": "DATE",
        "t": "TIMESTAMP",
        "z": "TIMESTAMPTZ",
    }


def test_fields_of_structs_are_columns_and_lists_are_not():
    rows = [{"who": {"email": f"u{n}@example.com", "deep": {"x": n}}, "tags": ["a"]} for n in range(6)]
    found = {each.name: each for each in profile(pa.Table.from_pylist(rows)).columns}
    assert list(found) == ["who", "who.email", "who.deep", "who.deep.x", "tags"]
    assert found["who.email"].personal.confidence == "very likely"


def test_keys_are_unique_and_have_a_value():
    sample = pa.table(
        {
            "amount": [1.5, 2.5, 3.5],
            "code": ["x", "y", "z"],
            "order_id": [1, 2, 3],
            "id": [7, 8, 9],
            "at": [dt.date(2026, 1, n) for n in (1, 2, 3)],
            "maybe": [1, 2, None],
        }
    )
    assert profile(sample).keys == (("id",), ("order_id",), ("code",))


def test_two_columns_can_be_the_key():
    sample = pa.table({"order_id": [1, 1, 2, 2], "line_no": [1, 2, 1, 2], "x": [1.0, 1.0, 1.0, 1.0]})
    assert profile(sample).keys == (("order_id", "line_no"),)
    assert profile(sample.slice(0, 1)).keys == ()


def test_times_by_their_names():
    now = [dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.datetime(2026, 1, 2, tzinfo=dt.UTC)]
    found = profile(pa.table({"x": now, "updated_at": now, "created_at": now, "deleted_at": [None, now[0]]}))
    assert found.event_times == ("created_at", "deleted_at", "x")
    assert found.changed_at == "updated_at"
    only = profile(pa.table({"modified": now}))
    assert (only.event_times, only.changed_at) == (("modified",), "modified")
    assert profile(pa.table({"updated_at": [None, now[0]]})).changed_at is None
