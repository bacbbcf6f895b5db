"""Watermarks in pictures: ● is a row at its second, · a micro-batch without rows of the partition, > unread records.

Unless a picture shows otherwise, the clock is 100 in the first micro-batch and advances by a second in each.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.epochs import BEGINNING, END, Epoch, InputProgress, epoch_of
from pipeline.core.event_time import EventTime
from pipeline.streaming.operators.watermarks import InputArrivals, advanced, holding_back, of_all

S = 1_000_000


def watermark_after_each(batches, *, lateness=0, idle_after=30, clock=None):
    """Return the watermark after each micro-batch in seconds. A micro-batch has a time, None or '>' per partition."""
    how = EventTime("t", timedelta(seconds=lateness), None if idle_after is None else timedelta(seconds=idle_after))
    reached, watermarks, offsets = InputProgress(), [], {}
    for number, batch in enumerate(batches):
        for name, latest in batch.items():
            offsets[name] = offsets.get(name, 0) + (latest is not None and latest != ">")
        latest = {name: time * S for name, time in batch.items() if isinstance(time, int)}
        behind = frozenset(name for name, time in batch.items() if time == ">")
        now = (100 + number if clock is None else clock[number]) * S
        reached = advanced(reached, InputArrivals(dict(offsets), latest, behind), how, now)
        watermarks.append(None if reached.watermark in {BEGINNING, -END} else reached.watermark / S)
    return watermarks


def test_the_slowest_partition_holds_the_others_back():
    #            batch    1    2    3    4
    #   partition a       ●10  ●12  ●40  ●50
    #   partition b       ●11  ●11  ●13  ●14
    #   watermark         10   11   13   14
    batches = [{"a": 10, "b": 11}, {"a": 12, "b": 11}, {"a": 40, "b": 13}, {"a": 50, "b": 14}]
    assert watermark_after_each(batches) == [10, 11, 13, 14]
    assert watermark_after_each(batches, lateness=5) == [5, 6, 8, 9]


def test_a_partition_without_rows_holds_the_watermark_back():
    #   partition a       ●10  ●20
    #   partition b       ·    ·
    #   watermark         ?    ?
    assert watermark_after_each([{"a": 10, "b": None}, {"a": 20, "b": None}]) == [None, None]


def test_an_idle_partition_does_not_hold_the_watermark_back():
    #   clock             100  110  131  132
    #   partition a       ●10  ●20  ●30  ●40
    #   partitions b c d  ●9   ·    ·    ·
    #   watermark         9    9    30   40      b, c and d are idle since 130
    rest = {"b": None, "c": None, "d": None}
    batches = [{"a": 10, "b": 9, "c": 9, "d": 9}, {"a": 20, **rest}, {"a": 30, **rest}, {"a": 40, **rest}]
    assert watermark_after_each(batches, clock=[100, 110, 131, 132]) == [9, 9, 30, 40]


def test_always_empty_partitions_become_idle():
    #   clock             100  120  130  131
    #   partition a       ●10  ●20  ●30  ●31
    #   partitions b c d  ·    ·    ·    ·
    #   watermark         ?    ?    30   31
    rest = {"b": None, "c": None, "d": None}
    batches = [{"a": time, **rest} for time in (10, 20, 30, 31)]
    assert watermark_after_each(batches, clock=[100, 120, 130, 131]) == [None, None, 30, 31]


def test_the_watermark_follows_the_clock_if_all_partitions_are_idle():
    #   clock             100  129  130  140  200
    #   partition a       ●50  ·    ·    ·    ·
    #   watermark         45   45   45   55   115     latest 50 + silence beyond 30 - lateness 5
    batches = [{"a": 50}, *({"a": None} for _ in range(4))]
    assert watermark_after_each(batches, lateness=5, clock=[100, 129, 130, 140, 200]) == [45, 45, 45, 55, 115]


def test_a_partition_with_unread_records_is_not_idle():
    #   clock             100  1000  1001
    #   partition a       ●10  >     ●20
    #   partition b       ●50  ●60   ●70
    #   watermark         10   10    20
    assert watermark_after_each(
        [{"a": 10, "b": 50}, {"a": ">", "b": 60}, {"a": 20, "b": 70}], clock=[100, 1000, 1001]
    ) == [10, 10, 20]


def test_a_partition_far_ahead_does_not_advance_the_watermark():
    #   partition a       ●10  ●11    ●12
    #   partition b       ●10  ●9000  ●9001
    #   watermark         10   11     12
    assert watermark_after_each([{"a": 10, "b": 10}, {"a": 11, "b": 9000}, {"a": 12, "b": 9001}]) == [10, 11, 12]


def test_a_returning_partition_does_not_decrease_the_watermark():
    #   clock             100  140  141
    #   partition a       ●10  ●60  ●61
    #   partition b       ●10  ·    ●11     its row is late, if its window has closed
    #   watermark         10   60   60
    assert watermark_after_each(
        [{"a": 10, "b": 10}, {"a": 60, "b": None}, {"a": 61, "b": 11}], clock=[100, 140, 141]
    ) == [10, 60, 60]


def test_a_clock_that_goes_back_does_not_decrease_the_watermark():
    #   clock             100  200  150  100
    #   partition a       ●50  ·    ·    ●51
    #   watermark         50   120  120  120
    assert watermark_after_each([{"a": 50}, {"a": None}, {"a": None}, {"a": 51}], clock=[100, 200, 150, 100]) == [
        50,
        120,
        120,
        120,
    ]


def test_watermark_at_the_end_of_the_log_is_infinite():
    how = EventTime("t")
    assert advanced(InputProgress(), InputArrivals({"a": 1}, {"a": 5}, has_ended=True), how, 0).watermark == END


def test_watermark_advances_evenly_on_a_day_without_rows():
    """A day without rows, every five seconds: the watermark advances evenly and never decreases."""
    how = EventTime("t", timedelta(seconds=10), timedelta(seconds=30))
    reached = advanced(InputProgress(), InputArrivals({"a": 1, "b": 1}, {"a": 1000 * S, "b": 990 * S}), how, 1000 * S)
    before = reached.watermark
    for batch in range(86_400 // 5):
        now = 1000 * S + (batch + 1) * 5 * S
        reached = advanced(reached, InputArrivals({"a": 1, "b": 1}, {}), how, now)
        assert reached.watermark >= before
        before = reached.watermark
    assert before == 1000 * S + 86_400 * S - 30 * S - 10 * S


TURN = st.dictionaries(st.sampled_from("abc"), st.one_of(st.none(), st.integers(0, 200)), min_size=1)


@given(st.lists(st.tuples(TURN, st.integers(-50, 100)), max_size=30), st.integers(0, 20))
def test_the_watermark_never_decreases_and_no_row_within_lateness_is_late(batches, lateness):
    """For any clock jumps; while no partition is idle or new, no row within the lateness of its partition is late."""
    clock, now = [], 1000
    for _, jump in batches:
        now += jump
        clock.append(now)
    reported = [
        w for w in watermark_after_each([t for t, _ in batches], lateness=lateness, clock=clock) if w is not None
    ]
    assert reported == sorted(reported)
    every = [{name: batch.get(name) or 0 for name in "abc"} for batch, _ in batches]
    watermarks = watermark_after_each(every, lateness=lateness, clock=[100] * len(every))
    for number, batch in enumerate(every[1:], 1):
        for name, time in batch.items():
            latest = max(before[name] for before in every[:number])
            before = watermarks[number - 1]
            assert before is None or time < latest - lateness or time >= before


@given(st.lists(st.tuples(TURN, st.integers(-50, 1000)), max_size=30), st.integers(0, 20))
def test_without_idle_after_no_row_within_the_lateness_of_its_partition_is_late(batches, lateness):
    """For any clock and any silence of a partition: rows that it delivers in order are in time."""
    clock, now = [], 1000
    for _, jump in batches:
        now += jump
        clock.append(now)
    every = [{name: batch.get(name) for name in "abc"} for batch, _ in batches]
    watermarks = watermark_after_each(every, lateness=lateness, idle_after=None, clock=clock)
    for number, batch in enumerate(every):
        before = watermarks[number - 1] if number else None
        for name, time in batch.items():
            earlier = [past[name] for past in every[:number] if past[name] is not None]
            if time is not None and (not earlier or time >= max(earlier) - lateness):
                assert before is None or time >= before


def test_a_silent_minute_makes_no_row_late_without_idle_after():
    #   clock             100  160  161
    #   partition a       ●100 ·    ●101
    #   watermark         100  100  101     with idle_after=30: 100, 130, 130
    batches, clock = [{"a": 100}, {"a": None}, {"a": 101}], [100, 160, 161]
    assert watermark_after_each(batches, idle_after=None, clock=clock) == [100, 100, 101]
    assert watermark_after_each(batches, idle_after=30, clock=clock) == [100, 130, 130]


def test_idle_time_counts_across_runs():
    how = EventTime("t", idle_after=timedelta(seconds=30))
    #   clock             100  |  200       a is behind at 200, b has nothing new
    #   partition a       ●50  |  ●90
    #   partition b       ●40  |  ·
    #   watermark         40   |  90
    first = advanced(InputProgress(), InputArrivals({"a": 1, "b": 1}, {"a": 50 * S, "b": 40 * S}), how, 100 * S)
    again = epoch_of(asdict(Epoch(1, {"x": first}))).inputs["x"]
    second = advanced(again, InputArrivals({"a": 2, "b": 1}, {"a": 90 * S}), how, 200 * S)
    assert (first.watermark, second.watermark) == (40 * S, 90 * S)


def test_an_idle_input_does_not_hold_the_watermark_back():
    how = EventTime("t", idle_after=timedelta(seconds=30))
    left = advanced(InputProgress(), InputArrivals({"a": 1}, {"a": 50 * S}), how, 100 * S)
    empty = advanced(InputProgress(), InputArrivals({"b": 0}, {}), how, 100 * S)
    assert of_all([left, empty]) == -END
    empty = advanced(empty, InputArrivals({"b": 0}, {}), how, 131 * S)
    left = advanced(left, InputArrivals({"a": 2}, {"a": 60 * S}), how, 131 * S)
    assert of_all([left, empty]) == 60 * S
    left = advanced(left, InputArrivals({"a": 2}, {}), how, 1000 * S)
    assert of_all([left, empty]) == left.watermark >= 60 * S


def test_partitions_that_hold_the_watermark_back_are_named():
    how = EventTime("t")
    reached = advanced(
        InputProgress(), InputArrivals({"a": 1, "b": 1, "c": 0}, {"a": 50 * S, "b": 40 * S}), how, 100 * S
    )
    assert holding_back(reached, frozenset(), how, 100 * S) == ("c",)
    reached = advanced(reached, InputArrivals({"c": 1}, {"c": 45 * S}), how, 100 * S)
    assert holding_back(reached, frozenset(), how, 100 * S) == ("b",)
    patient = EventTime("t", idle_after=timedelta(seconds=5))
    assert holding_back(reached, frozenset(), patient, 200 * S) == ()
