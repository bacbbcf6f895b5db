"""The memory and cores that a run may use, shared among concurrent tasks."""

from __future__ import annotations

import os
import resource
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.core.processes import cores, read_text
from pipeline.kernel.pool import Limits

SHARE = 0.6
"""The default share of the machine's memory for a run; the rest is for memory that engines do not account for."""
LEAST_BYTES = 128 << 20
"""The minimum memory with which an engine can write a file."""


@dataclass(frozen=True)
class Budget:
    """The memory of all tasks together, and the number of concurrent tasks."""

    memory_bytes: int
    slots: int

    def whole(self) -> Limits:
        """Return the limits of a task that runs alone."""
        return Limits(self.memory_bytes, self.slots)

    def part(self, tasks: int) -> Limits:
        """Return the limits of each of several concurrent tasks, which have one thread each."""
        beside = max(1, min(tasks, self.slots))
        return Limits(max(LEAST_BYTES, self.memory_bytes // beside), 1)


class MemoryPool:
    """The memory of a run, divided among concurrent steps: in equal shares, or entirely to one step."""

    def __init__(self, budget: Budget, steps: int) -> None:
        """Create at most one share per concurrent step, each large enough for an engine on every core."""
        self.shares = max(1, min(steps, budget.memory_bytes // (LEAST_BYTES * budget.slots)))
        self._memory_bytes = budget.memory_bytes
        self._free = self.shares
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, needed_bytes: int | None) -> Iterator[int]:
        """Wait for a share of at least this size, otherwise for all memory; yield the number of bytes that may be used.

        `None` requests all memory. Requests are served in order, so that none waits forever.
        """
        share = self._memory_bytes // self.shares
        count = 1 if needed_bytes is not None and needed_bytes <= share else self.shares
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            self._changed.wait_for(lambda: self._queue[0] is ticket and self._free >= count)
            self._queue.popleft()
            self._free -= count
            self._changed.notify_all()
        try:
            yield share * count
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()


def budget_here(memory_bytes: int | None = None) -> Budget:
    """Return the budget of a run in this process: as configured, otherwise a share of the machine or container."""
    return Budget(int(SHARE * machine_bytes()) if memory_bytes is None else memory_bytes, cores())


def machine_bytes() -> int:
    """Return the memory of the machine, or the limit of the container if it is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = read_text("/sys/fs/cgroup/memory.max").strip()
    return min(total, int(limit)) if limit.isdigit() else total


def free_bytes() -> int:
    """Return the memory that this process can still take: of the machine, its container and its own limit."""
    known = dict(line.split(":", 1) for line in read_text("/proc/meminfo").splitlines() if ":" in line)
    available = known.get("MemAvailable", "").split()
    free = [int(available[0]) << 10 if available else machine_bytes()]
    limit, used = read_text("/sys/fs/cgroup/memory.max").strip(), read_text("/sys/fs/cgroup/memory.current").strip()
    if limit.isdigit() and used.isdigit():
        stat = dict(
            line.split() for line in read_text("/sys/fs/cgroup/memory.stat").splitlines() if line.count(" ") == 1
        )
        free.append(int(limit) - int(used) + int(stat.get("inactive_file", 0)))  # pages of files are given back
    own = resource.getrlimit(resource.RLIMIT_AS)[0]
    if own != resource.RLIM_INFINITY:
        pages = int(read_text("/proc/self/statm").split()[0])
        free.append(own - pages * os.sysconf("SC_PAGE_SIZE"))
    return max(0, min(free))
