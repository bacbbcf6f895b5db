"""Decides how many shards a stream should have: a pure function of what was measured.

    utilisation  ▁▂▅████████▅▃▃▃▃▁▁▁▁▁▁▁▁▁▁
    lag          ▁▁▁▂▃▅▇█▇▅▃▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁
    shards       1111111222222222222222222111       up after three measurements, down after a long calm

Twice as many shards are wanted when the lag stays above its target while the stream is busy. Half as many are wanted
when there has been next to no lag and little work for minutes. The two thresholds of utilisation are so far apart that
neither step alone can cause the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.core.errors import RequestError


@dataclass(frozen=True)
class ShardRange:
    """The least and the greatest number of shards of a stream that scales itself."""

    least: int
    most: int

    def clamp(self, shards: int) -> int:
        """Return the nearest number within the range."""
        return max(self.least, min(shards, self.most))


def parse_shards(text: str) -> int | ShardRange:
    """Parse `4` or `1..4`; raise `RequestError` for anything else, for a number below 1 and for an empty range."""
    least, dots, most = text.partition("..")
    if not (least.isdecimal() and (most.isdecimal() if dots else not most)):
        raise RequestError("--shards cannot be parsed", got=repr(text), do="use a number like 4, or a range like 1..4")
    begin, end = int(least), int(most or least)
    if not 1 <= begin <= end:
        raise RequestError("--shards must be at least 1, and a range must not be empty", got=repr(text))
    return ShardRange(begin, end) if dots else begin


@dataclass(frozen=True)
class StreamLoad:
    """What was measured of a stream since the last measurement."""

    at_s: float
    """The time of the measurement, by a monotonic clock."""
    lag_s: float
    """How long the stream would take for the rows that it has not read, at its current rate."""
    utilisation: float
    """The share of the time in which the stream did not wait for rows, from 0 to 1."""
    state_share: float = 1.0
    """The share of that busy time which was spent in shards: more shards cannot speed up the rest."""


@dataclass(frozen=True)
class ScalingPolicy:
    """When a stream gets more or fewer shards."""

    target_lag_s: float = 10.0
    high: float = 0.8
    """The utilisation from which a stream with lag is short of shards."""
    low: float = 0.3
    """The utilisation up to which half the shards would do."""
    least_state_share: float = 0.25
    """The share of the busy time in shards below which more of them would be useless."""
    strained: int = 3
    """The number of consecutive measurements after which shards are added."""
    calm_s: float = 300.0
    """How long a stream must be calm until shards are removed."""
    cool_down_s: float = 30.0
    """The least time between two changes."""
    measure_s: float = 5.0
    """The time between two measurements."""


@dataclass(frozen=True)
class Scaling:
    """The wanted number of shards, and what the next decision depends on."""

    shards: int
    strained: int = 0
    """The number of measurements, up to the last one, in which the stream was short of shards."""
    calm_since_s: float | None = None
    changed_at_s: float = float("-inf")


def decide(now: Scaling, load: StreamLoad, policy: ScalingPolicy, bounds: ShardRange) -> Scaling:
    """Return the next number of shards, which is within the bounds. At most it doubles or halves."""
    is_short = (
        load.lag_s > policy.target_lag_s
        and load.utilisation >= policy.high
        and load.state_share >= policy.least_state_share
    )
    is_calm = load.lag_s <= policy.target_lag_s / 2 and load.utilisation <= policy.low
    strained = now.strained + 1 if is_short else 0
    calm_since_s = (load.at_s if now.calm_since_s is None else now.calm_since_s) if is_calm else None
    measured = replace(now, shards=bounds.clamp(now.shards), strained=strained, calm_since_s=calm_since_s)
    if load.at_s - now.changed_at_s < policy.cool_down_s:
        return measured
    wanted = measured.shards
    if strained >= policy.strained:
        wanted = bounds.clamp(wanted * 2)
    elif calm_since_s is not None and load.at_s - calm_since_s >= policy.calm_s:
        wanted = bounds.clamp((wanted + 1) // 2)
    return measured if wanted == measured.shards else Scaling(wanted, changed_at_s=load.at_s)
