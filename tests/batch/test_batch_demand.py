"""What a step asks of a cluster follows what is left to do; stragglers are found by the speed of the other tasks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batch.demand import ClusterRequest, Demand
from pipeline.batch.stragglers import LEAST_S, Stragglers

MB = 1_000_000


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        pytest.param(ClusterRequest(), 100, id="without a deadline: all tasks at once"),
        pytest.param(ClusterRequest(max_cpus=8), 8, id="at most the maximum"),
        pytest.param(ClusterRequest(deadline=1250.0), 1, id="40 GB * 1.25 at 40 MB/s in 1,250 s"),
        pytest.param(ClusterRequest(deadline=1000.0), 2, id="the same in 1,000 s: 1.25 slots"),
        pytest.param(ClusterRequest(deadline=10.0), 100, id="not more than there are tasks"),
        pytest.param(ClusterRequest(deadline=10.0, max_cpus=50), 50, id="a close deadline, at most the maximum"),
        pytest.param(ClusterRequest(deadline=1e6), 1, id="a far deadline: one slot"),
        pytest.param(ClusterRequest(deadline=1e6, min_cpus=5), 5, id="a far deadline, at least the minimum"),
        pytest.param(ClusterRequest(deadline=-1.0), 100, id="after the deadline: all tasks at once"),
    ],
)
def test_slots_follow_the_deadline(request_, expected):
    demand = request_.demand([400 * MB] * 100, cpus=1)

    assert demand.slots(now=0.0) == expected


def test_slots_follow_the_speed_so_far():
    #  time   0 s       100 s, two of ten tasks ended   200 s
    #  speed  assumed   1 MB/s per slot                 1 MB/s per slot
    demand = ClusterRequest(deadline=400.0).demand([100 * MB] * 10, cpus=1)
    assert demand.slots(0.0) == 1

    for _ in range(2):
        demand.ended(100 * MB, 100.0)

    assert demand.slots(100.0) == 4  # 800 MB * 1.25 at 1 MB/s in 300 s
    assert demand.slots(200.0) == 5  # in 200 s
    assert demand.slots(300.0) == 8  # 10 would be needed, 8 tasks are left
    assert (
        demand.reason(100.0)
        == "800 MB in 8 tasks left, 1.0 MB/s per slot so far, 300 s left of its share of the deadline"
    )
    assert (
        demand.reason(500.0) == "800 MB in 8 tasks left, 1.0 MB/s per slot so far, 100 s over its share of the deadline"
    )


def test_a_stage_has_its_share_of_the_time_that_is_left():
    request = ClusterRequest(deadline=300.0, max_cpus=8)

    assert request.within(0.5, now=100.0) == ClusterRequest(deadline=200.0, max_cpus=8)
    assert ClusterRequest().within(0.5, now=100.0) == ClusterRequest()


def test_slots_of_several_cores_count_against_the_limits_once():
    assert ClusterRequest(max_cpus=8).demand([MB] * 10, cpus=4).slots(0.0) == 2
    assert ClusterRequest(deadline=1e9, min_cpus=5).demand([MB] * 10, cpus=4).slots(0.0) == 2
    assert ClusterRequest(max_cpus=2).demand([MB] * 10, cpus=4).slots(0.0) == 1


@given(
    sizes=st.lists(st.integers(0, 10**9), min_size=1, max_size=30),
    deadline=st.none() | st.floats(-1e4, 1e6),
    least=st.integers(0, 40),
    most=st.none() | st.integers(1, 40),
    seconds=st.floats(0, 1e4),
)
def test_slots_are_within_their_limits_until_the_last_task(sizes, deadline, least, most, seconds):
    if most is not None and least > most:
        least = most
    demand = ClusterRequest(deadline, least, most).demand(sizes, cpus=1)

    for done, size in enumerate(sizes):
        slots = demand.slots(seconds * done)
        left = len(sizes) - done
        assert min(left, max(1, least)) <= slots <= min(left, most or left)
        assert demand.reason(seconds * done).startswith(f"{sum(sizes[done:]) / 1e6:,.0f} MB in {left} task")
        demand.ended(size, seconds)
    assert demand.left_bytes == 0


@given(left=st.integers(1, 10**12), tasks=st.integers(1, 500), sooner=st.floats(1, 1e5), later=st.floats(1, 1e5))
def test_an_earlier_deadline_never_asks_for_fewer_slots(left, tasks, sooner, later):
    first, second = sorted((sooner, later))

    assert Demand(left, tasks, first).slots(0.0) >= Demand(left, tasks, second).slots(0.0)


def test_a_straggler_is_much_slower_than_the_median_task():
    stragglers = Stragglers(tasks=8)
    for _ in range(5):
        stragglers.ended(100 * MB, 10.0)

    running = {
        "usual": (100 * MB, 19.0),
        "slow": (100 * MB, 21.0),
        "large": (300 * MB, 50.0),
        "slowest": (100 * MB, 90.0),
    }

    assert stragglers.among(running, idle_slots=4) == ["slowest", "slow"]
    assert stragglers.among(running, idle_slots=1) == ["slowest"]
    assert stragglers.among(running, idle_slots=0) == []


def test_there_is_no_straggler_before_half_of_the_tasks_have_ended():
    stragglers = Stragglers(tasks=8)
    for _ in range(3):
        stragglers.ended(100 * MB, 10.0)
    assert stragglers.among({"slow": (100 * MB, 1000.0)}, idle_slots=4) == []

    stragglers.ended(100 * MB, 10.0)

    assert stragglers.among({"slow": (100 * MB, 1000.0)}, idle_slots=4) == ["slow"]


def test_a_short_task_is_no_straggler():
    stragglers = Stragglers(tasks=4)
    for _ in range(3):
        stragglers.ended(1000, 0.01)

    assert stragglers.among({"t": (1000, LEAST_S - 0.1)}, idle_slots=4) == []
    assert stragglers.among({"t": (1000, LEAST_S + 0.1)}, idle_slots=4) == ["t"]
