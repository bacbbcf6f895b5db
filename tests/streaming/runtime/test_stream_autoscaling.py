"""The number of shards that a stream should have: by tables, by a picture over time, and for any load."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import RequestError
from pipeline.streaming.runtime.autoscaling import Scaling, ScalingPolicy, ShardRange, StreamLoad, decide, parse_shards
from pipeline.streaming.runtime.rescaler import lag_s
from tests.rigs import proofs

POLICY = ScalingPolicy(target_lag_s=10, strained=3, calm_s=60, cool_down_s=30)
EVERY_S = 5.0
LOADS = {
    "#": StreamLoad(0, lag_s=20, utilisation=0.95),  # short of shards
    "=": StreamLoad(0, lag_s=1, utilisation=0.95),  # busy, but not behind
    "-": StreamLoad(0, lag_s=1, utilisation=0.5),
    ".": StreamLoad(0, lag_s=0, utilisation=0.1),  # calm
    "r": StreamLoad(0, lag_s=20, utilisation=0.95, state_share=0.1),  # behind, because reading is slow
    "w": StreamLoad(0, lag_s=20, utilisation=0.2),  # behind, but it waits: the log is slow
}


def shards_over(picture: str, bounds: ShardRange, begin: int = 1) -> str:
    scaling, shards = Scaling(begin), []
    for number, mark in enumerate(picture):
        load = LOADS[mark]
        at = StreamLoad(number * EVERY_S, load.lag_s, load.utilisation, load.state_share)
        scaling = decide(scaling, at, POLICY, bounds)
        shards.append(str(scaling.shards))
    return "".join(shards)


@pytest.mark.parametrize(
    ("picture", "shards"),
    [
        ("###", "112"),
        ("##-##-##", "11111111"),  # never three in a row
        ("######### ########".replace(" ", ""), "11222222444444444"),  # at least 30 s between two changes
        ("================", "1111111111111111"),
        ("rrrrrrrrrrrrrrrr", "1111111111111111"),
        ("wwwwwwwwwwwwwwww", "1111111111111111"),
    ],
)
def test_shards_are_added_soon(picture, shards):
    assert shards_over(picture, ShardRange(1, 4)) == shards


@pytest.mark.parametrize(
    ("picture", "shards"),
    [
        (".............", "4444444444442"),  # after 60 s
        ("...........-.............", "4444444444444444444444442"),  # the calm begins anew
        ("." * 26, "4" * 12 + "2" * 13 + "1"),
        ("------------------", "444444444444444444"),
    ],
)
def test_shards_are_removed_after_a_long_calm(picture, shards):
    assert shards_over(picture, ShardRange(1, 4), begin=4) == shards


def test_the_bounds_apply_at_once():
    assert shards_over("-", ShardRange(2, 4), begin=1) == "2"
    assert shards_over("-", ShardRange(1, 3), begin=8) == "3"
    assert shards_over("###", ShardRange(1, 3), begin=2) == "223"


@settings(max_examples=proofs.examples(100, 2000), deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1), st.floats(0, 1)), max_size=200),
    st.integers(1, 8),
    st.integers(0, 8),
    st.integers(1, 20),
)
def test_any_load_keeps_the_promises(loads, least, more, begin):
    """Within the bounds, at most doubled or halved, and not twice within the cool-down."""
    bounds = ShardRange(least, least + more)
    scaling, changed = Scaling(bounds.clamp(begin)), float("-inf")
    for number, (lag, utilisation, share) in enumerate(loads):
        before, at = scaling.shards, number * EVERY_S
        scaling = decide(scaling, StreamLoad(at, lag, utilisation, share), POLICY, bounds)
        assert bounds.least <= scaling.shards <= bounds.most
        if scaling.shards != before:
            assert before / 2 <= scaling.shards <= before * 2
            assert at - changed >= POLICY.cool_down_s
            changed = at


@settings(max_examples=proofs.examples(100, 2000), deadline=None)
@given(st.floats(0, 10), st.integers(1, 8))
def test_a_steady_load_is_settled_once(work, begin):
    """With work for `work` shards per second, the number of shards changes in one direction only, and then stays."""
    bounds, lag = ShardRange(1, 8), 0.0
    scaling, path = Scaling(begin), [begin]
    for number in range(600):
        utilisation = min(1.0, work / scaling.shards)
        lag = max(0.0, lag + EVERY_S * (work / scaling.shards - 1))
        scaling = decide(scaling, StreamLoad(number * EVERY_S, lag, utilisation), POLICY, bounds)
        if scaling.shards != path[-1]:
            path.append(scaling.shards)
    assert path in (sorted(path), sorted(path, reverse=True))


@pytest.mark.parametrize(("text", "shards"), [("4", 4), ("1..4", ShardRange(1, 4)), ("2..2", ShardRange(2, 2))])
def test_shards_are_parsed(text, shards):
    assert parse_shards(text) == shards


@pytest.mark.parametrize("text", ["", "..", "1..", "..4", "a", "1-4", "1...4", "-1"])
def test_other_texts_are_rejected(text):
    with pytest.raises(RequestError, match="--shards cannot be parsed"):
        parse_shards(text)


@pytest.mark.parametrize("text", ["0", "0..3", "4..1"])
def test_impossible_numbers_are_rejected(text):
    with pytest.raises(RequestError, match="--shards must be at least 1, and a range must not be empty"):
        parse_shards(text)


def test_lag_is_a_time():
    assert lag_s({"a": 100, "b": 50}, 50.0) == 3.0
    assert lag_s({"a": 0}, 0.0) == 0.0
    assert lag_s({"a": 1}, 0.0) == float("inf")
    assert lag_s({"a": 1 << 62}, 10.0) == 0.0, "a log without an end has no lag"
