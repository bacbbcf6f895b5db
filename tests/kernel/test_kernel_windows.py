"""tumble, hop and session over all rows, compared with a reference in Python."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import hop, session, sql, tumble, window
from pipeline.core.errors import DefinitionError
from pipeline.kernel.planner.strategy import choose_strategy
from pipeline.kernel.sql import SqlTransform, parse
from pipeline.kernel.windows.sql import in_plain_sql
from tests.rigs.proofs import examples

ALIGNED = datetime.fromisoformat("2000-01-03")
NEW_YEAR = datetime.fromisoformat("2013-01-01")
MINUTE = timedelta(minutes=1)


def table_of(events, zone=None):
    """Return the rows of `(minute after 2012's end, key, x)`."""
    at = [None if m is None else NEW_YEAR.replace(tzinfo=zone) + m * MINUTE for m, _, _ in events]
    return pa.table(
        {
            "ts": pa.array(at, pa.timestamp("us", zone and "UTC")),
            "k": pa.array([k for _, k, _ in events], pa.string()),
            "x": pa.array([x for _, _, x in events], pa.int64()),
        }
    )


def hops(at, slide, size):
    """Return the starts of the windows that contain a time."""
    first = ALIGNED + (at - ALIGNED) // slide * slide
    return [first - n * slide for n in range(size // slide + 1) if first - n * slide + size > at]


def sessions(times, gap):
    """Return the start and the end of each session."""
    windows = []
    for at in sorted(times):
        if not windows or at >= windows[-1][1]:
            windows.append([at, at])
        windows[-1][1] = at + gap
    return windows


def answer(text, events, zone=None):
    result = sql(text)(table_of(events, zone))
    rows = [
        tuple(v.replace(tzinfo=None) if isinstance(v, datetime) else v for v in row.values())
        for row in result.to_pylist()
    ]
    return sorted(rows, key=repr)


EVENTS = st.lists(st.tuples(st.integers(-60, 60), st.sampled_from(["a", "b", None]), st.integers(0, 5)), max_size=30)
SPANS = st.sampled_from([1, 3, 7, 15, 24 * 60])


@settings(max_examples=examples(8, 60))
@given(events=EVENTS, spans=st.tuples(SPANS, SPANS).map(sorted), zoned=st.booleans())
def test_tumble_and_hop_match_the_reference(events, spans, zoned):
    #  slide |--|      windows start every slide, aligned to Monday, 3 January 2000
    #  size  |-------|
    #           |-------|
    slide, size = (minutes * MINUTE for minutes in spans)
    expected = {}
    for minute, key, x in events:
        for begin in hops(NEW_YEAR + minute * MINUTE, slide, size):
            n, s = expected.get((begin, begin + size, key), (0, 0))
            expected[begin, begin + size, key] = (n + 1, s + x)
    words = f"(ts, interval '{spans[0]} minutes', interval '{spans[1]} minutes')"
    text = f"select hop{words} as w, hop_end{words} as e, k, count(*) as n, sum(x) as s from t group by all"
    zone = UTC if zoned else None
    rows = sorted(((*key, *values) for key, values in expected.items()), key=repr)
    assert answer(text.replace("sum(x)", "sum(x)::bigint"), events, zone) == rows
    if slide == size:
        words = f"(ts, interval '{spans[0]} minutes')"
        text = f"select tumble{words} as w, tumble_end{words} as e, k, count(*) as n, sum(x)::bigint as s from t group by all"
        assert answer(text, events, zone) == rows


@settings(max_examples=examples(8, 60))
@given(events=EVENTS, gap=st.sampled_from([1, 4, 10]))
def test_sessions_match_the_reference(events, gap):
    expected = []
    for key in {k for _, k, _ in events}:
        mine = [(NEW_YEAR + m * MINUTE, x) for m, k, x in events if k == key]
        for begin, end in sessions([at for at, _ in mine], gap * MINUTE):
            inside = [x for at, x in mine if begin <= at < end]
            expected.append((begin, end, key, len(inside), sum(inside)))
    words = f"(ts, interval '{gap} minutes')"
    text = f"select session{words} as w, session_end{words} as e, k, count(*) as n, sum(x)::bigint as s from t group by all"
    assert answer(text, events) == sorted(expected, key=repr)


THREE = [(1, "a", 1), (2, "a", 2), (31, "b", 3), (None, "b", 9)]


@pytest.mark.parametrize(
    "text",
    [
        "select tumble(ts, interval '30 minutes') as w, k, count(*) as n from t group by all",
        "select tumble(ts, interval '30 minutes') as w, k, count(*) as n from t group by 1, 2",
        "select tumble(ts, interval '30 minutes') as w, k, count(*) as n from t group by w, k",
        "select TUMBLE(ts, to_minutes(30)) as w, k, count(*) as n from t as a group by tumble(a.ts, '30 minutes'), k",
        "select hop(ts, interval '30 minutes', interval '30 minutes') as w, k, count(*) as n from t group by all order by 1",
        "with c as (select * from t) select tumble(ts, interval '30 minutes') as w, k, count(*) as n from c group by all",
        "select w, k, n from (select tumble(ts, interval '30 minutes') as w, k, count(*) as n from t group by all)",
    ],
)
def test_window_can_be_written_like_any_grouping_key(text):
    begin = NEW_YEAR
    assert answer(text, THREE) == [(begin, "a", 2), (begin + 30 * MINUTE, "b", 1)]


def test_a_window_can_be_used_in_all_clauses_after_grouping():
    text = """
        with named as (select 'a' as k, 'Anna' as name union all select 'b', 'Bert')
        select upper(named.name) as name, session_end(t.ts, interval '10 minutes') - session(t.ts, interval '10 minutes') as lasts,
               list(x * 2 order by x) as xs
        from t join named on t.k = named.k where x < 9
        group by session(t.ts, interval '10 minutes'), named.name
        having count(*) > 0 and session(t.ts, interval '10 minutes') is not null
        order by session_end(t.ts, interval '10 minutes') desc, name limit 5
    """
    rows = sql(text)(table_of(THREE)).to_pylist()
    assert [(row["name"], row["xs"]) for row in rows] == [("BERT", [6]), ("ANNA", [2, 4])]
    assert SqlTransform(text).inputs == ("t",)


def test_an_unnamed_window_column_is_named_after_its_function():
    text = "select tumble(ts, interval '1 month'), count(*) as n from t group by 1"
    assert sql(text)(table_of(THREE)).to_pylist() == [{"tumble": NEW_YEAR, "n": 3}]


def test_dates_have_windows_of_days():
    days = pa.table({"d": pa.array([date(2013, 1, 1), date(2013, 1, 6), date(2013, 1, 7)])})
    weeks = sql("select tumble(d, interval '7 days') as w, count(*) as n from t group by all order by w")
    assert weeks(days).to_pylist() == [{"w": date(2012, 12, 31), "n": 2}, {"w": date(2013, 1, 7), "n": 1}]
    runs = sql("select session(d, interval '2 days') as w, count(*) as n from t group by all order by w")
    assert runs(days).to_pylist() == [{"w": date(2013, 1, 1), "n": 1}, {"w": date(2013, 1, 6), "n": 2}]


@pytest.mark.parametrize(
    ("word", "strategy"),
    [("tumble(ts, interval '1 hour')", "partial"), ("hop(ts, interval '1 hour', interval '1 day')", "partial")],
)
def test_tumble_and_hop_use_partial_aggregation(word, strategy):
    assert (
        choose_strategy(SqlTransform(f"select {word} as w, sum(x) as s from t group by all").tree).strategy == strategy
    )


def test_statement_without_windows_is_not_rewritten():
    text = "select  x  from t -- as it is"
    assert SqlTransform(text).sql == text
    assert SqlTransform(text).window is None


def test_fingerprint_depends_on_the_length_of_a_window_not_its_spelling():
    text = "select tumble(ts, interval '{}') as w, count(*) as n from t group by all"
    hour = SqlTransform(text.format("1 hour"))
    assert hour.fingerprint == SqlTransform(text.format("60 minutes")).fingerprint
    assert hour.fingerprint != SqlTransform(text.format("61 minutes")).fingerprint
    assert hour.window is not None
    assert (hour.window.kind, hour.window.size_us) == ("tumble", 3_600_000_000)


TUMBLE = "tumble(ts, interval '1 hour')"


@pytest.mark.parametrize(
    ("select", "match"),
    [
        (f"{TUMBLE} as w from t", "the window TUMBLE.* requires GROUP BY"),
        (f"k from t where {TUMBLE} > now() group by k", "cannot be used before rows are grouped: got WHERE"),
        (f"{TUMBLE} as w, max({TUMBLE}) as m from t group by all", r"before rows are grouped: got MAX\("),
        (
            f"{TUMBLE} as w, count(*) over (order by {TUMBLE}) as m from t group by w",
            "before rows are grouped: got COUNT",
        ),
        (f"{TUMBLE}::date as w, count(*) as n from t group by all", "must be a grouping key on its own: got CAST"),
        (f"count(*) as n from t group by k having {TUMBLE} > now()", "must be a grouping key on its own"),
        (f"{TUMBLE} as w, count(*) as n from t group by 3", "GROUP BY position is out of range: got 3"),
        (f"{TUMBLE} as w, tumble(ts, interval '2 hours') as v from t group by all", "can group by one window only"),
        (f"{TUMBLE} as w, tumble_end(s, interval '1 hour') as v from t group by all", "can group by one window only"),
        ("tumble(ts) as w from t group by all", "tumble requires a time, its size"),
        ("hop(ts, interval '1 hour') as w from t group by all", "hop requires a time, its slide, its size"),
        ("tumble(ts, x) as w from t group by all", "the size of tumble must be a constant: got x"),
        ("tumble(ts, 15) as w from t group by all", "the size of tumble is not an interval: got 15"),
        ("tumble(ts, 'soon') as w from t group by all", "the size of tumble is not an interval: got 'soon'"),
        ("tumble(ts, interval '0 minutes') as w from t group by all", "must be positive"),
        ("session(ts, -interval '5 minutes') as w from t group by all", "must be positive"),
        (
            "tumble(ts, interval '1 month 1 day') as w from t group by all",
            "contains months, whose lengths differ",
        ),
        ("session(ts, interval '1 month') as w from t group by all", "the gap of session contains months.*use days"),
        (
            "hop(ts, interval '2 hours', interval '1 hour') as w from t group by all",
            "slide of hop must not be longer than its size",
        ),
        ("hop(ts, interval '1 second', interval '7 days') as w from t group by all", "in more than 10,000 windows"),
        ("session(ts, '1 hour') as w, count(*) from t group by all", r"COUNT\(\*\) has no name: add an alias"),
        ("distinct session(ts, '1 hour') as w, k from t group by all", "cannot be grouped by session: got DISTINCT"),
        ("session(ts, '1 hour') as w, (select 1) as o from t group by all", "a subquery or a star with session"),
        (
            "session(ts, '1 hour') as k, max(k) as m from t group by all",
            "'k' is ambiguous: it may be a column or an alias",
        ),
    ],
)
def test_invalid_windows_are_rejected_with_their_place(select, match):
    with pytest.raises(DefinitionError, match=match) as refused:
        sql(f"select {select}")
    assert refused.value.place is not None
    assert refused.value.place.file == __file__


def test_windows_in_python_equal_windows_in_sql():
    python = window(
        tumble("15 minutes", on="ts"), of="t", by="k", where="x > 1", n="count(*)", mean="avg(x)", emit="change"
    )
    words = """
        select tumble("ts", interval '15 minutes') as window_start, tumble_end("ts", interval '15 minutes') as window_end,
               "k", count(*) as "n", avg(x) as "mean" from "t" where x > 1 group by all
    """
    same = sql(words, key=("window_start", "k"), emit="change")
    assert python.fingerprint == same.fingerprint
    assert python.streaming == same.streaming
    assert python(table_of(THREE)).num_rows == 2


def test_hops_and_sessions_in_python():
    hopping = window(hop("1 hour", every="30 minutes", on="ts"), of="t", n="count(*)")
    assert hopping(table_of(THREE)).num_rows == 3
    assert hopping.key == ("window_start",)
    runs = window(session("10 minutes", on="ts"), of="t", by=["k"], key=("k", "window_end"), n="count(*)")
    assert runs(table_of(THREE)).num_rows == 2
    assert runs.key == ("k", "window_end")


def test_windows_in_python_require_aggregates_with_unique_names():
    with pytest.raises(DefinitionError, match="requires aggregates"):
        window(tumble("1 hour", on="ts"), of="t", by="k")
    with pytest.raises(DefinitionError, match="duplicate column name 'k'"):
        window(tumble("1 hour", on="ts"), of="t", by="k", k="count(*)")
    with pytest.raises(DefinitionError, match="size= is not a duration"):
        tumble("soon", on="ts")


def test_rewriting_windows_does_not_modify_the_statement():
    tree = parse(f"select {TUMBLE} as w, count(*) as n from t group by all")
    before = tree.sql()
    assert in_plain_sql(tree) is not tree
    assert tree.sql() == before
