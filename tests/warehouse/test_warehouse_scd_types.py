"""Dimensions of types 2, 3 and 6 with tracked and other attributes, against a fold in Python."""

from __future__ import annotations

import datetime as dt
from itertools import groupby
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import DefinitionError
from pipeline.warehouse import dimension
from tests.rigs.proofs import examples

Observation = tuple[str, str | None, str | None, int]
"""A member, its tracked attribute `city`, its other attribute `phone`, and a day."""
TEXT = "select member, city, phone, seen_at from seen"


def dim(kind: int, **options: Any):
    options = {"track_history_column_list": ["city"], **options}
    return dimension(TEXT, key="member", stored_as_scd_type=kind, sequence_by="seen_at", **options).named("dim_member")


def seen(observations: list[Observation]) -> pa.Table:
    columns = list(zip(*observations, strict=True)) if observations else [(), (), (), ()]
    at = pa.array([dt.datetime(2024, 1, day) for day in columns[3]], pa.timestamp("us"))  # noqa: DTZ001 - on purpose
    texts = [pa.array(column, pa.string()) for column in columns[:3]]
    return pa.table({"member": texts[0], "city": texts[1], "phone": texts[2], "seen_at": at})


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    rows = [row for row in table.to_pylist() if row["member_key"] != 0]
    days = {n for n in table.column_names if n in {"valid_from", "valid_to", "observed_at"} or n.endswith("_since")}
    for row in rows:
        row.pop("member_key")
        row |= {name: row[name] and row[name].day for name in days}
    return sorted(rows, key=lambda row: (row["member"], row.get("valid_from", 0)))


def folded(observations: list[Observation], kind: int) -> list[dict[str, Any]]:
    """Return the expected rows from observations of which no two are of one member and day."""
    result = []
    for member, of_member in groupby(sorted(observations, key=lambda o: (o[0], o[3])), key=lambda o: o[0]):
        versions: list[dict[str, Any]] = []
        for _, city, phone, day in of_member:
            if not versions or versions[-1]["city"] != city:
                versions.append({"member": member, "city": city, "valid_from": day})
            versions[-1] |= {"phone": phone, "observed_at": day}
        if kind == 3:
            before = versions[-2]["city"] if len(versions) > 1 else None
            last = versions[-1]
            result.append({**last, "previous_city": before, "city_since": last["valid_from"]})
            result[-1].pop("valid_from")
            continue
        for version, after in zip(versions, [*versions[1:], None], strict=True):
            version |= {"valid_to": after and after["valid_from"], "is_current": after is None}
            if kind == 6:
                version["current_city"] = versions[-1]["city"]
        result += versions
    return result


@pytest.mark.parametrize("kind", [2, 3, 6])
@given(
    observations=st.lists(
        st.tuples(
            st.sampled_from("mn"), st.sampled_from([None, "A", "B"]), st.sampled_from([None, "1", "2"]), st.integers(1, 20)
        ),
        unique_by=lambda o: (o[0], o[3]),
        max_size=12,
    ),
    cuts=st.lists(st.integers(1, 20), max_size=3),
    order=st.randoms(use_true_random=False),
)  # fmt: skip
@settings(max_examples=examples(8, 300), deadline=None)
def test_a_history_in_batches_equals_a_fold(kind, observations, cuts, order):
    definition, expected = dim(kind), folded(observations, kind)
    order.shuffle(observations)

    table = definition(seen=seen([]))
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), 99], strict=True):
        table = definition(seen=seen([o for o in observations if begin < o[3] <= end]), dim_member=table)

    assert rows_of(definition(seen=seen(observations))) == expected
    assert rows_of(table) == expected


@pytest.mark.parametrize("kind", [2, 3, 6])
def test_a_second_computation_changes_nothing(kind):
    once = dim(kind)(seen=seen([("m", "A", "1", 1), ("m", "B", None, 3), ("n", None, "2", 2), ("m", "B", "3", 5)]))

    again = dim(kind)(seen=seen([]), dim_member=once)

    assert rows_of(again) == rows_of(once)


def test_a_late_observation_becomes_the_previous_value():
    # day        1   2   3   4   5
    # known      A               B
    # arrives            C
    once = dim(3)(seen=seen([("m", "A", "1", 1), ("m", "B", "2", 5)]))

    assert rows_of(dim(3)(seen=seen([("m", "C", "9", 3)]), dim_member=once)) == [
        {
            "member": "m",
            "city": "B",
            "phone": "2",
            "previous_city": "C",
            "city_since": 5,
            "observed_at": 5,
        }
    ]


def test_a_late_observation_of_the_current_value_begins_it_earlier():
    once = dim(3)(seen=seen([("m", "A", "1", 1), ("m", "B", "2", 5)]))

    [row] = rows_of(dim(3)(seen=seen([("m", "B", "9", 3)]), dim_member=once))

    assert (row["previous_city"], row["city"], row["city_since"], row["phone"]) == ("A", "B", 3, "2")


def test_each_tracked_attribute_has_its_own_previous_value():
    both = dim(3, track_history_column_list=())
    observations = [("m", "A", "1", 1), ("m", "A", "2", 3), ("m", "B", "2", 5), ("m", "B", "2", 7)]

    expected = {
        "member": "m",
        "city": "B",
        "previous_city": "A",
        "city_since": 5,
        "phone": "2",
        "previous_phone": "1",
        "phone_since": 3,
    }
    assert rows_of(both(seen=seen(observations))) == [expected]
    table = both(seen=seen([]))
    for observation in observations:
        table = both(seen=seen([observation]), dim_member=table)
    assert rows_of(table) == [expected]


@pytest.mark.parametrize("kind", [2, 3, 6])
def test_an_observation_without_a_time_is_a_row_that_is_quarantined(kind):
    table = seen([("m", "A", "1", 1), ("m", "B", "2", 2)])
    table = table.set_column(3, "seen_at", pa.array([None, table["seen_at"][1].as_py()], pa.timestamp("us")))

    rows = dim(kind)(seen=table)

    condition = next(e.condition for e in dim(kind).expect if e.name == "has_time")
    with duckdb.connect() as con:
        con.register("rows", rows)
        found = con.sql(
            f"select city, {condition} as is_timed from rows where member_key <> 0 order by city"
        ).fetchall()
    assert found == [("A", False), ("B", True)]


def test_columns_may_have_the_names_of_keywords():
    places = dimension("select member, city, at from seen", key="member", stored_as_scd_type=2, sequence_by="at")

    table = seen([("m", "A", "1", 1)]).rename_columns(["member", "city", "phone", "at"])

    assert [row["city"] for row in rows_of(places.named("dim_member")(seen=table))] == ["A"]


def test_special_members_have_their_labels():
    members = dimension(
        "select code, city from cities",
        key="code",
        unknown={"city": "it's unknown"},
        not_applicable={"code": "-", "city": None},
    ).named("dim_city")

    rows = members(cities=pa.table({"code": ["x"], "city": ["X"]})).sort_by("city_key").to_pylist()

    assert rows[:2] == [
        {"city_key": -1, "code": "-", "city": None},
        {"city_key": 0, "code": None, "city": "it's unknown"},
    ]
    assert [e.condition for e in members.expect] == ['"city_key" in (0, -1) or ("code" is not null)']


@pytest.mark.parametrize("kind", [1, 2])
def test_a_value_with_two_parents_is_an_error(kind):
    time = {} if kind == 1 else {"stored_as_scd_type": 2, "sequence_by": "seen_at"}
    places = dimension(
        "select code, city, country" + (", seen_at from places" if time else " from places"),
        key="code",
        hierarchies={"geography": ["country", "city"]},
        **time,
    ).named("dim_place")
    table = {"code": ["a", "b", "c"], "city": ["Ulm", "Ulm", None], "country": ["DE", "DE", "FR"], "seen_at": [1, 1, 1]}

    assert places(places=pa.table(table)).num_rows == 4
    message = "hierarchy 'geography' of 'dim_place': several values of country for city Ulm"
    with pytest.raises(duckdb.InvalidInputException, match=message):
        places(places=pa.table({**table, "country": ["DE", "FR", "FR"]}))
    if time:
        moved = {"code": ["a", "a"], "city": ["Ulm", "Ulm"], "country": ["DE", "FR"], "seen_at": [1, 2]}
        assert places(places=pa.table(moved)).num_rows == 3  # two versions, of which one is current


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"stored_as_scd_type": 4}, "unknown value of stored_as_scd_type=: got 4; use 1, 2, 3 or 6"),
        ({"stored_as_scd_type": 3, "sequence_by": None}, "stored_as_scd_type=3 and sequence_by= must be used together"),
        ({"track_history_column_list": ["town"]}, "names 'town', which is no attribute"),
        ({"track_history_column_list": ["city"], "track_history_except_column_list": ["city"]}, "contradict each other"),
        ({"track_history_except_column_list": ["city", "phone"]}, "leaves no attribute to track"),
        (
            {"stored_as_scd_type": 1, "sequence_by": None, "track_history_column_list": ["city"]},
            "track_history_column_list= requires a dimension with history",
        ),
        ({"unknown": {"town": "x"}}, "unknown= names a column 'town', which the dimension does not have"),
        ({"not_applicable": {"town": "x"}}, "not_applicable= names a column 'town'"),
        ({"hierarchies": {"h": ["city"]}}, "hierarchy 'h' needs at least two levels; list its columns from the top"),
        ({"hierarchies": {"h": ["town", "city"]}}, "hierarchy 'h' names a column 'town'"),
    ],
)  # fmt: skip
def test_contradictory_options_are_refused(options, problem):
    with pytest.raises(DefinitionError, match=problem):
        dimension(TEXT, **{"key": "member", "stored_as_scd_type": 2, "sequence_by": "seen_at", **options})


@pytest.mark.parametrize(("kind", "column"), [(3, "previous_city"), (3, "city_since"), (6, "current_city")])
def test_columns_that_the_history_adds_are_reserved(kind, column):
    with pytest.raises(DefinitionError, match=f"duplicate column '{column}'"):
        dimension(
            f"select k, city, {column}, seen_at from seen", key="k", stored_as_scd_type=kind, sequence_by="seen_at"
        )


def test_a_history_without_attributes_has_nothing_to_track():
    with pytest.raises(DefinitionError, match="a dimension with history has no attribute"):
        dimension("select k, seen_at from seen", key="k", stored_as_scd_type=3, sequence_by="seen_at")
