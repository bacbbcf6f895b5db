"""What a script says of its job: the seconds of its parts, as one JSON object."""

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
    """Keeps the seconds of a job's parts; `start` is what the engine took to start, zero where it has no start."""

    def __init__(self) -> None:
        """Begin without parts."""
        self.start = 0.0
        self.parts: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part."""
        begun = time.perf_counter()
        yield
        self.parts[name] = time.perf_counter() - begun

    def often(self, name: str, call: Callable[[], T]) -> T:
        """Call once without the clock, then seven times; the part is the median. Return what the last call gave."""
        call()
        taken = []
        for _ in range(CALLS):
            begun = time.perf_counter()
            result = call()
            taken.append(time.perf_counter() - begun)
        self.parts[name] = statistics.median(taken)
        return result

    def say(self) -> None:
        """Print what `benchmarks.peer` reads."""
        print(json.dumps({"start": self.start, "parts": self.parts}))
