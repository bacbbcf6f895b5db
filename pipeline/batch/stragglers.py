"""Stragglers: tasks that run much longer than the others, and are run a second time if the cluster has idle slots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from statistics import median
from typing import TypeVar

FACTOR = 2.0
"""A straggler runs this many times as long as its input takes at the median speed."""
LEAST_S = 15.0
"""The minimum time of a straggler: on a busy node, a worker needs several seconds to start, and a copy needs one too."""
LEAST_ENDED = 3
"""The minimum number of tasks that must have ended before one can be a straggler; and half of all."""
_OPENING_BYTES = 1 << 20
T = TypeVar("T")


@dataclass
class Stragglers:
    """Finds stragglers among the tasks of a round."""

    tasks: int
    """The number of tasks of the round."""
    _s_per_byte: list[float] = field(default_factory=list, init=False)

    def ended(self, size_bytes: int, seconds: float) -> None:
        """Count a task that has ended."""
        self._s_per_byte.append(seconds / (size_bytes + _OPENING_BYTES))

    def limit_s(self, size_bytes: int) -> float:
        """Return the seconds after which a task with this input is a straggler; infinity until enough tasks have ended."""
        if len(self._s_per_byte) < max(LEAST_ENDED, -(-self.tasks // 2)):
            return inf
        return max(LEAST_S, FACTOR * median(self._s_per_byte) * (size_bytes + _OPENING_BYTES))

    def among(self, running: Mapping[T, tuple[int, float]], idle_slots: int) -> list[T]:
        """Return the running tasks to copy, the slowest first; for each running task, its bytes and seconds so far."""
        over = {task: seconds / self.limit_s(size_bytes) for task, (size_bytes, seconds) in running.items()}
        return [task for task in sorted(over, key=over.__getitem__, reverse=True) if over[task] > 1][
            : max(0, idle_slots)
        ]
