"""Maps values to pixels: linear scales, and ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
SMALLEST_RANGE = 1e-11
"""Ranges smaller than this count as one value: ticks have 12 decimal places."""


@dataclass(frozen=True)
class Scale:
    """A linear map from the values `low` to `high` to the pixels `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; the center if the range is empty."""
        if self.high == self.low:
            return (self.start + self.end) / 2
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def step(low: float, high: float, count: int) -> float:
    """Return the smallest round step (1, 2, 2.5 or 5 times a power of ten) that divides a range into at most `count`."""
    rough = (high - low) / max(count, 1)
    if rough <= 0 or not math.isfinite(rough):
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next((s * power for s in _STEPS if s * power >= rough * (1 - 1e-9)), 10 * power)


def ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Return at least two evenly spaced round numbers that enclose `low` to `high`."""
    if high - low < SMALLEST_RANGE:
        low, high = (0.0, high if high >= SMALLEST_RANGE else 1.0) if high >= 0 else (min(low, -SMALLEST_RANGE), 0.0)
    size = step(low, high, count)
    first, last = math.floor(low / size + 1e-9), math.ceil(high / size - 1e-9)
    return tuple(round(i * size, 12) for i in range(first, last + 1))


def inside(low: float, high: float, count: int = 6) -> tuple[float, ...]:
    """Return the evenly spaced round numbers within `low` to `high`."""
    return tuple(tick for tick in ticks(low, high, count) if low <= tick <= high)


def apart(targets: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return the closest positions to the desired ones that are at least `gap` apart and in the same order.

    They stay within `low` to `high` if there is enough space. The desired positions are in ascending order.
    """
    placed = spread(targets, [gap] * max(len(targets) - 1, 0))
    if not placed:
        return []
    over = max(0.0, placed[-1] - high)
    placed = [place - over for place in placed]
    floor = low
    for i, place in enumerate(placed):
        placed[i] = max(place, floor)
        floor = placed[i] + gap
    return placed


def spread(targets: Sequence[float], gaps: Sequence[float]) -> list[float]:
    """Return the positions with the least squared distance from the desired ones that keep the gaps between neighbors.

    This is isotonic regression by pooling adjacent violators (Ayer et al., 1955), on positions minus preceding gaps.
    """
    before = [0.0]
    for gap in gaps:
        before.append(before[-1] + gap)
    pools: list[tuple[float, int]] = []
    for want, offset in zip(targets, before, strict=False):
        mean, size = want - offset, 1
        while pools and pools[-1][0] > mean:
            other, count = pools.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        pools.append((mean, size))
    flat = [mean for mean, size in pools for _ in range(size)]
    return [place + offset for place, offset in zip(flat, before, strict=False)]
