"""Rows with equal event times are processed in log order, whatever their values and their order of arrival."""

from __future__ import annotations

from itertools import groupby, pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import deduplicate, directly_followed_by, event, pattern, stateful
from pipeline.batch.planning import exchanged
from pipeline.core.schema import Schema
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.planner.exchange import Exchange
from pipeline.kernel.scan import Scan
from pipeline.streaming.operators.batch_form import StreamedInput
from pipeline.streaming.operators.operator import END, WatermarkAdvance
from pipeline.streaming.operators.shard import open_shard, rows_by_shard

SECOND = 1_000_000
TYPES = {"ts": "timestamptz", "id": "varchar", "x": "bigint"}
PLACED = Schema.of({**TYPES, "_source": "varchar", "_position": "bigint"})
COLUMNS = pa.schema(
    [
        ("ts", pa.timestamp("us", "UTC")),
        ("id", pa.string()),
        ("x", pa.int64()),
        ("_source", pa.string()),
        ("_position", pa.int64()),
    ]
)
ROW = st.tuples(st.integers(0, 4), st.sampled_from(["a", "b"]), st.integers(0, 5))
"""Few different times, so that most rows are ties."""


def placed(rows):
    """Rows with log positions in two partitions: `log/10` sorts before `log/2` as text, 9 before 10 as a number."""
    return [(*row, f"log/{(2, 10)[number % 2]}", 5 + number // 2) for number, row in enumerate(rows)]


def table(_name, rows):
    times = pa.array([row[0] * SECOND for row in rows], pa.int64()).cast(COLUMNS.field("ts").type)
    return pa.table([times, *([row[n] for row in rows] for n in range(1, 5))], schema=COLUMNS)


def in_log_order(rows):
    return sorted(rows, key=lambda row: (row[0], row[3], row[4]))


def of_keys(rows):
    """The rows of each key in order."""
    ordered = sorted(in_log_order(rows), key=lambda row: row[1])
    return [list(group) for _, group in groupby(ordered, key=lambda row: row[1])]


def firsts(rows, within):
    """The emitted rows of a key: the next one is more than `within` after the last emitted one."""
    kept = rows[:1]
    for row in rows:
        if within is not None and row[0] > kept[-1][0] + within:
            kept.append(row)
    return [row[2] for row in kept]


STEPS = pattern(
    event("one", "events"),
    directly_followed_by("two", "events"),
    by="id",
    within="1 hour",
    event_time="ts",
    select={"x": "one.x", "y": "two.x"},
    after_match="skip to next event",
)


@stateful(
    key="id", event_time="ts", state={"n": "bigint default 0"}, schema={"x": "bigint", "n": "bigint"}, ttl="1 day"
)
def numbered(state: pa.Table, events: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Number the rows of each key."""
    counts = dict(zip(state["id"].to_pylist(), state["n"].to_pylist(), strict=True))
    out = []
    for row in events.to_pylist():
        counts[row["id"]] += 1
        out.append({"x": row["x"], "n": counts[row["id"]]})
    schema = pa.schema([("x", pa.int64()), ("n", pa.int64())])
    return pa.table({"id": list(counts), "n": list(counts.values())}), pa.Table.from_pylist(out, schema)


FIRST, WITHIN, LAST = (
    deduplicate("events", key="id", event_time="ts"),
    deduplicate("events", key="id", event_time="ts", within="1 second"),
    deduplicate("events", key="id", event_time="ts", keep="last"),
)
CASES = {
    "first": (FIRST, lambda key: [(key[0][2],)], ("x",)),
    "within": (WITHIN, lambda key: [(x,) for x in firsts(key, 1)], ("x",)),
    "last": (LAST, lambda key: [(key[-1][2],)], ("x",)),
    "pattern": (STEPS, lambda key: [(a[2], b[2]) for a, b in pairwise(key)], ("x", "y")),
    "stateful": (numbered, lambda key: [(row[2], n) for n, row in enumerate(key, 1)], ("x", "n")),
}


@pytest.mark.share(2)
@pytest.mark.parametrize("case", CASES)
def test_the_log_orders_rows_of_one_time(drive, chopped, proof, case):
    definition, expected_of, columns = CASES[case]
    # like the rows of a log, the stream's table has the position in addition to the columns of its contract
    operator = definition.transform.operator({"events": StreamedInput(Schema.of(TYPES), "ts")}, definition.place)

    @proof
    @given(chopped({"events": ROW}))
    def holds(arrival):
        rows = placed(arrival.rows["events"])
        place_of: dict[tuple[object, ...], list[tuple[object, ...]]] = {}
        for row in reversed(rows):
            place_of.setdefault(row[:3], []).append(row)
        epochs = [
            ({"events": table("", [place_of[row].pop() for row in block["events"]])}, mark)
            for block, mark in arrival.epochs
        ]
        out = drive(operator, epochs, arrival.shards).rows
        if operator.emits == "upsert":
            out = {row["id"]: row for row in out}.values()
        expected = sorted(row for key in of_keys(rows) for row in expected_of(key))
        assert sorted(tuple(row[c] for c in columns) for row in out) == expected
        batch = definition(table("", rows)).to_pylist()
        assert sorted(tuple(row[c] for c in columns) for row in batch) == expected

    holds()


def test_a_last_row_is_replaced_by_a_later_arrival_with_the_same_time(drive):
    operator = LAST.transform.operator({"events": StreamedInput(Schema.of(TYPES), "ts")}, LAST.place)
    first, second, third = (table("", [(5, "a", x, "log/0", at)]) for x, at in ((9, 10), (1, 11), (7, 9)))
    driven = drive(
        operator, [({"events": first}, 5 * SECOND), ({"events": second}, 5 * SECOND), ({"events": third}, END)]
    )
    assert [epoch["x"].to_pylist() for epoch in driven.epochs] == [[9], [1], []]


def test_state_without_positions_is_restored_and_ordered_first():
    operator = LAST.transform.operator({"events": StreamedInput(Schema.of(TYPES), "ts")}, LAST.place)
    with connect() as con:
        con.register("events", table("", [(5, "a", 9, "log/0", 10)]))
        (before,) = rows_by_shard(con, operator.prepare("events", 0), 1)
        con.register("events", table("", [(5, "a", 1, "log/0", 11)]))
        (now,) = rows_by_shard(con, operator.prepare("events", 0), 1)
    with open_shard(operator, {"events": now}) as shard:
        shard.state.load("latest", before.drop_columns(["_source", "_position"]).append_column("_id", [[1]]), anew=True)
        out = arrow(shard.state.con, shard.advance({"events": [now]}, WatermarkAdvance(5 * SECOND, 5 * SECOND)))
    assert out["x"].to_pylist() == [1]


@pytest.mark.parametrize("definition", [FIRST, LAST])
def test_the_order_of_the_log_holds_in_buckets(definition):
    chosen = exchanged(definition, {"events": Scan(PLACED)})
    assert isinstance(chosen, Exchange)
    assert "_position" in chosen.statement
    assert "_position" not in exchanged(definition, {"events": Scan(Schema.of(TYPES))}).statement
