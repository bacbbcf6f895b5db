"""The timings that a script prints: the seconds of its parts, as one JSON object."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
CALLS = 7


class Clock:
    """Records the seconds of a job's parts; `start` is the engine's start-up time, zero if it has none."""

    def __init__(self) -> None:
        """Start without parts."""
        self.start = 0.0
        self.parts: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part."""
        begun = time.perf_counter()
        yield
        self.parts[name] = time.perf_counter() - begun

    def often(self, name: str, call: Callable[[], T]) -> T:
        """Call a function once to warm up, then seven times; record the median and return the last result."""
        call()
        taken = []
        for _ in range(CALLS):
            begun = time.perf_counter()
            result = call()
            taken.append(time.perf_counter() - begun)
        self.parts[name] = statistics.median(taken)
        return result

    def each(self, named: Mapping[str, Sequence[Callable[[], T]]]) -> dict[str, list[T]]:
        """Call all functions, those of different names in turn, after one of each as a warm-up; return their results.

        Records the median and the 95th percentile of the calls of each name, and of all calls.
        """
        taken: dict[str, list[float]] = {name: [] for name in named}
        results: dict[str, list[T]] = {name: [] for name in named}
        for calls in named.values():
            calls[0]()
        for turn in zip(*named.values(), strict=True):
            for name, call in zip(named, turn, strict=True):
                begun = time.perf_counter()
                result = call()
                taken[name].append(time.perf_counter() - begun)
                results[name].append(result)
        taken[""] = [seconds for each in taken.values() for seconds in each]
        for name, seconds in taken.items():
            ordered = sorted(seconds)
            self.parts[f"{name} p50".strip()] = statistics.median(ordered)
            self.parts[f"{name} p95".strip()] = ordered[math.ceil(0.95 * len(ordered)) - 1]
        return results

    def say(self) -> None:
        """Print the JSON object that `benchmarks.peer` reads."""
        print(json.dumps({"start": self.start, "parts": self.parts}))
