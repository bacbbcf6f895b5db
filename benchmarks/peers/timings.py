"""The timings that a script prints: the seconds of its parts, as one JSON object."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
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

    def say(self) -> None:
        """Print the JSON object that `benchmarks.peer` reads."""
        print(json.dumps({"start": self.start, "parts": self.parts}))
