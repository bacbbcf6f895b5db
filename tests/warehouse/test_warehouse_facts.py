from __future__ import annotations

import datetime as dt

import duckdb
import pyarrow as pa
import pytest

from pipeline.core.errors import DefinitionError
from pipeline.warehouse import dimension, fact, lookup, mart

AIRPORTS = dimension("select code, city from airports", key="code").named("dim_airport")
PLANES = dimension(
    "select tail, operator, seen_at from seen", key="tail", stored_as_scd_type=2, sequence_by="seen_at"
).named("dim_plane")


def day(number: int) -> dt.datetime:
    return dt.datetime(2024, 1, number)  # noqa: DTZ001 - a naive timestamp on purpose


AIRPORT = AIRPORTS(airports=pa.table({"code": ["EWR", "JFK", None], "city": ["Newark", "New York", "nowhere"]}))
#  day    1    2    3    4    5    6
#  N1          [A------------) [B ...
PLANE = PLANES(seen=pa.table({"tail": ["N1", "N1"], "operator": ["A", "B"], "seen_at": [day(2), day(5)]}))


def key_of(table: pa.Table, column: str, value: str) -> int:
    return next(row[table.column_names[0]] for row in table.to_pylist() if row[column] == value)


def test_lookup_by_natural_key_returns_0_for_unknown_members():
    flights = fact(
        "select * from flights",
        key="id",
        lookups={
            "from_key": lookup("dim_airport", {"origin": "code"}),
            "to_key": lookup("dim_airport", {"dest": "code"}),
        },
    )
    table = pa.table({"id": [1, 2, 3], "origin": ["EWR", "XXX", None], "dest": ["JFK", "EWR", None]})

    rows = flights(flights=table, dim_airport=AIRPORT).sort_by("id")

    newark, new_york = key_of(AIRPORT, "city", "Newark"), key_of(AIRPORT, "city", "New York")
    assert rows.column("from_key").to_pylist() == [newark, 0, 0]
    assert rows.column("to_key").to_pylist() == [new_york, newark, 0]


def test_version_is_valid_from_its_start_until_the_next_one():
    # day    1    2    3    4    5    6   null
    # N1     -    A    A    A    B    B    -
    flights = fact(
        "select * from flights", key="id", lookups={"plane_key": lookup("dim_plane", "tail", as_of="left_at")}
    )
    at = pa.array([*(day(d) for d in range(1, 7)), None], pa.timestamp("us"))
    table = pa.table({"id": range(7), "tail": ["N1"] * 7, "left_at": at})

    rows = flights(flights=table, dim_plane=PLANE).sort_by("id")

    a, b = key_of(PLANE, "operator", "A"), key_of(PLANE, "operator", "B")
    assert rows.column("plane_key").to_pylist() == [0, a, a, a, b, b, 0]


def test_fact_neither_loses_nor_duplicates_rows():
    flights = fact(
        "select * from flights",
        key="id",
        lookups={
            "plane_key": lookup("dim_plane", "tail", as_of="left_at"),
            "from_key": lookup("dim_airport", {"tail": "code"}),
        },
    )
    times = pa.array([day(1 + i % 9) if i % 4 else None for i in range(500)], pa.timestamp("us"))
    table = pa.table({"id": range(500), "tail": [["N1", "EWR", None][i % 3] for i in range(500)], "left_at": times})

    rows = flights(flights=table, dim_plane=PLANE, dim_airport=AIRPORT)

    assert sorted(rows.column("id").to_pylist()) == list(range(500))


def test_lookup_in_a_dimension_with_history_requires_a_time():
    flights = fact("select * from flights", key="id", lookups={"plane_key": lookup("dim_plane", "tail")})

    with pytest.raises(duckdb.InvalidInputException, match="'dim_plane' has several members per key: set as_of="):
        flights(flights=pa.table({"id": [1], "tail": ["N1"]}), dim_plane=PLANE)


def test_lookup_by_a_composite_key():
    pairs = dimension("select a, b from t", key=["a", "b"]).named("dim_pair")
    pair = pairs(t=pa.table({"a": [1, 1], "b": [1, 2]}))
    facts = fact("select * from f", key="id", lookups={"pair_key": lookup("dim_pair", {"x": "a", "y": "b"})})

    rows = facts(f=pa.table({"id": [1, 2], "x": [1, 1], "y": [2, 3]}), dim_pair=pair).sort_by("id")

    expected = next(r["pair_key"] for r in pair.to_pylist() if r["b"] == 2)
    assert rows.column("pair_key").to_pylist() == [expected, 0]


def test_a_fact_reads_its_inputs_and_the_dimensions():
    flights = fact("-- What flew.\nselect * from flights", key="id", lookups={"k": lookup("dim_airport", "code")})

    assert flights.inputs == ("flights", "dim_airport")
    assert (flights.kind, flights.layer, flights.key, flights.description) == ("fact", "gold", ("id",), "What flew.")
    other = fact("select * from flights", key="id", lookups={"k": lookup("dim_airport", {"dest": "code"})})
    assert flights.fingerprint != other.fingerprint


def test_a_lookup_requires_a_unique_name():
    with pytest.raises(DefinitionError, match="the SELECT of the fact already has a column 'k'"):
        fact("select id, k from flights", key="id", lookups={"k": lookup("dim_airport", "code")})


def test_mart_is_a_select_in_the_gold_layer():
    totals = mart("-- How many.\nselect count(*) as n from fact_flight")

    assert (totals.kind, totals.layer, totals.description) == ("mart", "gold", "How many.")
    assert totals(fact_flight=pa.table({"id": [1, 2]})).to_pylist() == [{"n": 2}]
