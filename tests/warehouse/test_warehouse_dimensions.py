from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest

from pipeline.core.errors import DefinitionError
from pipeline.warehouse import dimension
from pipeline.warehouse.modelling.members import UNKNOWN

HISTORY = dimension(
    "select plane, operator, seen_at from seen", key="plane", stored_as_scd_type=2, sequence_by="seen_at"
).named("dim_plane")
PLANES = dimension("select plane, operator from seen", key="plane").named("dim_plane")
Observations = list[tuple[str, str | None, int]]


def day(number: int) -> dt.datetime:
    return dt.datetime(2024, 1, number, tzinfo=dt.UTC)


def seen(observations: Observations) -> pa.Table:
    planes, operators, days = zip(*observations, strict=True) if observations else ((), (), ())
    at = pa.array([day(d) for d in days], pa.timestamp("us", "UTC"))
    return pa.table(
        {"plane": pa.array(planes, pa.string()), "operator": pa.array(operators, pa.string()), "seen_at": at}
    )


def versions(table: pa.Table) -> list[tuple[str | None, int, int | None]]:
    """Return the versions as (operator, day from, day to), after checking the invariants of every history."""
    rows = [r for r in table.sort_by("valid_from").to_pylist() if r["plane_key"] != UNKNOWN]
    assert all((r["valid_to"] is None) == r["is_current"] for r in rows)
    assert len({r["plane_key"] for r in rows}) == len(rows)
    assert [r for r in table.to_pylist() if r["plane_key"] == UNKNOWN] == [
        {"plane_key": 0, "plane": None, "operator": None, "valid_from": None, "valid_to": None, "is_current": True}
    ]
    return [(r["operator"], r["valid_from"].day, r["valid_to"] and r["valid_to"].day) for r in rows]


def first(observations: Observations) -> pa.Table:
    return HISTORY(seen=seen(observations))


def later(observations: Observations, past: pa.Table) -> pa.Table:
    return HISTORY(seen=seen(observations), dim_plane=past)


def test_equal_observations_are_one_version():
    # day       1   2   3   4   5   6
    # seen      A   A       B   B   A
    # version   [A--------) [B----) [A ...
    observations = [("p", "A", 1), ("p", "A", 2), ("p", "B", 4), ("p", "B", 5), ("p", "A", 6)]

    assert versions(first(observations)) == [("A", 1, 4), ("B", 4, 6), ("A", 6, None)]
    assert versions(first(observations[::-1])) == versions(first(observations))


def test_null_is_a_value_of_an_attribute():
    # day       1   2   3
    # seen      -   -   B
    # version   [-----) [B ...
    assert versions(first([("p", None, 1), ("p", None, 2), ("p", "B", 3)])) == [(None, 1, 3), ("B", 3, None)]


def test_members_have_separate_histories():
    table = first([("p", "A", 1), ("q", "B", 2), ("p", "A", 3)])

    assert sorted((r["plane"], r["is_current"]) for r in table.to_pylist() if r["plane"]) == [("p", True), ("q", True)]


def test_an_observation_out_of_order_splits_an_interval():
    # day       1   2   3   4   5
    # past      [A------------) [B ...
    # seen              C
    # version   [A----) [C----) [B ...
    past = first([("p", "A", 1), ("p", "B", 5)])

    assert versions(later([("p", "C", 3)], past)) == [("A", 1, 3), ("C", 3, 5), ("B", 5, None)]


def test_an_equal_observation_inside_an_interval_changes_nothing():
    past = first([("p", "A", 1), ("p", "B", 5)])

    assert later([("p", "A", 3), ("p", "B", 6)], past).sort_by("valid_from").equals(past.sort_by("valid_from"))


def test_an_earlier_equal_observation_begins_the_version_earlier():
    # day       1   2   3   4   5
    # past              [A----) [B ...
    # seen      A
    # version   [A------------) [B ...
    past = first([("p", "A", 3), ("p", "B", 5)])

    assert versions(later([("p", "A", 1)], past)) == [("A", 1, 5), ("B", 5, None)]


def test_versions_that_are_no_longer_in_the_inputs_are_kept():
    past = first([("p", "A", 1), ("p", "B", 5), ("gone", "Z", 2)])

    now = later([("p", "C", 7)], past)

    rows = {(r["plane"], r["operator"]) for r in now.to_pylist() if r["plane"]}
    assert rows == {("p", "A"), ("p", "B"), ("p", "C"), ("gone", "Z")}


def test_repeated_computation_gives_the_same_rows():
    observations = [("p", "A", 1), ("p", "B", 3), ("q", None, 2), ("p", "A", 9)]
    once = first(observations)

    again = later(observations, once)

    assert again.sort_by([("plane", "ascending"), ("valid_from", "ascending")]).equals(
        once.sort_by([("plane", "ascending"), ("valid_from", "ascending")])
    )


def test_one_observation_per_time_is_used():
    # day       1     2
    # seen      A,B   A
    # version   [B--) [A ...
    observations = [("p", "A", 1), ("p", "B", 1), ("p", "A", 2)]

    assert versions(first(observations)) == versions(first(observations[::-1])) == [("B", 1, 2), ("A", 2, None)]


def test_input_observations_override_existing_versions_at_the_same_time():
    past = first([("p", "Z", 1)])

    corrected = later([("p", "A", 1)], past)

    assert versions(corrected) == versions(later([("p", "A", 1)], corrected)) == [("A", 1, None)]


def test_a_dimension_without_rows_has_the_unknown_member():
    assert versions(first([])) == []
    assert PLANES(seen=seen([])).to_pylist() == [{"plane_key": 0, "plane": None, "operator": None}]


def test_surrogate_keys_do_not_depend_on_the_order_of_loads():
    forwards, other = (
        PLANES(seen=seen([("p", "A", 1), ("q", "B", 1)])),
        PLANES(seen=seen([("q", "B", 1), ("p", "A", 1)])),
    )

    assert forwards.sort_by("plane").equals(other.sort_by("plane"))
    keys = forwards.column("plane_key").to_pylist()
    assert len(set(keys)) == 3
    assert all(0 <= key < 2**60 for key in keys)


def test_key_columns_are_hashed_separately():
    pair = dimension("select a, b from t", key=["a", "b"]).named("dim_pair")

    keys = pair(t=pa.table({"a": ["x", "xy", None, ""], "b": ["yz", "z", "", None]})).column("pair_key").to_pylist()

    assert len(set(keys)) == 5


def test_missing_natural_key_or_time_is_quarantined():
    assert HISTORY.key == ("plane_key",)
    assert [(e.name, e.condition, e.action.value) for e in HISTORY.expect] == [
        ("has_natural_key", '"plane_key" = 0 or ("plane" is not null)', "quarantine"),
        ("has_time", '"plane_key" = 0 or valid_from is not null', "quarantine"),
    ]


@pytest.mark.parametrize(
    ("text", "options", "problem"),
    [
        ("select k from t", {"stored_as_scd_type": 2}, "must be used together"),
        ("select k, s from t", {"sequence_by": "s"}, "must be used together"),
        ("select * from t", {}, "must list its columns"),
        ("select t.* from t", {}, "must list its columns"),
        ("select z from t", {}, "no column 'k': got z"),
        ("select k from t", {"stored_as_scd_type": 2, "sequence_by": "s"}, "no column 's'"),
        ("select k, k from t", {}, "duplicate column 'k'"),
        ("select k, 1 + 1 from t", {}, "column 2 of the dimension has no name"),
        ("select k, s, valid_to from t", {"stored_as_scd_type": 2, "sequence_by": "s"}, "duplicate column 'valid_to'"),
        ("select k from t", {"key": ()}, "requires a natural key"),
        ("select k from", {}, "invalid SQL"),
    ],
)
def test_errors_in_a_dimension_have_its_place(text, options, problem):
    with pytest.raises(DefinitionError, match=problem) as error:
        dimension(text, **{"key": "k", **options})
    assert error.value.place is not None
    assert error.value.place.file == __file__


def test_the_name_of_the_surrogate_key_is_reserved():
    with pytest.raises(
        DefinitionError, match="column 'plane_key' of dimension 'dim_plane' has the name of its surrogate key"
    ):
        dimension("select k, plane_key from t", key="k").named("dim_plane")
