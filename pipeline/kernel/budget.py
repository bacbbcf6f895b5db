"""What a run may take of a machine: memory and cores, shared among the tasks that work side by side."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.core.processes import cores, read_text
from pipeline.kernel.pool import Limits

SHARE = 0.6
"""The share of the machine's memory that a run takes without a setting; the rest is for what no engine counts."""
_LEAST_BYTES = 128 << 20
"""Below this an engine cannot even write a file."""


@dataclass(frozen=True)
class Budget:
    """The memory of all tasks together, and how many work at once."""

    memory_bytes: int
    slots: int

    def whole(self) -> Limits:
        """Return what one task may take that works alone."""
        return Limits(self.memory_bytes, self.slots)

    def part(self, tasks: int) -> Limits:
        """Return what each of several tasks may take, which work one thread each."""
        beside = max(1, min(tasks, self.slots))
        return Limits(max(_LEAST_BYTES, self.memory_bytes // beside), 1)


class MemoryPool:
    """The memory of a run, which steps that work at once share: in equal shares, or one step takes all of it."""

    def __init__(self, budget: Budget, steps: int) -> None:
        """Make as many shares as steps may work at once, each large enough for an engine on every core."""
        self.shares = max(1, min(steps, budget.memory_bytes // (_LEAST_BYTES * budget.slots)))
        self._memory_bytes = budget.memory_bytes
        self._free = self.shares
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, needed_bytes: int | None) -> Iterator[int]:
        """Wait for a share that holds so many bytes, else for all memory; yield the bytes that may be used.

        `None` asks for all. Who asks first is served first, so that no one waits for ever.
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
    """Return the budget of a run in this process: what is asked for, else a share of the machine or container."""
    return Budget(int(SHARE * machine_bytes()) if memory_bytes is None else memory_bytes, cores())


def machine_bytes() -> int:
    """Return the memory of the machine, or of the container when that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = read_text("/sys/fs/cgroup/memory.max").strip()
    return min(total, int(limit)) if limit.isdigit() else total
