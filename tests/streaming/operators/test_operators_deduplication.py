from __future__ import annotations

import datetime as dt
from itertools import groupby

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import deduplicate
from pipeline.core.errors import DefinitionError
from pipeline.core.schema import Schema
from pipeline.streaming.operators.batch_form import StreamedInput
from pipeline.streaming.operators.operator import END

SECOND = 1_000_000
COLUMNS = pa.schema([("ts", pa.timestamp("us", "UTC")), ("id", pa.string()), ("x", pa.int64())])
SCHEMA = Schema.of({"ts": "timestamptz", "id": "varchar", "x": "bigint"})
ROW = st.tuples(st.integers(0, 40), st.sampled_from(["a", "b", None]), st.one_of(st.none(), st.integers(0, 2)))


def table(_name, rows):
    times = [None if row[0] is None else row[0] * SECOND for row in rows]
    columns = [
        pa.array(times, pa.int64()).cast(COLUMNS.field(0).type),
        [row[1] for row in rows],
        [row[2] for row in rows],
    ]
    return pa.table(columns, schema=COLUMNS)


def plain(rows):
    """Return Arrow rows as tuples, in order."""
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    values = [(int((row["ts"] - epoch).total_seconds()), row["id"], row["x"]) for row in rows]
    return sorted(values, key=repr)


def in_order(rows):
    """Sort by event time, then by all columns with nulls last, like DuckDB."""
    return sorted(rows, key=lambda row: (row[0], row[1] is None, row[1] or "", row[2] is None, row[2] or 0))


def by_key(rows):
    ordered = sorted(in_order(rows), key=lambda row: str(row[1]))
    return [list(group) for _, group in groupby(ordered, key=lambda row: row[1])]


def firsts(rows, within):
    kept = []
    for group in by_key(rows):
        last = None
        for row in group:
            if last is None or (within is not None and row[0] > last + within):
                kept.append(row)
                last = row[0]
    return sorted(kept, key=repr)


def operator(definition):
    return definition.transform.operator({"events": StreamedInput(SCHEMA, "ts")}, definition.place)


@pytest.mark.parametrize("within", [None, 0, 5])
def test_the_first_row_of_a_key_is_emitted_in_any_arrival_order(drive, chopped, proof, within):
    words = None if within is None else f"{within} seconds"
    definition = deduplicate("events", key="id", event_time="ts", within=words)

    @proof
    @given(chopped({"events": ROW}))
    def holds(case):
        driven = drive(operator(definition), case.blocks(table), case.shards)
        expected = firsts(case.rows["events"], within)
        assert not driven.late
        assert plain(driven.rows) == expected
        assert plain(definition(table("", case.rows["events"])).to_pylist()) == expected
        if within is not None:
            assert driven.state_rows == 0

    holds()


def test_the_last_row_of_a_key_replaces_earlier_rows(drive, chopped, proof):
    definition = deduplicate("events", key="id", event_time="ts", keep="last")

    @proof
    @given(chopped({"events": ROW}))
    def holds(case):
        driven = drive(operator(definition), case.blocks(table), case.shards)
        expected = sorted((group[-1] for group in by_key(case.rows["events"])), key=repr)
        assert plain({row["id"]: row for row in driven.rows}.values()) == expected
        assert plain(definition(table("", case.rows["events"])).to_pylist()) == expected
        assert driven.state_rows == 0

    holds()


def test_within_starts_at_the_emitted_row(drive):
    # seconds   0   4   5   6   9   11  12
    # within 5  o---x---x   o---x---x   o      from one emitted row to the next, both ends inclusive
    rows = [(at, "a", 0) for at in (0, 4, 5, 6, 9, 11, 12)]
    definition = deduplicate("events", key="id", event_time="ts", within="5 seconds")
    driven = drive(operator(definition), [({"events": table("", rows)}, END)])
    assert [at for at, *_ in plain(driven.rows)] == [0, 12, 6]  # as text


def test_a_first_row_waits_for_the_watermark_and_a_late_row_is_rejected(drive):
    #  arrives      5   3 | watermark 5 |  4 (late)   8
    #  emitted                  3 only: a row with the time of the watermark may still arrive and be first
    definition = deduplicate("events", key="id", event_time="ts", within="1 second")
    epochs = [
        ({"events": table("", [(5, "a", 1), (3, "a", 2)])}, 5 * SECOND),
        ({"events": table("", [(4, "a", 3), (8, "a", 4), (None, "a", 5)])}, END),
    ]
    driven = drive(operator(definition), epochs)
    assert [plain(epoch.to_pylist()) for epoch in driven.epochs] == [[(3, "a", 2)], [(5, "a", 1), (8, "a", 4)]]
    assert [row["x"] for row in driven.late] == [3, 5]


def test_invalid_definitions_are_rejected():
    with pytest.raises(DefinitionError, match="within= requires keep='first'"):
        deduplicate("events", key="id", event_time="ts", keep="last", within="1 hour")
    with pytest.raises(DefinitionError, match="keep= must be 'first' or 'last'"):
        deduplicate("events", key="id", event_time="ts", keep="any")
    with pytest.raises(DefinitionError, match="deduplicate needs a key; set key="):
        deduplicate("events", key=(), event_time="ts")
    definition = deduplicate("events", key="idd", event_time="ts")
    with pytest.raises(DefinitionError, match="'events' has no column 'idd'; did you mean 'id'"):
        operator(definition)
    with pytest.raises(DefinitionError, match="streamed by a different event time"):
        definition.transform.operator({"events": StreamedInput(SCHEMA, "at")}, definition.place)
    with pytest.raises(DefinitionError, match="'events' is not streamed"):
        definition.transform.operator({}, definition.place)
