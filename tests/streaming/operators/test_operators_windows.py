"""Windows and groups of streams: examples in pictures, then property tests against the batch result."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from pipeline.core.definitions import Streaming
from pipeline.core.refusal import Refusal
from pipeline.core.schema import Schema
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.sql import SqlTransform
from pipeline.streaming.operators.grouped_statement import operator_of
from pipeline.streaming.operators.operator import BEGINNING, END, WatermarkAdvance
from pipeline.streaming.operators.shard import open_shard, rows_by_shard
from tests.rigs.proofs import PROOFS

EPOCH, NEW_YEAR = datetime.fromisoformat("1970-01-01"), datetime.fromisoformat("2013-01-01")
SCHEMA = Schema.of({"at": "timestamp", "k": "varchar", "x": "integer"})
ZONED = Schema.of({"at": "timestamptz", "k": "varchar", "x": "integer"})
LATENESS = 10
"""Minutes, in the property tests."""
EXAMPLES = 60 if PROOFS else 3
CLOSE, CHANGE = Streaming("close"), Streaming("change")


def minute(count):
    """Return a watermark at a minute of the new year."""
    return int((NEW_YEAR - EPOCH).total_seconds() * 1e6) + count * 60_000_000


def rows(*events, zone=None):
    """Return a block of `(minute, key)` or `(minute, key, x)`."""
    values = [(*event, 1)[:3] for event in events]
    at = [None if m is None else NEW_YEAR + timedelta(minutes=m) for m, _, _ in values]
    return pa.table(
        {
            "at": pa.array(
                [None if t is None else t.replace(tzinfo=zone) for t in at], pa.timestamp("us", zone and "UTC")
            ),
            "k": pa.array([k for _, k, _ in values], pa.string()),
            "x": pa.array([x for _, _, x in values], pa.int32()),
        }
    )


def streamed(text, streaming=CLOSE, schema=SCHEMA, max_unmerged=None):
    operator = operator_of(SqlTransform(text), "t", {"t": schema}, streaming, "at")
    assert not isinstance(operator, Refusal), operator
    if max_unmerged is not None:
        operator = replace(operator, grouping=replace(operator.grouping, max_unmerged=max_unmerged))
    return operator


def minutes_of(epochs):
    """Return the rows of each epoch, times as minutes of the new year."""
    return [
        sorted(
            tuple((v - NEW_YEAR) // timedelta(minutes=1) if isinstance(v, datetime) else v for v in row.values())
            for row in epoch.to_pylist()
        )
        for epoch in epochs
    ]


TUMBLE = "select tumble(at, interval '10 minutes') as w, k, count(*) as n from t group by all"


def test_a_window_closes_when_the_watermark_reaches_its_end(drive):
    #           0         10        20        30
    # windows   |---------|---------|---------|
    # epoch 1     a b a                              watermark 9: nothing closes
    # epoch 2              a                         watermark 10: [0, 10) closes; a row at 10 is not in it
    # epoch 3                                        idle, watermark 10: nothing
    # epoch 4                       b                watermark 20
    # the end                                        everything
    driven = drive(
        streamed(TUMBLE),
        [
            ({"t": rows((2, "a"), (4, "b"), (6, "a"))}, minute(9)),
            ({"t": rows((10, "a"))}, minute(10)),
            ({"t": rows()}, minute(10)),
            ({"t": rows((20, "b"))}, minute(20)),
            ({"t": rows()}, END),
        ],
    )
    assert minutes_of(driven.epochs) == [[], [(0, "a", 2), (0, "b", 1)], [], [(10, "a", 1)], [(20, "b", 1)]]
    assert driven.state_rows == 0


def test_out_of_order_and_late_rows(drive):
    #           0         10        20
    # windows   |---------|---------|
    # epoch 1    a           a             watermark 5
    # epoch 2   a  a                       out of order and before the watermark, but its window is open; watermark 12
    # epoch 3       !      a               late: [0, 10) has closed; 11 is in time, its window is open
    driven = drive(
        streamed(TUMBLE),
        [
            ({"t": rows((1, "a"), (12, "a"))}, minute(5)),
            ({"t": rows((0, "a"), (3, "a"))}, minute(12)),
            ({"t": rows((4, "a"), (11, "a"))}, minute(12)),
            ({"t": rows()}, END),
        ],
    )
    assert minutes_of(driven.epochs) == [[], [(0, "a", 3)], [], [(10, "a", 2)]]
    assert [row["at"] for row in driven.late] == [NEW_YEAR + timedelta(minutes=4)]


def test_future_rows_wait_and_many_windows_close_together(drive):
    #           0         10        20        90        100
    # windows   |---------|---------|---  …  -|---------|
    # epoch 1    a                              a          watermark 1: the future row waits in its own window
    # epoch 2              a         a                     watermark 95
    driven = drive(
        streamed(TUMBLE),
        [
            ({"t": rows((1, "a"), (92, "a"))}, minute(1)),
            ({"t": rows((11, "a"), (21, "a"))}, minute(95)),
            ({"t": rows()}, END),
        ],
    )
    assert minutes_of(driven.epochs) == [[], [(0, "a", 1), (10, "a", 1), (20, "a", 1)], [(90, "a", 1)]]


HOP = "select hop(at, interval '5 minutes', interval '10 minutes') as w, hop_end(at, interval '5 minutes', interval '10 minutes') as e, count(*) as n from t group by all"


def test_a_row_late_for_some_windows_counts_in_the_others(drive):
    #           -5   0    5    10   15   20
    # w(-5)     |---------|
    # w(0)           |---------|
    # w(5)                |---------|
    # w(10)                    |---------|
    # epoch 1          a  a                   watermark 10: w(-5), w(0) close
    # epoch 2          !  b                   1 is late for both its windows; 6 is late for w(0), not for w(5)
    driven = drive(
        streamed(HOP),
        [
            ({"t": rows((3, "a"), (6, "a"))}, minute(10)),
            ({"t": rows((1, "a"), (6, "b"))}, minute(10)),
            ({"t": rows()}, END),
        ],
    )
    assert minutes_of(driven.epochs) == [[(-5, 5, 1), (0, 10, 2)], [], [(5, 15, 2)]]
    assert [row["at"] for row in driven.late] == [NEW_YEAR + timedelta(minutes=1)]
    assert driven.state_rows == 0


SESSION = "select session(at, interval '10 minutes') as w, session_end(at, interval '10 minutes') as e, k, count(*) as n from t group by all"


def test_sessions_merge_and_close_a_gap_after_their_last_row(drive):
    #            0         10        20        30        40
    # key a      a    a         |a                              7 arrives later and connects 0 … 14: one session
    # epoch 1    a                a          watermark 3
    # epoch 2         a                      watermark 23: before 14 + 10, the session stays open
    # epoch 3                                watermark 24: closes
    # epoch 4      !          !       a      3 and 16 are before the watermark: late; 24 starts a new session
    driven = drive(
        streamed(SESSION),
        [
            ({"t": rows((0, "a"), (14, "a"))}, minute(3)),
            ({"t": rows((7, "a"))}, minute(23)),
            ({"t": rows()}, minute(24)),
            ({"t": rows((3, "a"), (16, "a"), (24, "a"))}, minute(24)),
            ({"t": rows()}, END),
        ],
    )
    assert minutes_of(driven.epochs) == [[], [], [(0, 24, "a", 3)], [], [(24, 34, "a", 1)]]
    assert [row["at"] for row in driven.late] == [NEW_YEAR + timedelta(minutes=number) for number in (3, 16)]
    assert driven.state_rows == 0


def test_rows_a_gap_apart_are_in_two_sessions(drive):
    #            0         10        20
    # key a      a         a                exactly one gap apart: [0, 10) and [10, 20)
    # key b      b        b                 less than a gap apart: [0, 19)
    driven = drive(streamed(SESSION), [({"t": rows((0, "a"), (10, "a"), (0, "b"), (9, "b"))}, END)])
    assert minutes_of(driven.epochs) == [[(0, 10, "a", 1), (0, 19, "b", 2), (10, 20, "a", 1)]]


def test_emit_change_emits_the_windows_that_received_rows(drive):
    #           0         10        20
    # windows   |---------|---------|
    # epoch 1    a b                       both are emitted
    # epoch 2     a         a              [0, 10) of a again, [10, 20) for the first time; b is unchanged
    # epoch 3                              watermark 10: [0, 10) closes, its rows are already emitted
    driven = drive(
        streamed(TUMBLE, CHANGE),
        [
            ({"t": rows((1, "a"), (2, "b"))}, BEGINNING),
            ({"t": rows((2, "a"), (12, "a"))}, minute(2)),
            ({"t": rows()}, minute(10)),
            ({"t": rows()}, END),
        ],
    )
    assert minutes_of(driven.epochs) == [[(0, "a", 1), (0, "b", 1)], [(0, "a", 2), (10, "a", 1)], [], []]
    assert driven.state_rows == 0


def test_groups_without_a_window_expire_after_their_ttl(drive):
    #           0         10        20        30
    # epoch 1    a b                              watermark 2
    # epoch 2          b                          watermark 12: a's last row is 11 minutes old, b's is 5
    # epoch 3     !        a b                    a starts anew; a row at 2 would expire immediately: late
    text = "select k, count(*) as n from t group by k"
    driven = drive(
        streamed(text, Streaming(ttl=timedelta(minutes=10))),
        [
            ({"t": rows((1, "a"), (2, "b"))}, minute(2)),
            ({"t": rows((7, "b"))}, minute(12)),
            ({"t": rows((2, "a"), (12, "a"), (13, "b"))}, minute(13)),
            ({"t": rows()}, END),
        ],
    )
    assert minutes_of(driven.epochs) == [[("a", 1), ("b", 1)], [("b", 2)], [("a", 1), ("b", 3)], []]
    assert [row["at"] for row in driven.late] == [NEW_YEAR + timedelta(minutes=2)]
    assert driven.state_rows == 0


def test_a_row_without_a_time_is_in_no_window(drive):
    block = (
        duckdb.sql("""select * from (values (null, 'a', 1), ('infinity'::timestamp, 'a', 1), ('-infinity', 'a', 1),
                                  ('2013-01-01', 'a', 1)) as t("at", k, x)""")
        .to_arrow_table()
        .cast(rows().schema)
    )
    for text in (TUMBLE, HOP, SESSION):
        driven = drive(streamed(text), [({"t": block}, END)])
        assert same(driven.rows, SqlTransform(text)(block).to_pylist())
        assert {row["n"] for row in driven.rows} == {1}


AGGREGATES = """count(*) as n, count(x) as c, sum(x) as s, avg(x) as m, min(x) as low, max(x) as high, stddev(x) as d,
    count(distinct x) as different, median(x) as middle, quantile_cont(x, 0.25) as q, max(x, 2) as top, histogram(x) as h,
    list(x order by x) as xs, string_agg(distinct k, '+' order by k) as ks, first(x order by x desc) as f, entropy(x) as e,
    approx_count_distinct(x) as a, bool_and(x > 2) as b, sum(x) filter (where x > 3) as big, arg_max(x, x) as am, arg_max(x, -x, 2) as least, list(distinct x order by x desc) as once, mode(k) as mo"""
STATEMENTS = {
    "tumble": f"select tumble(at, interval '15 minutes') as w, k, {AGGREGATES} from t group by all",
    "tumble of months": "select tumble(at, interval '1 month') as w, count(*) as n, max(at) as last from t group by w",
    "tumble without another key": "select tumble(at, interval '7 minutes') as w, count(*) as n from t where x > 1 or k = 'b' group by 1",
    "tumble having": "select k, tumble_end(at, interval '9 minutes') as e, sum(x) as s from t group by all having sum(x) > 4",
    "hop": "select hop(at, interval '5 minutes', interval '15 minutes') as w, k, avg(x) as m, count(distinct x) as d, mode(k) as mo, max(x, 2) as top from t group by all",
    "hop not in step": "select hop(at, interval '4 minutes', interval '10 minutes') as w, k, avg(x) as m from t group by all",
    "session": "select session(at, interval '6 minutes') as w, upper(k) as u, avg(x) as m, count(distinct x) as d, list(x order by x) as xs, min(a.at) as first from t as a group by all",
    "session of all": "select session(t.at, interval '3 minutes') as w, session_end(at, interval '3 minutes') as e, sum(x) as s from t where k <> 'c' group by w",
    "groups": f"select k, {AGGREGATES} from t group by k",
    "one group": "select count(*) as n, sum(x) as s, max(t.at) as last from t",
}
KEYS = {
    "tumble without another key": "w",
    "hop": "wk",
    "hop not in step": "wk",
    "groups": "k",
    "one group": "",
    "tumble of months": "w",
}
EVENTS = st.lists(
    st.tuples(
        st.integers(-100, 100),
        st.sampled_from("abc"),
        st.one_of(st.none(), st.integers(0, 6)),
        st.integers(0, LATENESS),
    ),
    min_size=1,
    max_size=40,
)
fixed = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    print_blob=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.mark.share(3)
@dataclass(frozen=True)
class Run:
    """Events with their delays in minutes, how they are divided into epochs, and the number of shards."""

    events: list[tuple[int, str, int | None, int]]
    cuts: list[int]
    shards: int
    max_unmerged: int | None

    @property
    def whole(self):
        """All events in one block, unordered."""
        return rows(*(event[:3] for event in self.events))

    @property
    def epochs(self):
        """The arriving rows of each epoch, and the watermark after it."""
        arriving = sorted(self.events, key=lambda event: event[0] + event[3])
        bounds = [0, *sorted(cut % (len(arriving) + 1) for cut in self.cuts), len(arriving)]
        epochs, latest = [], None
        for begin, end in itertools.pairwise(bounds):
            latest = max([event[0] for event in arriving[:end]], default=latest)
            part = [event[:3] for event in arriving[begin:end]]
            epochs.append(({"t": rows(*part)}, BEGINNING if latest is None else minute(latest - LATENESS)))
        return [*epochs, ({"t": rows()}, END)]


RUNS = st.builds(
    Run, EVENTS, st.lists(st.integers(0, 40), max_size=4), st.integers(1, 4), st.sampled_from([1, 8, None])
)


@pytest.mark.share(2)
@pytest.mark.parametrize("name", [name for name in STATEMENTS if "group" not in name])
@fixed
@given(run=RUNS)
def test_closed_windows_equal_the_batch_result(drive, name, run):
    driven = drive(streamed(STATEMENTS[name], CLOSE, max_unmerged=run.max_unmerged), run.epochs, run.shards)
    expected = SqlTransform(STATEMENTS[name])(run.whole)
    assert driven.epochs[0].schema == expected.schema
    assert not driven.late
    assert driven.state_rows == 0
    event(f"{name}: rows out before the end: {any(epoch.num_rows for epoch in driven.epochs[:-1])}")
    assert same(driven.rows, expected.to_pylist())


@pytest.mark.share(2)
@pytest.mark.parametrize("name", KEYS)
@fixed
@given(run=RUNS)
def test_the_last_row_of_each_key_equals_the_batch_result(drive, name, run):
    text = STATEMENTS[name]
    shards = run.shards if KEYS[name] else 1
    driven = drive(streamed(text, CHANGE, max_unmerged=run.max_unmerged), run.epochs, shards)
    last = {tuple(row[key] for key in KEYS[name]): row for row in driven.rows}
    assert not driven.late
    assert same(last.values(), SqlTransform(text)(run.whole).to_pylist())
    if "group" not in name:
        assert driven.state_rows == 0


@fixed
@given(run=RUNS)
def test_a_sufficient_ttl_changes_no_result_and_leaves_no_state(drive, run):
    text = "select k, count(*) as n, count(distinct x) as d, max(x) as high from t group by all"
    streaming = Streaming(ttl=timedelta(minutes=300))
    driven = drive(streamed(text, streaming, max_unmerged=run.max_unmerged), run.epochs, run.shards)
    last = {row["k"]: row for row in driven.rows}
    assert same(last.values(), SqlTransform(text)(run.whole).to_pylist())
    assert not driven.late
    assert driven.state_rows == 0


@pytest.mark.parametrize("text", [TUMBLE, HOP, SESSION])
def test_times_with_a_time_zone_have_windows(drive, text):
    blocks = [rows((1, "a"), (12, "b"), zone=UTC), rows((14, "a"), zone=UTC)]
    driven = drive(
        streamed(text, CLOSE, ZONED), [({"t": block}, minute(9)) for block in blocks] + [({"t": blocks[0][:0]}, END)]
    )
    expected = SqlTransform(text)(pa.concat_tables(blocks))
    assert driven.epochs[0].schema == expected.schema
    assert same(driven.rows, expected.to_pylist())


def test_many_states_are_merged(drive):
    blocks = [({"t": rows((n % 10, "ab"[n % 2], n))}, BEGINNING) for n in range(30)]
    for text, streaming in ((TUMBLE, CLOSE), (SESSION, CLOSE), ("select k, count(*) as n from t group by k", CHANGE)):
        driven = drive(streamed(text, streaming, max_unmerged=8), blocks)
        assert driven.state_rows <= 2 + 8


@pytest.mark.parametrize("name", ["tumble", "session"])
def test_state_restored_from_a_file_continues(tmp_path, name):
    operator = streamed(STATEMENTS[name], max_unmerged=4)
    blocks = [rows(*((n % 50, "ab"[n % 2], n % 7) for n in range(part, 90, 3))) for part in range(3)]
    with connect() as con:
        prepared = []
        for block in blocks:
            con.register("t", block)
            prepared += rows_by_shard(con, operator.prepare("t", BEGINNING), 1)
    with open_shard(operator, {"t": prepared[0]}) as shard:
        for part in prepared[:2]:
            shard.advance({"t": [part]}, WatermarkAdvance(BEGINNING, BEGINNING))
        pq.write_table(shard.state.changes("states").added, tmp_path / "states.parquet")
    with open_shard(operator, {"t": prepared[0]}) as shard:
        shard.state.add("states", f"select * exclude (_id) from '{tmp_path}/states.parquet'")
        out = arrow(shard.state.con, shard.advance({"t": [prepared[2]]}, WatermarkAdvance(BEGINNING, END)))
    assert same(out.to_pylist(), SqlTransform(STATEMENTS[name])(pa.concat_tables(blocks)).to_pylist())


def test_a_lake_table_can_be_looked_up():
    text = """select tumble(t.at, interval '10 minutes') as w, names.name, count(*) as n
              from t join names on t.k = names.k group by all"""
    names = pa.table({"k": ["a", "b"], "name": ["Anna", "Bert"]})
    schemas = {"t": SCHEMA, "names": Schema.of({"k": "varchar", "name": "varchar"})}
    operator = operator_of(SqlTransform(text), "t", schemas, CLOSE, "at")
    assert not isinstance(operator, Refusal)
    block = rows((1, "a"), (2, "b"), (3, "c"), (4, "a"))
    with connect() as con:
        con.register("t", block)
        con.register("names", names)
        prepared = rows_by_shard(con, operator.prepare("t", BEGINNING), 1)
    with open_shard(operator, {"t": prepared[0]}) as shard:
        out = arrow(shard.state.con, shard.advance({"t": prepared}, WatermarkAdvance(BEGINNING, END)))
    assert same(out.to_pylist(), SqlTransform(text)(t=block, names=names).to_pylist())


@pytest.mark.parametrize(
    ("text", "streaming", "why"),
    [
        ("select x from t", CLOSE, "it has no GROUP BY or aggregate"),
        ("select k, count(*) as n from t group by k", CLOSE, "never closes: group by tumble"),
        (SESSION, CHANGE, "may change until it closes"),
        (f"{TUMBLE} order by n", CLOSE, "ORDER needs all rows"),
        (f"{TUMBLE} limit 3", CLOSE, "LIMIT needs all rows"),
        (f"{TUMBLE} having count(*) > 1", CHANGE, "does not support HAVING, which would have to retract rows"),
        (TUMBLE, Streaming("close", timedelta(1)), "ttl= applies only to groups"),
        (TUMBLE, Streaming("change", timedelta(1)), "ttl= applies only to groups"),
        (
            "select tumble(at + interval 1 day, interval 1 hour) as w, count(*) as n from t group by w",
            CLOSE,
            "does not use the event time",
        ),
        (
            "select tumble(at, interval 1 hour) as w, count(*) as n from (select x as at from t) group by w",
            CLOSE,
            "does not use the event time",
        ),
        (
            "select tumble(at, interval 1 hour) as w, count(*) as n, reservoir_quantile(x, 0.5) as g from t group by w",
            CLOSE,
            "has no mergeable state: it cannot be streamed",
        ),
        (
            "select k, count(*) as n from u join t using (k) group by k",
            CHANGE,
            "'t' must be the first table after FROM",
        ),
        (
            "select sum(n) as n from (select tumble(at, interval 1 hour) as w, count(*) as n from t group by w)",
            CHANGE,
            "it has more than one step",
        ),
    ],
)
def test_unsupported_statements_give_a_reason(text, streaming, why):
    refusal = operator_of(SqlTransform(text), "t", {"t": SCHEMA, "u": SCHEMA}, streaming, "at")
    assert isinstance(refusal, Refusal)
    assert why in refusal.reason


def test_windows_need_an_event_time_of_a_time_type():
    dates = Schema.of({"at": "date", "k": "varchar", "x": "integer"})
    assert "set event_time=" in str(operator_of(SqlTransform(TUMBLE), "t", {"t": SCHEMA}, CLOSE, None))
    assert "has type DATE" in str(operator_of(SqlTransform(TUMBLE), "t", {"t": dates}, CLOSE, "at"))


def same(left, right):
    """Return whether both have the same rows in any order, with rounded floating-point numbers."""
    left, right = ([list(row.values()) for row in table] for table in (left, right))
    sort_key = lambda row: [f"{v + 0.0:.5g}" if isinstance(v, float) else repr(v) for v in row]  # noqa: E731
    pairs = zip(sorted(left, key=sort_key), sorted(right, key=sort_key), strict=False)
    return len(left) == len(right) and all(all(map(equal, a, b)) for a, b in pairs)


def equal(left, right):
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-9)
    return left == right


@pytest.mark.proof
@settings(max_examples=5 * EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    epochs=st.lists(
        st.tuples(st.lists(st.tuples(st.integers(0, 60), st.sampled_from("ab")), max_size=6), st.integers(0, 12)),
        min_size=1,
        max_size=8,
    ),
    shards=st.integers(1, 2),
)
def test_sessions_never_overlap_and_equal_the_batch_result(drive, epochs, shards):
    """For any late rows and watermarks: each row in time is in exactly one session, and sessions do not overlap."""
    watermark, given_epochs = 0, []
    for events, step in epochs:
        watermark += step
        given_epochs.append(({"t": rows(*events)}, minute(watermark)))
    driven = drive(streamed(SESSION), [*given_epochs, ({"t": rows()}, END)], shards)

    sessions = sorted(row for epoch in minutes_of(driven.epochs) for row in epoch)
    for key in "ab":
        spans = [(begin, end) for begin, end, k, _ in sessions if k == key]
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
    late = Counter((row["at"], row["k"]) for row in driven.late)
    all_rows = Counter((r["at"], r["k"]) for block, _ in given_epochs for r in block["t"].to_pylist())
    in_time = sorted((all_rows - late).elements())
    assert sum(n for *_, n in sessions) == len(in_time)
    batch = SqlTransform(SESSION)(t=rows(*((int((at - NEW_YEAR).total_seconds() // 60), k) for at, k in in_time)))
    assert sessions == minutes_of([batch])[0]


TIES = (
    "select {window}k, mode(x) as m, any_value(x) as a, arg_min(x, x % 2) as low, arg_max(x, x % 2) as high, "
    "list(x) as all_of from t group by all"
)


@pytest.mark.share(1)
@pytest.mark.parametrize("window", ["", "tumble(at, interval '10 minutes') as w, "])
@pytest.mark.parametrize("shards", [1, 3])
def test_ties_have_the_same_result_for_any_arrival_order_and_shards(drive, window, shards):
    events = [(minute, key, x) for minute in range(10) for key in "ab" for x in (3, 1, 2, 3, 1)]
    batch = SqlTransform(TIES.format(window=window))(t=rows(*events))
    answers = []
    for seed in range(4):
        shuffled = random.Random(seed).sample(events, len(events))  # noqa: S311 - a reproducible seed
        blocks = [shuffled[number::3] for number in range(3)]
        operator = streamed(TIES.format(window=window), CLOSE if window else CHANGE)
        driven = drive(
            operator, [*(({"t": rows(*block)}, BEGINNING) for block in blocks), ({"t": rows()}, END)], shards
        )
        last = {row["k"]: row for epoch in driven.epochs for row in epoch.to_pylist()}
        answers.append([last[key] for key in sorted(last)])
    assert answers == [sorted(batch.to_pylist(), key=lambda row: row["k"])] * 4
