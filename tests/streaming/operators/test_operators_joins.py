from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import sql
from pipeline.core.refusal import Refusal
from pipeline.core.schema import Schema
from pipeline.kernel.sql import parse
from pipeline.streaming.operators.batch_form import StreamedInput
from pipeline.streaming.operators.joins import IntervalJoin, join_operator
from pipeline.streaming.operators.operator import END

SECOND = 1_000_000
TYPES = {
    "orders": pa.schema([("ts", pa.timestamp("us", "UTC")), ("k", pa.int32()), ("x", pa.int64())]),
    "payments": pa.schema([("paid_at", pa.timestamp("us")), ("k", pa.int64()), ("y", pa.int64())]),
}
INPUTS = {
    "orders": StreamedInput(Schema.of({"ts": "timestamptz", "k": "integer", "x": "bigint"}), "ts"),
    "payments": StreamedInput(Schema.of({"paid_at": "timestamp", "k": "bigint", "y": "bigint"}), "paid_at"),
}
ROW = st.tuples(st.integers(0, 30), st.sampled_from([1, 2, None]), st.integers(0, 3))
NEAR = "p.paid_at between o.ts - interval '2 seconds' and o.ts + interval 5 seconds"


def table(name, rows):
    schema = TYPES[name]
    times = pa.array([None if row[0] is None else row[0] * SECOND for row in rows], pa.int64()).cast(
        schema.field(0).type
    )
    return pa.table([times, [row[1] for row in rows], [row[2] for row in rows]], schema=schema)


def counted(rows):
    return Counter(repr(list(row.items())) for row in rows)


def operator(text):
    join = join_operator(parse(text), INPUTS)
    assert isinstance(join, IntervalJoin), join
    return join


@pytest.mark.share(2)
@pytest.mark.parametrize(
    "statement",
    [
        f"select o.*, p.y, o.x + p.y as total from orders o SIDE join payments p on o.k = p.k and {NEAR} and x <> p.y",
        f"select ts, o.x, coalesce(p.y, -1) as y from orders as o SIDE join payments p on {NEAR} where x > 0 or x is null",
        (
            "select * exclude (y, k) from orders SIDE join payments on orders.k + 1 = payments.k "
            "and paid_at - ts < interval 3 seconds and ts <= paid_at + interval '1 second'"
        ),
        "select o.ts, p.paid_at, p.y from orders o SIDE join payments p on p.paid_at = o.ts + interval 3 seconds",
        (
            "select o.ts, p.paid_at from orders o SIDE join payments p "
            "on o.k = p.k and p.paid_at >= o.ts - interval 6 seconds and p.paid_at < o.ts - interval 2 seconds"
        ),
    ],
)
def test_a_join_of_streams_is_the_join_of_all_rows(drive, chopped, proof, statement):
    sides = {side: statement.replace("SIDE", side) for side in ("", "left", "right", "full")}
    joins = {text: operator(text) for text in sides.values()}

    @proof
    @given(chopped({"orders": ROW, "payments": ROW}), st.sampled_from(list(joins)))
    def holds(case, text):
        driven = drive(joins[text], case.blocks(table), case.shards)
        expected = sql(text)(**{name: table(name, rows) for name, rows in case.rows.items()})
        assert not driven.late
        assert counted(driven.rows) == counted(expected.to_pylist())
        assert driven.state_rows == 0

    holds()


def test_conditions_of_an_inner_join_may_be_in_where(drive):
    joined = operator(f"select x, y from orders o, payments p where (o.k = p.k and {NEAR}) and y > 1")
    assert joined.bounds == (-2 * SECOND, 5 * SECOND)
    assert joined.keys == (("(k)::BIGINT", "(k)::BIGINT"),)
    blocks = {"orders": table("orders", [(3, 1, 7)]), "payments": table("payments", [(1, 1, 2), (8, 1, 1), (9, 1, 3)])}
    assert drive(joined, [(blocks, END)]).rows == [{"x": 7, "y": 2}]


def test_using_distributes_by_its_columns(drive):
    joined = operator("select * from orders join payments using (k) where paid_at between ts and ts + interval 1 hour")
    assert len(joined.keys) == 1
    blocks = {"orders": table("orders", [(3, 1, 7)]), "payments": table("payments", [(1, 1, 2), (8, 1, 1), (9, 2, 3)])}
    out = drive(joined, [(blocks, END)], 2).rows
    assert [(row["k"], row["x"], row["y"]) for row in out] == [(1, 7, 1)]


def test_an_unmatched_row_is_emitted_when_it_expires(drive):
    #  order at 10 s matches payments from 8 s to 15 s
    #          8----10=============15
    #  watermark                   15 | a payment of 15 s may still arrive;  16: emitted without a match
    #  order at 11 s without a key: emitted without a match too, at its own time
    joined = operator(f"select o.ts, y from orders o left join payments p on o.k = p.k and {NEAR}")
    nothing = table("payments", [])
    epochs = [
        ({"orders": table("orders", [(10, 1, 0), (11, None, 0), (None, 1, 0)]), "payments": nothing}, 15 * SECOND),
        ({"orders": table("orders", []), "payments": nothing}, 15 * SECOND + 1),
        ({"orders": table("orders", []), "payments": table("payments", [(14, 1, 5)])}, 16 * SECOND + 1),
    ]
    driven = drive(joined, epochs)
    assert [[row["ts"] and row["ts"].second for row in epoch.to_pylist()] for epoch in driven.epochs] == [
        [None],
        [10],
        [11],
    ]
    assert [row["y"] for row in driven.late] == [5]
    assert driven.state_rows == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("select * from orders o join payments p on o.k = p.k", "p.paid_at has no lower bound relative to o.ts"),
        ("select * from orders o join payments p on o.k = p.k and p.paid_at >= o.ts", "has no upper bound"),
        (
            "select * from orders o join payments p on p.paid_at between o.ts - interval 1 month and o.ts",
            "has no lower bound",
        ),
        (
            f"select o.k, count(*) from orders o join payments p on {NEAR} group by all",
            "it combines GROUP BY with a join",
        ),
        (
            f"select count(*) from orders o join payments p on {NEAR}",
            "it has a subquery, a window function or an aggregate",
        ),
        (f"select o.k from orders o join payments p on {NEAR} order by 1", "it combines ORDER BY with a join"),
        (f"select 1 from orders o join payments p on {NEAR} union all select 2", "it is not a single SELECT"),
        (f"select o.k from orders o semi join payments p on {NEAR}", "SEMI JOIN of streams is not supported"),
        (f"select o.k from orders o asof join payments p on {NEAR}", "ASOF JOIN of streams is not supported"),
        (f"select o.k from orders o join payments p on {NEAR} join orders q on true", "it joins 3 relations"),
        ("select 1 from orders o join orders p on p.ts = o.ts", "'orders' is joined with itself"),
        (f"select 1 from orders o join pages p on {NEAR}", "'pages' is not streamed"),
        (
            "select 1 from orders o(a, b, c) join payments p on p.paid_at = o.a",
            "it has column aliases in FROM",
        ),
        ("select k from orders", "it joins 1 relations"),
    ],
)
def test_unsupported_statements_give_a_reason(text, reason):
    refusal = join_operator(parse(text), INPUTS)
    assert isinstance(refusal, Refusal)
    assert reason in refusal.reason
