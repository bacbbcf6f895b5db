"""Reads of an online store, timed in the same way for all contestants."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks.peers.timings import Clock

FEATURES = 100
ASKED = (0, 1, 7, 123, 999)
"""The entities whose values are compared."""
SIZES = {"1 entity": (1, 2_000), "100 entities": (100, 300)}
"""By part: the number of entities of a read, and of reads."""
TOGETHER_S = 3.0
PROCESSES = 2


def timed(clock: Clock, read: Callable[[Sequence[int]], Any], entities: int) -> None:
    """Record the median and the 99th percentile of reads of random entities, after some as a warm-up.

    `CPU` is the processor time of the thread: on a busy machine, the 99th percentile is mostly waiting for a core.
    """
    chance = random.Random(7)  # noqa: S311 - the same entities for all
    for part, (size, count) in SIZES.items():
        taken, cpu = [], []
        for number in range(count + count // 10):
            keys = [chance.randrange(entities) for _ in range(size)]
            begun, cpu_begun = time.perf_counter(), time.thread_time()
            read(keys)
            if number >= count // 10:
                taken.append(time.perf_counter() - begun)
                cpu.append(time.thread_time() - cpu_begun)
        for kind, seconds in (("", taken), (" CPU", cpu)):
            seconds.sort()
            clock.parts[f"{part} p50{kind}"] = statistics.median(seconds)
            clock.parts[f"{part} p99{kind}"] = seconds[int(len(seconds) * 0.99)]


def together(clock: Clock, reads: Callable[[float, int], int], entities: int) -> None:
    """Record the seconds of a read while several processes read one entity after the other.

    `reads` reads for some seconds, and returns how often.
    """
    with ProcessPoolExecutor(PROCESSES) as pool:
        counts = list(pool.map(reads, [TOGETHER_S] * PROCESSES, [entities] * PROCESSES))
    clock.parts[f"each of {PROCESSES} processes"] = TOGETHER_S / sum(counts)


def for_seconds(read: Callable[[Sequence[int]], Any], seconds: float, entities: int) -> int:
    """Read one entity after the other for some seconds; return how often."""
    read([0])
    chance, count, until = random.Random(11), 0, time.perf_counter() + seconds  # noqa: S311 - see above
    while time.perf_counter() < until:
        read([chance.randrange(entities)])
        count += 1
    return count
