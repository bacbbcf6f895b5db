"""The decisions of the guard, with a simulated clock: the rate limit in any window, and the circuit breaker."""

from __future__ import annotations

from bisect import bisect_right

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.connectors.guard.breaker import Breaker, BreakerRule
from pipeline.connectors.guard.guard import Guard
from pipeline.connectors.guard.rates import Rate
from pipeline.core.errors import DefinitionError
from tests.rigs import proofs
from tests.rigs.simulated_clock import SimulatedClock

SYSTEM = "api.example.com"


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10/s", Rate(10, 1)),
        ("100/s", Rate(100, 10)),
        ("60/min", Rate(1, 1)),
        ("5000 / hour", Rate(5000 / 3600, 1)),
        ("86400/day", Rate(1, 1)),
        ("2.5 per second", Rate(2.5, 1)),
    ],
)
def test_rates(text, rate):
    assert Rate.of(text) == rate


@pytest.mark.parametrize("text", ["", "10", "ten/s", "0/s", "10/week", "-1/s", "1e9/s"])
def test_no_rates(text):
    with pytest.raises(DefinitionError, match="this is not a rate"):
        Rate.of(text)


def most_beyond(calls: list[float], rate: Rate) -> float:
    """Return by how much the calls of any window [a, b] exceed `rate * (b - a) + burst`; not above 0 if they never do."""
    ordered = sorted(calls)
    # count(i..j) - per_s * (t_j - t_i) = (j + 1 - per_s * t_j) - (i - per_s * t_i)
    least, beyond = float("inf"), float("-inf")
    for number, at in enumerate(ordered):
        least = min(least, number - rate.per_s * at)
        beyond = max(beyond, number + 1 - rate.per_s * at - least - rate.burst)
    return beyond


@settings(max_examples=proofs.examples(60, 1000), deadline=None)
@given(
    per_s=st.sampled_from([0.5, 1, 10, 100, 1000]),
    burst=st.sampled_from([1.0, 1.5, 2.0, 7.0, 100.0]),
    requests=st.lists(
        st.tuples(
            st.floats(0, 0.2),  # seconds since the previous request
            st.integers(1, 40),  # tokens
            st.lists(st.floats(0, 1), min_size=40, max_size=40),  # when each token is used, as a share of the lease
        ),
        min_size=1,
        max_size=80,
    ),
    starts_empty=st.booleans(),
    pauses=st.sets(st.integers(0, 79)),
)
def test_never_more_calls_than_the_rate_allows(per_s, burst, requests, starts_empty, pauses):
    clock, rate, calls = SimulatedClock(), Rate(per_s, burst), []
    guard = Guard(clock, starts_empty=starts_empty)
    for number, (gap_s, tokens, used) in enumerate(requests):
        clock.now += gap_s
        if number in pauses:
            guard.report(SYSTEM, failed=False, pause_s=gap_s * 3)
        lease = guard.reserve(SYSTEM, rate, tokens, most_wait_s=1e9)
        assert 1 <= lease.tokens <= max(1, burst)
        ready = clock.now + lease.wait_s
        calls += [ready + share * lease.valid_s for share in used[: lease.tokens]]
    assert most_beyond(calls, rate) <= 1e-6


def test_fifty_workers_use_the_whole_rate_in_the_order_in_which_they_came():
    """50 callers that call again as soon as they may, for 20 simulated seconds at 100/s."""
    clock, rate = SimulatedClock(), Rate.of("100/s")
    guard, calls = Guard(clock), []
    free_at = dict.fromkeys(range(50), 0.0)
    counts = dict.fromkeys(free_at, 0)
    while (worker := min(free_at, key=lambda w: free_at[w])) is not None and free_at[worker] < 20:
        clock.now = max(clock.now, free_at[worker])
        lease = guard.reserve(SYSTEM, rate, 1, most_wait_s=60)
        free_at[worker] = clock.now + lease.wait_s
        calls.append(free_at[worker])
        counts[worker] += 1
    assert most_beyond(calls, rate) <= 1e-6
    assert bisect_right(sorted(calls), 20.0) >= 2000
    assert max(counts.values()) - min(counts.values()) <= 1 + rate.at_once


def test_the_lowest_rate_applies_to_all_callers():
    clock = SimulatedClock()
    guard = Guard(clock)
    fast, slow = Rate(100, 1), Rate(1, 1)
    assert guard.reserve(SYSTEM, fast, 1, 60).wait_s == 0
    assert guard.reserve(SYSTEM, slow, 1, 60).wait_s == pytest.approx(0.01)
    assert guard.reserve(SYSTEM, fast, 1, 60).wait_s == pytest.approx(1.01)
    assert guard.reserve(SYSTEM, None, 1, 60).wait_s == pytest.approx(2.01)


def test_a_refused_request_takes_no_tokens():
    clock = SimulatedClock()
    guard, rate = Guard(clock), Rate(1, 1)
    guard.reserve(SYSTEM, rate, 1, 60)
    for _ in range(10):
        refused = guard.reserve(SYSTEM, rate, 1, most_wait_s=0.5)
        assert (refused.tokens, refused.wait_s) == (0, 1.0)
        assert "rate limit" in refused.reason
    assert guard.reserve(SYSTEM, rate, 1, 60).wait_s == 1.0


def test_a_pause_applies_to_all_callers():
    clock = SimulatedClock()
    guard = Guard(clock)
    guard.report(SYSTEM, failed=False, pause_s=30)
    assert guard.reserve(SYSTEM, None, 1, 60).wait_s == 30
    refused = guard.reserve(SYSTEM, None, 1, 10)
    assert (refused.tokens, refused.reason) == (0, "the system asked for a pause")
    assert guard.reports()[SYSTEM].paused_s == 30
    assert guard.reserve("another.example.com", None, 1, 60).wait_s == 0
    clock.now = 30
    assert guard.reserve(SYSTEM, None, 1, 60).wait_s == 0


#   failures   x x x x x |          | probe x |                    | probe ok |
#   state      closed    | open 5 s | half    | open 10 s          | half     | closed
def test_a_breaker_opens_after_some_failures_and_closes_after_a_probe():
    clock = SimulatedClock()
    guard = Guard(clock)
    for number in range(10):
        assert guard.reserve(SYSTEM, None, 1, 60).tokens == 1
        guard.report(SYSTEM, failed=number % 2 == 1)
    assert guard.reports()[SYSTEM].state == "open"
    refused = guard.reserve(SYSTEM, None, 1, 60)
    assert (refused.tokens, refused.wait_s) == (0, 5.0)
    assert "circuit breaker" in refused.reason
    clock.now = 5
    assert guard.reports()[SYSTEM].state == "half open"
    probe = guard.reserve(SYSTEM, None, 20, 60)
    assert (probe.tokens, probe.probe) == (1, 1)
    guard.report(SYSTEM, failed=True, probe=probe.probe)
    assert guard.reserve(SYSTEM, None, 1, 60).wait_s == 10.0
    clock.now = 15
    probe = guard.reserve(SYSTEM, None, 1, 60)
    guard.report(SYSTEM, failed=False)  # a call that was made before the breaker opened
    assert guard.reports()[SYSTEM].state == "half open"
    guard.report(SYSTEM, failed=False, probe=probe.probe)
    assert guard.reports()[SYSTEM].state == "closed"
    assert guard.reserve(SYSTEM, None, 1, 60).tokens == 1


def test_four_failures_of_ten_do_not_open_it():
    breaker = Breaker()
    for number in range(100):
        breaker = breaker.report(0.0, failed=number % 10 < 4)
    assert breaker.state(0.0) == "closed"


def test_a_probe_whose_caller_died_is_replaced():
    clock = SimulatedClock()
    guard = Guard(clock)
    for _ in range(5):
        guard.report(SYSTEM, failed=True)
    clock.now = 5
    assert guard.reserve(SYSTEM, None, 1, 60).probe == 1
    assert guard.reserve(SYSTEM, None, 1, 60).wait_s == 60.0
    clock.now = 65
    assert guard.reserve(SYSTEM, None, 1, 60).probe == 2
    guard.report(SYSTEM, failed=False, probe=1)  # too late
    assert guard.reports()[SYSTEM].state == "half open"


EVENT = st.tuples(st.floats(0, 30), st.sampled_from(["ask", "fail", "succeed", "die"]))


@settings(max_examples=proofs.examples(100, 2000), deadline=None)
@given(events=st.lists(EVENT, max_size=60), failures=st.integers(1, 5), of=st.integers(5, 10))
def test_a_breaker_that_is_not_closed_lets_exactly_one_probe_pass(events, failures, of):
    rule = BreakerRule(failures=failures, of=of)
    breaker, now, calls, last = Breaker(rule), 0.0, [], []
    for gap_s, event in events:
        now += gap_s
        if event == "ask":
            before = breaker.state(now)
            breaker, wait_s, probe = breaker.admit(now)
            if wait_s == 0:
                assert before != "open"
                assert (probe > 0) == (before == "half open")
                out = [number for number, begun in calls if number > 0 and now < begun + rule.probe_s]
                assert not (probe and out)
                calls.append((probe, now))
        elif calls:
            probe, _ = calls.pop(0)
            if event != "die":
                was_closed = breaker.state(now) == "closed"
                breaker = breaker.report(now, failed=event == "fail", probe=probe)
                if was_closed:
                    last = [*last, event == "fail"][-of:]
                    assert (breaker.state(now) == "open") == (sum(last) >= failures)
                if breaker.state(now) != "closed" or not was_closed:
                    last = []
