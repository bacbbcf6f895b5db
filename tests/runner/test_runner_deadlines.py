"""The deadline of a run is divided between its steps by the time that each took last."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from pipeline.runner.deadlines import Deadlines


def test_a_deadline_is_divided_by_the_times_of_the_last_run():
    #  0 s            100 s                 400 s
    #  |--- a: 10 s ---|------ b: 30 s ------|
    deadlines = Deadlines(400.0, {"a": 10.0, "b": 30.0})

    assert deadlines.of("a", 0.0) == 100.0
    deadlines.ended("a")
    assert deadlines.of("b", 50.0) == 400.0  # what a did not use is left to b


def test_a_step_without_a_last_time_takes_the_mean():
    deadlines = Deadlines(300.0, {"a": 10.0, "b": 30.0, "new": None})

    assert deadlines.of("new", 0.0) == 100.0
    assert Deadlines(300.0, {"a": None, "b": None}).of("a", 0.0) == 150.0


def test_the_deadline_of_a_table_applies_from_the_start_of_its_step():
    own = timedelta(minutes=1)

    assert Deadlines(None, {"a": 10.0}).of("a", 500.0, own) == 560.0
    assert Deadlines(520.0, {"a": 10.0}).of("a", 500.0, own) == 520.0
    assert Deadlines(None, {"a": 10.0}).of("a", 500.0) is None


def test_a_late_step_should_end_now():
    assert Deadlines(100.0, {"a": 10.0, "b": 10.0}).of("a", 150.0) == 150.0


@given(st.lists(st.none() | st.floats(0, 1e5), min_size=1, max_size=10), st.floats(1, 1e6))
def test_steps_one_after_the_other_that_use_their_time_end_at_the_deadline(last, ends_at):
    deadlines, now = Deadlines(ends_at, {str(number): seconds for number, seconds in enumerate(last)}), 0.0

    for number in range(len(last)):
        end = deadlines.of(str(number), now)
        assert now <= end <= ends_at * (1 + 1e-9)
        now = end
        deadlines.ended(str(number))
    assert abs(now - ends_at) <= 1e-6 * ends_at
