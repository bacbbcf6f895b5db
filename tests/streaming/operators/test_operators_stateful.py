from __future__ import annotations

import datetime as dt
import sys

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import stateful
from pipeline.core.errors import DefinitionError
from pipeline.core.schema import Schema
from pipeline.kernel.engine import connect, schema_of
from pipeline.streaming.operators.batch_form import StreamedInput
from pipeline.streaming.operators.operator import END
from pipeline.streaming.operators.state_evolution import evolve

SECOND = 1_000_000
COLUMNS = pa.schema([("ts", pa.timestamp("us", "UTC")), ("user", pa.string()), ("x", pa.int64())])
SCHEMA = Schema.of({"ts": "timestamptz", "user": "varchar", "x": "bigint"})
ROW = st.tuples(st.integers(0, 40), st.sampled_from(["a", "b", None]), st.integers(0, 2))
GAP, TTL = 3, 7


def time(at):
    return None if at is None else dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=at)


def seconds(value):
    return None if value is None else round(value.timestamp())


def table(_name, rows):
    return pa.table(
        [[time(row[0]) for row in rows], [row[1] for row in rows], [row[2] for row in rows]], schema=COLUMNS
    )


def step(known, rows, fired):
    """The behaviour for one key: count and add up rows; emit a row after GAP; delete the state at 12."""
    if fired:
        return ({**known, "said": known["said"] + 1}, [("quiet", known["count"])]) if known["said"] < 1 else (known, [])
    total = known["total"] + sum(x for _, x in rows)
    now = {"count": known["count"] + len(rows), "total": total, "said": known["said"], "timer": rows[-1][0] + GAP}
    return (None if total > 5 else now), [("rows", now["count"])] * len(rows)


STATE = pa.schema(
    [
        ("user", pa.string()),
        ("count", pa.int64()),
        ("total", pa.int64()),
        ("said", pa.int32()),
        ("_timer", pa.timestamp("us", "UTC")),
    ]
)
OUT = pa.schema([("user", pa.string()), ("what", pa.string()), ("count", pa.int64())])


@stateful(
    key="user",
    event_time="ts",
    state={"count": "bigint default 0", "total": "bigint default 0", "said": "integer default 0"},
    schema={"user": "varchar", "what": "varchar", "count": "bigint"},
    ttl="7 seconds",
)
def activity(state: pa.Table, clicks: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Emit the activity of users, and when it ends."""
    states, out = [], []
    for known in state.to_pylist():
        rows = [(seconds(row["ts"]), row["x"]) for row in clicks.to_pylist() if row["user"] == known["user"]]
        before = {**known, "timer": seconds(known["_timer"])}
        now, emitted = step(before, rows, not rows)
        out += [(known["user"], *row) for row in emitted]
        if now is not None:
            states.append({**known, **now, "_timer": time(now["timer"])})
    return pa.Table.from_pylist(states, schema=STATE), pa.Table.from_pylist(
        [dict(zip(OUT.names, row, strict=True)) for row in out], schema=OUT
    )


def plain(rows):
    """The reference implementation: key by key, with event times and timers in order."""
    out = []
    for user in ("a", "b", None):
        mine = sorted((at, x) for at, key, x in rows if key == user)
        instants = sorted({at for at, _ in mine})
        known, seen = None, None
        for at in [*instants, None]:
            due = None if known is None else known["timer"]
            if due is not None and due <= seen + TTL and (at is None or due < at):
                now, emitted = step(known, [], fired=True)
                out += [(user, *row) for row in emitted]
                known = {**now, "timer": None}
            if at is None:
                continue
            if known is None or at > seen + TTL:
                known = {"count": 0, "total": 0, "said": 0, "timer": None}
            known, emitted = step(known, [row for row in mine if row[0] == at], fired=False)
            seen = at
            out += [(user, *row) for row in emitted]
    return sorted(out, key=repr)


def operator(definition, name="clicks"):
    return definition.transform.operator({name: StreamedInput(SCHEMA, "ts")}, definition.place)


def values(rows):
    return sorted((tuple(row.values()) for row in rows), key=repr)


def test_the_result_of_a_function_does_not_depend_on_batches(drive, chopped, proof):
    @proof
    @given(chopped({"clicks": ROW}))
    def holds(case):
        expected = plain(case.rows["clicks"])
        driven = drive(operator(activity), case.blocks(table), case.shards)
        assert values(driven.rows) == expected
        assert values(activity(table("", case.rows["clicks"])).to_pylist()) == expected
        assert not driven.late
        assert driven.state_rows == 0

    holds()


def test_a_batched_function_gets_rows_up_to_its_timer_and_to_a_gap_of_its_time_to_live(drive):
    # rows    1 2 4  |timer 6|  7 8           20       ttl 7: at 20 the key is new
    # calls   1-4      6        7-8 (timer 6)   20
    calls = []

    @stateful(
        key="user",
        event_time="ts",
        state={"count": "bigint default 0"},
        schema={"n": "bigint"},
        ttl="7 seconds",
        batched=True,
    )
    def counted(state: pa.Table, clicks: pa.Table) -> tuple[pa.Table, pa.Table]:
        calls.append(([seconds(at) for at in clicks["ts"].to_pylist()], state["count"].to_pylist()))
        first = calls[0] is calls[-1]
        now = pa.table({"user": state["user"], "count": [c + clicks.num_rows for c in state["count"].to_pylist()]})
        timer = pa.array([time(6) if first else None] * now.num_rows, COLUMNS.field(0).type)
        return now.append_column("_timer", timer), pa.table({"n": pa.array([], pa.int64())})

    epochs = [
        ({"clicks": table("", [(2, "a", 0), (1, "a", 0), (4, "a", 0)])}, 5 * SECOND),
        ({"clicks": table("", [(20, "a", 0), (8, "a", 0), (7, "a", 0)])}, END),
    ]
    drive(operator(counted), epochs)
    assert calls == [([1, 2, 4], [0]), ([], [3]), ([7, 8], [3]), ([20], [0])]


def test_state_expires_after_its_time_to_live(drive):
    epochs = [({"clicks": table("", [(1, "a", 0)])}, 9 * SECOND), ({"clicks": table("", [])}, 9 * SECOND)]
    assert drive(operator(activity), [epochs[0]]).state_rows == 0
    assert drive(operator(activity), [({"clicks": table("", [(1, "a", 0)])}, 8 * SECOND)]).state_rows == 1


def broken(returns):
    @stateful(key="user", event_time="ts", state={"n": "bigint"}, schema={"n": "bigint"}, ttl="1 day")
    def odd(state: pa.Table, clicks: pa.Table) -> tuple[pa.Table, pa.Table]:
        return returns(state, clicks)

    return odd


KEPT = pa.table({"user": ["a"], "n": [1]})
NONE = pa.table({"n": pa.array([], pa.int64())})


@pytest.mark.parametrize(
    ("returns", "message"),
    [
        (
            lambda _s, c: c["nowhere"],
            r"stateful 'odd' raised KeyError: got .*nowhere.*test_operators_stateful.py:\d+\)",
        ),
        (lambda _s, _c: sys.exit(), r"stateful 'odd' raised SystemExit"),
        (lambda _s, c: c, "stateful 'odd' must return a tuple of two Arrow tables"),
        (lambda _s, _c: (KEPT.drop(["n"]), NONE), "returned states without the column 'n'"),
        (lambda _s, _c: (KEPT, NONE.rename_columns(["m"])), "returned rows without the column 'n'"),
        (
            lambda s, _c: (s.append_column("o", s["n"]), NONE),
            "returned states with the column 'o', which is not declared",
        ),
        (
            lambda _s, _c: (KEPT.set_column(1, "n", [["x"]]), NONE),
            "returned states that cannot be cast to the declared types",
        ),
        (
            lambda _s, _c: (pa.concat_tables([KEPT, KEPT]), NONE),
            "states of unknown keys, or several states of one key",
        ),
        (lambda _s, _c: (KEPT.set_column(0, "user", [["z"]]), NONE), "1 states of 1 keys, 1 of unknown keys"),
    ],
)
def test_invalid_results_of_a_function_are_rejected(returns, message):
    with pytest.raises(DefinitionError, match=message):
        broken(returns)(table("", [(1, "a", 0)]))


def test_invalid_definitions_are_rejected():
    words = {"key": "user", "event_time": "ts", "schema": {"n": "bigint"}, "ttl": "1 day"}
    with pytest.raises(
        DefinitionError, match="stateful 'alone' must have the parameters state and one input: got clicks"
    ):

        @stateful(state={}, **words)
        def alone(clicks: pa.Table) -> None: ...

    with pytest.raises(DefinitionError, match="stateful 'twice' cannot have a state column 'user'"):

        @stateful(state={"user": "varchar"}, **words)
        def twice(state: pa.Table, clicks: pa.Table) -> None: ...

    with pytest.raises(DefinitionError, match="needs at least one column in key= and in schema="):

        @stateful(state={}, **(words | {"schema": {}}))
        def nothing(state: pa.Table, clicks: pa.Table) -> None: ...


def test_state_is_converted_for_new_columns_and_wider_types():
    before = Schema.of({"a": "integer", "b": "varchar", "gone": "date"})
    now = Schema.of({"b": "varchar", "a": "bigint", "c": "double", "d": "integer"})
    casts = evolve(before, now, {"d": "7"}, activity.place)
    with connect() as con:
        states = con.execute(
            f"select {', '.join(casts)} from (select 1 as a, 'x' as b, current_date as gone)"
        ).fetchall()
    assert states == [("x", 1, None, 7)]
    with pytest.raises(
        DefinitionError, match="column 'a' cannot be converted to its new type: got BIGINT before, INTEGER now"
    ):
        evolve(Schema.of({"a": "bigint"}), Schema.of({"a": "integer"}), {}, activity.place)


def test_state_is_kept_but_not_for_a_different_key():
    streamed = operator(activity)
    with connect() as con:
        con.execute('create table _arrived_clicks as select null::struct("user" varchar) as _key, 0::ubigint as _hash')
        con.execute(f"create table states as {streamed.state['states']}")
        before = schema_of(con, "from states")
        assert schema_of(con, f"select {', '.join(streamed.evolved(before))} from states") == before
    other = Schema((type(before.columns[0])("_key", "STRUCT(id BIGINT)"), *before.columns[1:]))
    with pytest.raises(DefinitionError, match="'_key' cannot be converted to its new type"):
        streamed.evolved(other)
