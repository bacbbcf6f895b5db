"""The corner cases of point-in-time features: the join and the online store give the same, expected answer.

The table is loaded when the clock is before the first question, so rows that become available later are stored before.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from ml import feature_view, features, training_set
from ml.features.online.reading import FeatureReader
from ml.features.online.target import FeatureTarget
from ml.features.point_in_time import Join
from pipeline.core.sinks import Delivery, SinkPosition

START = datetime(2024, 1, 1, tzinfo=UTC)
UTC_US, NAIVE = pa.timestamp("us", "UTC"), pa.timestamp("us")


def at(minutes):
    return START + timedelta(minutes=minutes)


def us(minutes):
    return round(at(minutes).timestamp() * 1e6)


def rows_of(rows, kind=UTC_US):
    """Rows of entity, event time, time of arrival, value and whether the entity is deleted; times in minutes."""
    shape = {"e": pa.string(), "t": kind, "known": UTC_US, "x": pa.int64(), "gone": pa.bool_()}
    times = [[row[0], *(at(v) if isinstance(v, int) else v for v in row[1:3]), *row[3:]] for row in rows]
    columns = [list(column) for column in zip(*([*each, False][:5] for each in times), strict=True)]
    if not pa.types.is_date(kind):
        columns[1] = pa.array(columns[1], UTC_US).cast(NAIVE if kind.tz is None else UTC_US).cast(kind)
    return pa.table(
        dict(zip(shape, (pa.array(c, k) for c, k in zip(columns, shape.values(), strict=True)), strict=True))
    )


def view_of(options):
    known = options.pop("known", True)
    options = {
        "entity": "e",
        "event_time": "t",
        "known_at": "known" if known else "",
        "deleted_when": "gone",
        **options,
    }
    return feature_view(f"select e, t, {'known, ' * known}x, gone from rows", **options).named("shown")


def joined(view, selected, rows, asked):
    labels = pa.table(
        {"id": range(len(asked)), "e": [e for e, _ in asked], "at": pa.array([at(t) for _, t in asked], UTC_US)}
    )
    table = training_set('select id, e, "at" from labels', key="id", event_time="at", features=[selected]).named(
        "examples"
    )
    transform = table.transform.over({"shown": view, "labels": view})
    return transform(labels=labels, shown=rows).sort_by("id")["x"].to_pylist()


def online(address, view, selected, rows, asked):
    first = min(t for _, t in asked)
    with closing(address.open()) as store:
        whole = Delivery(SinkPosition(0), None, rows.to_reader(), rows.slice(0, 0), view.key, is_whole=True)
        FeatureTarget(store, view, lambda: us(first)).write(whole)
        reader, join = FeatureReader(store), Join(view, selected, "f0")
        answers = [reader.read([join], pa.table({"e": pa.array([e], pa.string())}), at(t)).values for e, t in asked]
        return [answer["x"].to_pylist()[0] for answer in answers]


CASES = {
    "1 a row counts from its own time": ({"known": False}, [("a", 5, 5, 1)], [("a", 4, None), ("a", 5, 1)]),
    "1 with strict, after it": ({"known": False, "strict": True}, [("a", 5, 5, 1)], [("a", 5, None), ("a", 6, 1)]),
    "2 of one event time, the one known last": (
        {},
        [("a", 5, 7, 2), ("a", 5, 6, 1), ("a", 5, 9, 3)],
        [("a", 5, None), ("a", 6, 1), ("a", 7, 2), ("a", 8, 2), ("a", 9, 3)],
    ),
    "3 a correction is not seen before": (
        {},
        [("a", 1, 1, 10), ("a", 1, 100, 11)],
        [("a", 50, 10), ("a", 99, 10), ("a", 100, 11)],
    ),
    "4 a late row is seen from its arrival": ({}, [("a", 5, 20, 7)], [("a", 15, None), ("a", 20, 7)]),
    "5 and replaces nothing newer": (
        {},
        [("a", 10, 10, 1), ("a", 5, 20, 0)],
        [("a", 15, 1), ("a", 20, 1), ("a", 25, 1)],
    ),
    "6 exactly as old as the ttl": (
        {"known": False, "ttl": "1 hour"},
        [("a", 0, 0, 1)],
        [("a", 0, 1), ("a", 60, 1), ("a", 61, None)],
    ),
    "7 stale, and an older one is not shown": (
        {"known": False, "ttl": "1 hour"},
        [("a", 0, 0, 1), ("a", 30, 30, 2)],
        [("a", 90, 2), ("a", 91, None)],
    ),
    "8 null is a value": ({"known": False}, [("a", 0, 0, 1), ("a", 30, 30, None)], [("a", 29, 1), ("a", 30, None)]),
    "9 deleted, and back": (
        {"known": False},
        [("a", 0, 0, 1), ("a", 10, 10, 2, True), ("a", 20, 20, 3, None)],
        [("a", 5, 1), ("a", 10, None), ("a", 15, None), ("a", 20, 3)],
    ),
    "9 deleted, and an older row comes late": (
        {},
        [("a", 0, 0, 1), ("a", 10, 10, 2, True), ("a", 5, 30, 9)],
        [("a", 5, 1), ("a", 10, None), ("a", 30, None), ("a", 40, None)],
    ),
    "10 without entity or time": (
        {},
        [(None, 0, 0, 9), ("a", None, 0, 9), ("a", 0, None, 9), ("a", 0, 0, 1)],
        [(None, 5, None), ("a", 5, 1), ("b", 5, None)],
    ),
    "11 times without a zone are in UTC": (
        {"known": False, "kind": NAIVE},
        [("a", 5, 5, 1)],
        [("a", 4, None), ("a", 5, 1)],
    ),
    "12 milliseconds": ({"known": False, "kind": pa.timestamp("ms")}, [("a", 5, 5, 1)], [("a", 4, None), ("a", 5, 1)]),
    "12 nanoseconds": ({"known": False, "kind": pa.timestamp("ns")}, [("a", 5, 5, 1)], [("a", 4, None), ("a", 5, 1)]),
    "12 a date applies from its end": (
        {"known": False, "kind": pa.date32()},
        [("a", date(2024, 1, 1), 0, 1)],
        [("a", 1439, None), ("a", 1440, 1)],
    ),
    "14 filled later than it happened": (
        {},
        [("a", 0, 1000, 1), ("a", 10, 1000, 2)],
        [("a", 999, None), ("a", 1000, 2)],
    ),
    "15 rows of the future": (
        {"known": False},
        [("a", 0, 0, 1), ("a", 9000, 9000, 2)],
        [("a", 1, 1), ("a", 8999, 1), ("a", 9000, 2)],
    ),
    "18 available with a delay": (
        {"known": False, "delay": "3 hours"},
        [("a", 0, 0, 1), ("a", 10, 10, 2)],
        [("a", 179, None), ("a", 180, 1), ("a", 189, 1), ("a", 190, 2)],
    ),
    "18 arrived after the delay": ({"delay": "3 hours"}, [("a", 0, 200, 1)], [("a", 180, None), ("a", 200, 1)]),
    "6 the age is that of the event, not of the arrival": (
        {"ttl": "1 hour"},
        [("a", 0, 50, 1)],
        [("a", 49, None), ("a", 60, 1), ("a", 61, None)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_join_and_the_store_give_the_expected_answer(name, address):
    options, rows, answers = CASES[name]
    options = dict(options)
    kind, strict = options.pop("kind", UTC_US), options.pop("strict", False)
    view, selected = view_of(options), features("shown", "x", strict=strict)
    asked, expected = [(e, t) for e, t, _ in answers], [x for *_, x in answers]
    table = rows_of(rows, kind)
    assert joined(view, selected, table, asked) == expected
    assert online(address, view, selected, table, asked) == expected


def test_rows_are_answered_in_order_and_as_often_as_they_are_asked(address):
    view = view_of({"known": False})
    rows = rows_of([("a", 0, 0, 1), ("b", 1, 1, 2)])
    with closing(address.open()) as store:
        whole = Delivery(SinkPosition(0), None, rows.to_reader(), rows.slice(0, 0), view.key, is_whole=True)
        FeatureTarget(store, view, lambda: us(9)).write(whole)
        joins = [
            Join(view, features("shown", prefix="from_"), "f0"),
            Join(view, features("shown", "x as there", on={"e": "to"}, at="there_at"), "f1"),
        ]
        asked = pa.table({"e": ["b", "a", "b", None], "to": pa.array(["a", "a", None, "c"])})
        read = FeatureReader(store).read(joins, asked).values
    assert read.column_names == ["from_x", "from_gone", "there", "there_at"]
    assert read["from_x"].to_pylist() == [2, 1, 2, None]
    assert read["there"].to_pylist() == [1, 1, None, None]
    assert read["there_at"].to_pylist() == [at(0), at(0), None, None]


def test_an_entity_of_several_columns(address):
    view = feature_view("select e, f, t, x from rows", entity=["e", "f"], event_time="t").named("shown")
    rows = pa.table({"e": ["a", "a"], "f": [1, 2], "t": pa.array([at(0), at(1)], UTC_US), "x": [5, 6]})
    with closing(address.open()) as store:
        whole = Delivery(SinkPosition(0), None, rows.to_reader(), rows.slice(0, 0), view.key, is_whole=True)
        FeatureTarget(store, view, lambda: us(9)).write(whole)
        asked = pa.table({"f": pa.array([2, 1, 3, None], pa.int8()), "e": ["a", "a", "a", "a"]})
        read = FeatureReader(store).read([Join(view, features("shown"), "f0")], asked).values
    assert read["x"].to_pylist() == [6, 5, None, None]


class Counting:
    """A store that counts the requests of readers."""

    def __init__(self, store):
        self._store, self.requests = store, []

    def states(self):
        self.requests.append("states")
        return self._store.states()

    def read(self, keys):
        self.requests.append("read")
        return self._store.read(keys)


def test_many_views_and_entities_are_one_request_and_views_may_be_loaded_anew(address):
    views = [
        feature_view("select e, t, x from rows", entity="e", event_time="t").named(name) for name in ("one", "two")
    ]
    rows = rows_of([("a", 0, 0, 1), ("b", 1, 1, 2)]).select(["e", "t", "x"])
    numbers = rows.set_column(0, "e", pa.array([1, 2]))

    def load(table, number):
        for view in views:
            whole = Delivery(SinkPosition(number), None, table.to_reader(), table.slice(0, 0), view.key, is_whole=True)
            since = None if number == 0 else SinkPosition(number - 1)
            FeatureTarget(store, view, lambda: us(9)).write(replace(whole, since=since))

    with closing(address.open()) as store:
        load(rows, 0)
        counting = Counting(store)
        reader, joins = FeatureReader(counting), [Join(v, features(v.name, prefix=v.name), "f") for v in views]
        for _ in range(3):
            assert reader.read(joins, pa.table({"e": ["b", "a"]})).values["twox"].to_pylist() == [2, 1]
        assert counting.requests == ["states", "read", "read", "read"]
        load(rows.slice(0, 1), 1)
        assert reader.read(joins, pa.table({"e": ["b", "a"]})).values["twox"].to_pylist() == [None, 1]
        load(numbers, 2)
        assert reader.read(joins, pa.table({"e": ["2", "1"]})).values["twox"].to_pylist() == [2, 1]
