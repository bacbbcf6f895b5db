"""Junk, date and time dimensions, special members in lookups, snapshots and bridges."""

from __future__ import annotations

import datetime as dt
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import DefinitionError
from pipeline.warehouse import (
    accumulating_snapshot,
    bridge,
    date_dimension,
    dimension,
    fact,
    junk_dimension,
    lookup,
    mart,
    parent_child_bridge,
    periodic_snapshot,
    time_dimension,
)
from tests.rigs.proofs import examples


def moment(day: int, hour: int = 0) -> dt.datetime:
    return dt.datetime(2024, 1, day, hour)  # noqa: DTZ001 - on purpose


def test_a_junk_dimension_has_each_combination_once_and_nulls_are_found():
    kinds = junk_dimension("select channel, is_gift from orders").named("dim_kind")
    orders = pa.table({"id": [1, 2, 3, 4], "channel": ["web", None, "web", None], "is_gift": [True, None, True, False]})
    members = kinds(orders=orders)
    facts = fact(
        "select * from orders",
        key="id",
        lookups={"kind_key": lookup("dim_kind", ["channel", "is_gift"], match_nulls=True)},
    )

    rows = facts(orders=orders, dim_kind=members).to_pylist()

    of_key = {m["kind_key"]: (m["channel"], m["is_gift"]) for m in members.to_pylist() if m["kind_key"] > 0}
    assert sorted(of_key.values(), key=str) == [("web", True), (None, False), (None, None)]
    assert all(of_key[row["kind_key"]] == (row["channel"], row["is_gift"]) for row in rows)
    assert kinds.expect == ()


def test_dates_have_the_parts_of_the_calendar_and_of_the_fiscal_year():
    dates = date_dimension(
        "2024-12-30", dt.date(2025, 7, 2), fiscal_year_start=7, holidays={"2025-01-01": "New Year's"}
    )
    rows = {row["date"]: row for row in dates.named("dim_date")().to_pylist()}

    assert len(rows) == 186  # 185 days and the unknown member
    assert dates.inputs == ()
    new_year = rows[dt.date(2025, 1, 1)]
    assert new_year == {
        "date_key": 20250101,
        "date": dt.date(2025, 1, 1),
        "year": 2025,
        "quarter": 1,
        "month": 1,
        "month_name": "January",
        "day": 1,
        "day_of_year": 1,
        "weekday": 3,
        "weekday_name": "Wednesday",
        "iso_year": 2025,
        "iso_week": 1,
        "is_weekend": False,
        "is_month_end": False,
        "fiscal_year": 2025,
        "fiscal_quarter": 3,
        "fiscal_month": 7,
        "holiday": "New Year's",
        "is_holiday": True,
        "is_workday": False,
    }
    monday = rows[dt.date(2024, 12, 30)]
    assert (monday["iso_year"], monday["iso_week"], monday["is_workday"], monday["holiday"]) == (2025, 1, True, None)
    assert (rows[dt.date(2025, 6, 30)]["fiscal_year"], rows[dt.date(2025, 7, 1)]["fiscal_year"]) == (2025, 2026)
    assert rows[dt.date(2025, 6, 30)]["is_month_end"]


@pytest.mark.parametrize("start", range(1, 13))
def test_a_fiscal_year_has_the_number_of_the_year_in_which_it_ends(start):
    rows = date_dimension("2023-01-01", "2024-12-31", fiscal_year_start=start).named("dim_date")().to_pylist()

    for row in (row for row in rows if row["date_key"]):
        months = (row["month"] - start) % 12
        assert row["fiscal_month"] == months + 1
        assert row["fiscal_quarter"] == months // 3 + 1
        assert row["fiscal_year"] == row["year"] + (1 if start > 1 and row["month"] >= start else 0)


@pytest.mark.parametrize(("grain", "count"), [("hour", 24), ("minute", 1440), ("second", 86400)])
def test_times_of_a_day(grain, count):
    table = time_dimension(grain=grain).named("dim_time")()
    rows = {row["time"]: row for row in table.to_pylist()}

    assert table.num_rows == count + 1
    assert len(set(table["time_key"].to_pylist())) == count + 1
    assert rows[dt.time(13)]["label"] == {"hour": "13:00", "minute": "13:00", "second": "13:00:00"}[grain]
    assert (rows[dt.time(0)]["time_key"], rows[dt.time(13)]["am_pm"], rows[dt.time(13)]["part_of_day"]) == (
        1,
        "PM",
        "afternoon",
    )


CODES = dimension("select code from codes", key="code", not_applicable={"code": "none"}, unknown={"code": "?"})
CODE = CODES.named("dim_code")(codes=pa.table({"code": ["a"]}))


def test_a_null_key_is_not_applicable_and_labels_are_not_found_by_lookups():
    facts = fact("select * from f", key="id", lookups={"k": lookup("dim_code", "code", missing="not_applicable")})

    rows = facts(f=pa.table({"id": [1, 2, 3, 4, 5], "code": ["a", None, "b", "none", "?"]}), dim_code=CODE).sort_by(
        "id"
    )

    a = next(row["code_key"] for row in CODE.to_pylist() if row["code"] == "a")
    assert rows.column("k").to_pylist() == [a, -1, 0, 0, 0]


def test_an_event_before_the_first_version_may_get_that_version():
    planes = dimension("select tail, op, seen from s", key="tail", stored_as_scd_type=2, sequence_by="seen").named(
        "dim_plane"
    )
    plane = planes(s=pa.table({"tail": ["N", "N"], "op": ["A", "B"], "seen": [moment(3), moment(5)]}))
    look = {name: lookup("dim_plane", "tail", as_of="at", before=name) for name in ("first", "unknown")}
    facts = fact("select * from f", key="id", lookups=look)
    events = {
        "id": [1, 2, 3, 4, 5],
        "tail": ["N", "N", "N", "N", "X"],
        "at": [moment(1), moment(3), moment(5), None, moment(1)],
    }

    rows = facts(f=pa.table(events), dim_plane=plane).sort_by("id")

    operator = {row["plane_key"]: row["op"] for row in plane.to_pylist()}
    assert [operator[key] for key in rows.column("first").to_pylist()][:3] == ["A", "A", "B"]
    assert rows.column("first").to_pylist()[4] == 0
    assert [operator[key] for key in rows.column("unknown").to_pylist()] == [None, "A", "B", None, None]


Value = tuple[str, int, int]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 20), st.integers(0, 9)), max_size=15))
@settings(max_examples=examples(15, 300), deadline=None)
def test_a_periodic_snapshot_has_the_last_value_of_each_period(values: list[Value]):
    snapshot = periodic_snapshot("select account, balance, seen_at from b", key="account", at="seen_at", period="week")
    columns = {
        "account": pa.array([v[0] for v in values], pa.string()),
        "seen_at": pa.array([moment(v[1]) for v in values], pa.timestamp("us")),
        "balance": pa.array([v[2] for v in values], pa.int64()),
    }

    rows = snapshot(b=pa.table(columns)).to_pylist()

    def week(day: int) -> int:
        return day - (day - 1) % 7  # January 1, 2024, is a Monday

    expected = set()
    for account in {v[0] for v in values}:
        own = [(v[1], v[2]) for v in values if v[0] == account]
        for start in range(week(min(own)[0]), max(v[1] for v in values) + 1, 7):
            day, balance = max(each for each in own if each[0] < start + 7)
            expected.add((account, balance, moment(day), moment(start).date(), moment(start + 7).date()))
    found = [tuple(row[n] for n in ("account", "balance", "seen_at", "period_start", "period_end")) for row in rows]
    assert sorted(found) == sorted(expected)
    assert snapshot.key == ("account", "period_start")


def test_a_value_without_a_time_has_no_period():
    snapshot = periodic_snapshot("select k, v, seen_at from b", key="k", at="seen_at")
    table = pa.table({"k": ["a", "a"], "v": [1, 2], "seen_at": pa.array([moment(1), None], pa.timestamp("us"))})

    assert [(row["v"], row["period_start"]) for row in snapshot(b=table).to_pylist()] == [
        (1, moment(1).date()),
        (2, None),
    ]


def test_a_value_without_a_key_is_kept_for_the_quarantine():
    snapshot = periodic_snapshot("select k, j, seen_at from b", key=["k", "j"], at="seen_at")
    table = pa.table({"k": ["a", None, "a"], "j": ["x", "x", None], "seen_at": [moment(1)] * 3})

    rows = snapshot(b=table).to_pylist()

    assert sorted((row["k"] or "", row["j"] or "", row["period_start"] is None) for row in rows) == [
        *(("", "x", True), ("a", "", True), ("a", "x", False)),
    ]
    assert {e.name for e in snapshot.expect} == set()  # the key itself must not be null


MILESTONES = {"placed": "status = 'p'", "shipped": "status = 's'", "delivered": "status = 'd'"}
EVENTS = [("1", "p", 1), ("1", "s", 3), ("1", "s", 4), ("2", "s", 2), ("3", "x", 5), ("1", "d", 2)]


@pytest.mark.parametrize("turned", [False, True])
def test_an_accumulating_snapshot_has_the_first_time_of_each_milestone(turned):
    orders = accumulating_snapshot("select id, status, at from e", key="id", at="at", milestones=MILESTONES)
    events = EVENTS[::-1] if turned else EVENTS
    table = pa.table(
        {"id": [e[0] for e in events], "status": [e[1] for e in events], "at": [moment(e[2]) for e in events]}
    )

    rows = orders(e=table).sort_by("id").to_pylist()

    day = 86400.0
    assert [tuple(row.values()) for row in rows] == [
        ("1", moment(1), moment(3), moment(2), "s", 2 * day, -day, "delivered"),
        ("2", None, moment(2), None, "s", None, None, "shipped"),
        ("3", None, None, None, "x", None, None, None),
    ]
    assert list(rows[0]) == [
        *("id", "placed_at", "shipped_at", "delivered_at", "status"),
        *("placed_to_shipped_seconds", "shipped_to_delivered_seconds", "stage"),
    ]


OWNERS = dimension("select owner from owners", key="owner").named("dim_owner")
OWNER = OWNERS(owners=pa.table({"owner": ["x", "y"]}))
LOOK = {"owner_key": lookup("dim_owner", "owner")}


def test_the_members_of_a_group_have_equal_weights():
    owners = bridge("select account, owner from o", group="account", lookups=LOOK)

    rows = owners(o=pa.table({"account": [1, 1, 2], "owner": ["x", "y", "x"]}), dim_owner=OWNER).to_pylist()

    assert sorted((row["account"], row["owner"], row["weight"]) for row in rows) == [
        (1, "x", 0.5),
        (1, "y", 0.5),
        (2, "x", 1.0),
    ]
    assert all(row["owner_key"] > 0 for row in rows)
    assert (owners.key, owners.kind) == (("account", "owner"), "fact")


def test_weights_must_add_up_to_1():
    owners = bridge("select account, owner, weight from o", group="account", lookups=LOOK)
    table = {"account": [1, 1, 2], "owner": ["x", "y", "x"], "weight": [0.25, 0.75, 1.0]}

    assert owners(o=pa.table(table), dim_owner=OWNER).num_rows == 3
    with pytest.raises(duckdb.InvalidInputException, match="weights of a group do not add up to 1: account = 2"):
        owners(o=pa.table({**table, "weight": [0.25, 0.75, 0.5]}), dim_owner=OWNER)
    assert owners(o=pa.table(table).slice(0, 0), dim_owner=OWNER).num_rows == 0


def test_a_member_has_all_that_are_above_it():
    staff = parent_child_bridge("select id, boss from e", child="id", parent="boss")
    table = pa.table({"id": ["a", "b", "c", "d"], "boss": [None, "a", "b", "a"]})

    rows = staff(e=table).to_pylist()

    found = sorted((row["descendant"], row["ancestor"], row["depth"]) for row in rows)
    assert found == [
        *(("a", "a", 0), ("b", "a", 1), ("b", "b", 0)),
        *(("c", "a", 2), ("c", "b", 1), ("c", "c", 0), ("d", "a", 1), ("d", "d", 0)),
    ]
    with pytest.raises(duckdb.InvalidInputException, match="members are in a circle, or deeper than 200 levels: id = "):
        staff(e=pa.table({"id": ["a", "b"], "boss": ["b", "a"]}))


def test_a_mart_has_an_owner():
    totals = mart("select count(*) as n from f", owner="finance@example.com", business_unit="finance")

    assert (totals.owner, totals.business_unit, totals.kind) == ("finance@example.com", "finance", "mart")
    assert totals.fingerprint == mart("select count(*) as n from f").fingerprint


def snapshot(**options: Any):
    return periodic_snapshot("select k, v, seen_at from b", **{"key": "k", "at": "seen_at", **options})


def steps(**options: Any):
    given = {"key": "id", "at": "at", "milestones": MILESTONES, **options}
    return accumulating_snapshot("select id, status, at, 1 as stage_ from e", **given)


@pytest.mark.parametrize(
    ("define", "problem"),
    [
        (lambda: snapshot(period="hour"), "unknown value of period=: got 'hour'"),
        (lambda: snapshot(key="z"), "the SELECT of the snapshot has no column 'z'"),
        (lambda: periodic_snapshot("select * from b", key="k", at="t"), "a snapshot must list its columns"),
        (lambda: periodic_snapshot("select k, t, 1 as period_end from b", key="k", at="t"), "duplicate column 'period_end'"),
        (lambda: steps(milestones={}), "an accumulating snapshot has no milestones; set milestones="),
        (lambda: steps(milestones={"m": "status ="}), "expectation 'm' is not a SQL condition"),
        (lambda: bridge("select a from o", group="a", lookups={}), "a bridge looks up no dimension; set lookups="),
        (lambda: bridge("select a from o", group="a", lookups=LOOK), "the SELECT of the bridge has no column 'owner'"),
        (lambda: parent_child_bridge("select a from o", child="a", parent="b"), "the SELECT of the bridge has no column 'b'"),
        (lambda: date_dimension("2024-01-02", "2024-01-01"), "the last day is before the first: got 2024-01-02 to 2024-01-01"),
        (lambda: date_dimension("1.1.2024", "2024-01-01"), "first= contains an invalid date: got '1.1.2024'; write it as"),
        (lambda: date_dimension("2024-01-01", "2024-01-01", fiscal_year_start=0), "fiscal_year_start= must be a month"),
        (lambda: time_dimension(grain="day"), "unknown value of grain=: got 'day'"),
        (lambda: lookup("d", "k", before="last"), "unknown value of before=: got 'last'"),
        (lambda: lookup("d", "k", missing="x"), "unknown value of missing=: got 'x'"),
        (lambda: lookup("d", "k", before="first"), "before='first' requires as_of=; set as_of=, or remove before="),
        (lambda: lookup("d", "k", match_nulls=True, as_of="t"), "match_nulls= and as_of= contradict each other"),
        (lambda: lookup("d", "k", match_nulls=True, missing="not_applicable"), "match_nulls= and missing= contradict"),
        (lambda: fact("select a from t", key="a", degenerate="b"), "degenerate= names a column 'b', which the SELECT"),
    ],
)  # fmt: skip
def test_contradictory_definitions_are_refused(define, problem):
    with pytest.raises(DefinitionError, match=problem):
        define()
