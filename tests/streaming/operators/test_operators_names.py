"""Columns may have any name that DuckDB allows, including internal names; the result equals that with plain names."""

from __future__ import annotations

import datetime as dt
import json

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import deduplicate, event, followed_by, not_followed_by, pattern, sql, stateful
from pipeline.core.definitions import Streaming
from pipeline.core.errors import Place
from pipeline.core.refusal import Refusal
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.types import from_arrow
from pipeline.streaming.operators.batch_form import StreamedInput
from pipeline.streaming.operators.grouped_statement import operator_of
from pipeline.streaming.operators.joins import join_operator
from pipeline.streaming.operators.operator import END

PLAIN = ("k", "at", "v", "w")
INSIDE = [
    "_key",
    "_at",
    "_last",
    "_id",
    "_since",
    "_hash",
    "_n",
    "_i",
    "_w",
    "_seen",
    "_due",
    "_gap",
    "_run",
    "_next",
    "_ends",
    "_fires",
    "_until",
    "_is_new",
    "_taken",
    "_began",
    "_began_i",
    "_last_i",
    "_direct",
    "_step",
    "_hit",
    "_kind",
    "_c",
    "_from",
    "_to",
    "_level",
    "_k0",
    "_k1",
    "_a0",
    "_row",
    "_why",
    "_back",
    "_hops",
    "_in0",
    "_in1",
    "_new",
    "_session",
    "_b0",
    "_end",
    "_parts",
    "_start",
    "_is_first",
    "_rank",
    "_of",
    "previous",
    "low",
    "high",
    "c_k",
    "c_v",
    "c__at",
    "t",
    "u",
    "_m",
    "_none",
    "states",
    "waiting",
    "r",
    "s",
]
ODD = ["a b", 'say "so"', "ünïcödé", "SELECT", "Group", "1", "*", "x.y", "'", "--", "日", " "]
NAMES = st.permutations(INSIDE + ODD).map(lambda names: tuple(names[:4]))
WORST = (
    ("_key", "_at", "_last", "_id"),
    ("_id", "_hash", "_since", "_n"),
    ("k", "_in1", "_session", "_new"),
    ("_hops", "_back", "_k0", "_a0"),
    ("_from", "_until", "_level", "_end"),
    ("low", "high", "previous", "_row"),
)
"""Drawn first."""
PLACE = Place("here")


def at(second):
    return dt.datetime.fromisoformat("2026-01-01") + dt.timedelta(seconds=second)


ROWS = [(second % 3, at(second), second * 7 % 11, f"r{second}") for second in (0, 1, 2, 4, 5, 5, 7, 9, 12, 13, 17, 21)]
BLOBS = [(bytes([k, 255, 0]), *rest) for k, *rest in ROWS]


def table(names, rows):
    return pa.table({name: [row[n] for row in rows] for n, name in enumerate(names)})


def texts(rows):
    return sorted(json.dumps([str(value) for value in row.values()]) for row in rows)


def first(names):
    k, time, *_ = names
    return deduplicate("t", key=k, event_time=time, within="4 seconds")


def once(names):
    return deduplicate("t", key=names[0], event_time=names[1])


def last(names):
    return deduplicate("t", key=names[0], event_time=names[1], keep="last")


def alone(step, name):
    """A column of a step's row as its condition may refer to it: unqualified, unless an event has that name."""
    return f"{step}.{quoted(name)}" if name in {"low", "high", "no", "previous"} else quoted(name)


def matches(names):
    k, time, v, w = names
    return pattern(
        event("low", "t", f"{alone('low', v)} < 6 and low.{quoted(w)} is not null"),
        not_followed_by("no", "t", f"no.{quoted(v)} = 10"),
        followed_by(
            "high", "t", f"high.{quoted(v)} > low.{quoted(v)} and coalesce(previous.{quoted(v)}, 0) >= 0", times=2
        ),
        by=k,
        within="20 seconds",
        event_time=time,
        select={v: f"low.{quoted(v)}", w: f"high[-1].{quoted(w)}"},
    )


def counted(names):
    k, time, v, w = names

    @stateful(
        key=k,
        event_time=time,
        state={v: "bigint default 0", w: "varchar"},
        schema={k: "varchar", v: "bigint"},
        ttl="8 seconds",
    )
    def counts(state: pa.Table, t: pa.Table) -> tuple[pa.Table, pa.Table]:
        new = t.group_by(k).aggregate([([], "count_all")])
        both = state.select([k, v]).join(new.rename_columns(["__k", "__n"]), k, "__k")
        n = pc.add(both.column(v), pc.fill_null(both.column("__n"), 0))
        nothing = pa.nulls(both.num_rows, pa.string())
        out = pa.table({k: pc.cast(both.column(k), pa.string()), v: n})
        return pa.table({k: both.column(k), v: n, w: nothing}), out

    return counts


DEFINED = {"first": first, "once": once, "last": last, "matches": matches, "counted": counted}


def grouped(text):
    def of(names):
        k, time, v, w = map(quoted, names)
        return text.format(k=k, at=time, v=v, w=w)

    return of


SQL = {
    "tumble": grouped("select tumble({at}, interval '5 seconds') as {at}, {k}, sum({v}) as {v}, max({w}) as {w} from t group by all"),
    "hop": grouped("select hop({at}, interval '2 seconds', interval '6 seconds') as x, {k}, sum({v}) as {v} from t where {w} > '' group by all"),
    "session": grouped("select session({at}, interval '3 seconds') as x, {k}, sum({v}) as {v}, max({w}) as y from t group by all"),
}  # fmt: skip


def in_three(rows, names):
    """Epochs of four rows, each with its watermark."""
    micros = [int(row[1].replace(tzinfo=dt.UTC).timestamp() * 1e6) for row in rows]
    return [({"t": table(names, rows[n : n + 4])}, micros[n + 3] if n < 8 else END) for n in (0, 4, 8)]


@pytest.mark.share(1)
@pytest.mark.parametrize("name", DEFINED)
def test_operators_take_columns_of_any_name(name, drive, proof):
    make, rows = DEFINED[name], ROWS

    def streamed(names):
        given_ = table(names, rows)
        inputs = {"t": StreamedInput(from_arrow(given_.schema), names[1])}
        operator = make(names).transform.operator(inputs, PLACE)
        return texts(drive(operator, in_three(rows, names), shards=2).rows), texts(make(names)(given_).to_pylist())

    expected = streamed(PLAIN)
    assert expected[0]
    if name != "last":
        assert expected[0] == expected[1]

    @proof
    @given(NAMES)
    def any_name(names):
        assert streamed(names) == expected

    for names in WORST:
        assert streamed(names) == expected, names
    any_name()


@pytest.mark.share(1)
@pytest.mark.parametrize("name", SQL)
def test_windows_take_columns_of_any_name(name, drive, proof):
    def streamed(names):
        text = SQL[name](names)
        given_ = table(names, ROWS)
        definition = sql(text)
        operator = operator_of(
            definition.transform, "t", {"t": from_arrow(given_.schema)}, Streaming("close"), names[1]
        )
        assert not isinstance(operator, Refusal), (operator, text)
        return texts(drive(operator, in_three(ROWS, names), shards=2).rows), texts(definition(given_).to_pylist())

    expected = streamed(PLAIN)
    assert expected[0] == expected[1]

    @proof
    @given(NAMES)
    def any_name(names):
        assert streamed(names) == expected

    for names in WORST:
        assert streamed(names) == expected, names
    any_name()


@pytest.mark.proof
@pytest.mark.parametrize("side", ["", "left", "full"])
def test_joins_take_columns_of_any_name(side, drive, proof):
    def streamed(names):
        k, time, v, _ = map(quoted, names)
        text = (
            f"select l.{k} as a, l.{v} as b, {quoted(names[3])} as c, r.v2 as d from t l {side} join u r "
            f"on l.{k} = r.{k} and r.{time} between l.{time} and l.{time} + interval 4 seconds"
        )
        left = names
        right = (names[0], names[1], "v2", "w2")
        tables = {"t": table(left, ROWS), "u": table(right, ROWS[::2])}
        inputs = {name: StreamedInput(from_arrow(rows.schema), names[1]) for name, rows in tables.items()}
        definition = sql(text)
        operator = join_operator(definition.transform.tree, inputs)
        assert not isinstance(operator, Refusal), operator
        half = {name: rows.slice(0, 5) for name, rows in tables.items()}, 1_767_225_600_000_000
        rest = {name: rows.slice(5) for name, rows in tables.items()}, END
        return texts(drive(operator, [half, rest], shards=2).rows), texts(definition(**tables).to_pylist())

    expected = streamed(PLAIN)
    assert expected[0] == expected[1]

    @proof
    @given(NAMES.filter(lambda names: not {"v2", "w2", "l", "r"} & {name.lower() for name in names}))
    def any_name(names):
        assert streamed(names) == expected

    for names in WORST:
        assert streamed(names) == expected, names
    any_name()


@pytest.mark.share(2)
@pytest.mark.parametrize("name", ["first", "once", "last", "matches"])
def test_keys_may_be_bytes(name, drive):
    rows = table(PLAIN, BLOBS)
    definition = DEFINED[name](PLAIN)
    operator = definition.transform.operator({"t": StreamedInput(from_arrow(rows.schema), "at")}, PLACE)

    out = drive(operator, in_three(BLOBS, PLAIN), shards=2).rows

    plain = DEFINED[name](PLAIN).transform.operator(
        {"t": StreamedInput(from_arrow(table(PLAIN, ROWS).schema), "at")}, PLACE
    )
    expected = drive(plain, in_three(ROWS, PLAIN), shards=2).rows
    assert len(out) == len(expected) > 0
    assert {row["k"][0] for row in out} == {row["k"] for row in expected}


def test_the_timer_column_cannot_be_declared():
    with pytest.raises(Exception, match="cannot have a state column '_timer'"):
        stateful(key="_timer", event_time="at", state={}, schema={"k": "bigint"}, ttl="1 day")(
            lambda state, t: (state, t)
        )
