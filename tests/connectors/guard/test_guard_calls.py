"""Guarded calls: which errors are tried again, when, and until when."""

from __future__ import annotations

import pickle

import pytest

from pipeline.connectors.guard import Guard, Guarded, Rate, Temporary, guarded
from pipeline.connectors.guard.calls import CallClock, RetryRule
from pipeline.core.errors import SourceError, SourceUnavailableError
from tests.rigs.simulated_clock import SimulatedClock


class Scripted:
    """A function that raises these errors one after the other, then returns."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "rows"


def calls_of(clock: SimulatedClock, rate: Rate | None = None, guard: Guard | None = None, **rule: float) -> Guarded:
    time = CallClock(clock, clock.sleep, lambda: 0.0)
    return Guarded("api", rate, RetryRule(**rule), guard or Guard(clock), time)


def test_temporary_errors_are_tried_again_with_growing_waits():
    clock, function = SimulatedClock(), Scripted(TimeoutError(), ConnectionError(), SourceUnavailableError("busy"))
    assert calls_of(clock).call(function, "orders") == "rows"
    assert clock.slept == [0.25, 0.5, 1.0]


def test_waits_are_shortened_at_random_and_limited():
    rule = RetryRule()
    assert [rule.wait_s(attempt, 1.0) for attempt in (1, 2, 3)] == [0.125, 0.25, 0.5]
    assert rule.wait_s(40, 0.0) == 15.0


@pytest.mark.parametrize("error", [ValueError("no such column"), SourceError("no such table"), PermissionError("no")])
def test_permanent_errors_are_raised_unchanged_at_once(error):
    clock, function = SimulatedClock(), Scripted(error)
    with pytest.raises(type(error)) as raised:
        calls_of(clock).call(function, "orders")
    assert raised.value is error
    assert (function.calls, clock.slept) == (1, [])


def test_permanent_errors_do_not_open_the_breaker():
    clock = SimulatedClock()
    guard = Guard(clock)
    for _ in range(20):
        with pytest.raises(ValueError, match="4xx"):
            calls_of(clock, guard=guard).call(Scripted(ValueError("4xx")), "orders")
    assert guard.reports()["api"].state == "closed"


def test_it_gives_up_after_the_last_attempt():
    clock, function = SimulatedClock(), Scripted(*[TimeoutError("too slow")] * 9)
    with pytest.raises(
        SourceUnavailableError, match=r"orders could not be read in 3 attempts: got too slow; try again"
    ):
        calls_of(clock, attempts=3).call(function, "orders")
    assert function.calls == 3


def test_it_gives_up_before_a_wait_that_ends_after_the_deadline():
    clock, function = SimulatedClock(), Scripted(*[TimeoutError("too slow")] * 9)
    with pytest.raises(SourceUnavailableError, match="in 2 attempts"):
        calls_of(clock, deadline_s=0.5).call(function, "orders")
    assert clock.slept == [0.25]
    with pytest.raises(SourceUnavailableError, match="in 1 attempt:"):
        calls_of(clock, deadline_s=0.1).call(Scripted(TimeoutError("too slow")), "orders")


def test_a_system_that_asks_to_wait_pauses_all_callers_and_is_not_failing():
    clock = SimulatedClock()
    guard = Guard(clock)
    calls = calls_of(clock, guard=guard)
    for _ in range(8):
        function = Scripted(RuntimeError("429"))
        assert calls.call(function, "orders", lambda _: Temporary(after_s=7, is_failure=False)) == "rows"
    assert clock.slept == [7] * 8
    assert guard.reports()["api"].state == "closed"
    calls.pause(30)
    assert calls.call(Scripted(), "orders") == "rows"
    assert clock.slept[-1] == 30


def test_callers_wait_for_the_rate_limit():
    clock = SimulatedClock()
    calls = calls_of(clock, Rate(10, 1))
    for _ in range(5):
        calls.call(Scripted(), "orders")
    assert clock.now == pytest.approx(0.4)


def test_nobody_waits_for_a_token_beyond_the_deadline():
    clock = SimulatedClock()
    calls = calls_of(clock, Rate(1 / 60, 1), deadline_s=30)
    calls.call(Scripted(), "orders")
    with pytest.raises(
        SourceUnavailableError, match=r"orders was not called: the rate limit is used up.*for another 60 s"
    ):
        calls.call(Scripted(), "orders")


def test_callers_wait_for_an_open_breaker_and_the_first_probes():
    clock, function = SimulatedClock(), Scripted(*[TimeoutError()] * 5)
    assert calls_of(clock, first_s=0.001).call(function, "orders") == "rows"
    assert function.calls == 6
    assert clock.now == pytest.approx(5.0, abs=0.1)


def test_an_interrupted_probe_is_replaced_after_a_time():
    clock = SimulatedClock()
    guard = Guard(clock)
    for _ in range(5):
        guard.report("api", failed=True)
    clock.now = 5

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calls_of(clock, guard=guard).call(interrupted, "orders")
    assert calls_of(clock, guard=guard).call(Scripted(), "orders") == "rows"
    assert clock.now == 65


def test_guarded_calls_can_be_pickled_and_share_the_guard_of_the_process():
    calls = guarded("pickled.example.com", "10/s")
    assert pickle.loads(pickle.dumps(calls)) == calls  # noqa: S301 - our own
    assert calls.rate == Rate(10, 1)
    assert calls.call(lambda: 1, "one") == 1
