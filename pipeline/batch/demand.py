"""How many tasks of a step run at the same time on a cluster: as many as its deadline needs.

Ray's autoscaler adds nodes for tasks that wait, so the number of tasks that are submitted is what a step asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

ASSUMED_BYTES_S = 40_000_000
"""The assumed speed of a slot in bytes of input per second, until the first task has ended."""
MARGIN = 1.25
"""How many times as many slots are asked for as would be enough if all went as before."""
_SOON_S = 0.001
"""A deadline that is closer than this is over."""


@dataclass(frozen=True)
class ClusterRequest:
    """What a step may ask of the cluster."""

    deadline: float | None = None
    """When it should end, in seconds since 1970; without it, all tasks run as soon as possible."""
    min_cpus: int = 0
    max_cpus: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    """Custom resources of each task."""

    def within(self, share: float, now: float) -> ClusterRequest:
        """Return the request of a stage that may take this share of the time until the deadline."""
        return self if self.deadline is None else replace(self, deadline=now + (self.deadline - now) * share)

    def demand(self, sizes: Sequence[int], cpus: int) -> Demand:
        """Return the demand of tasks with inputs of these sizes, and with this number of cores each."""
        most = None if self.max_cpus is None else max(1, self.max_cpus // cpus)
        return Demand(sum(sizes), len(sizes), self.deadline, max(1, -(-self.min_cpus // cpus)), most, cpus)


@dataclass
class Demand:
    """What a step asks of the cluster, from what is left to do, its speed so far, and its deadline."""

    left_bytes: int
    """The input of all tasks that have not ended."""
    tasks: int
    """The number of tasks that have not ended."""
    deadline: float | None = None
    """When the step should end, on the clock of `slots`."""
    least: int = 1
    """The minimum number of slots, while there are that many tasks."""
    most: int | None = None
    """The maximum number of slots."""
    cpus: int = 1
    """The cores of a slot."""
    _done_bytes: int = field(default=0, init=False)
    _busy_s: float = field(default=0.0, init=False)

    def ended(self, size_bytes: int, seconds: float) -> None:
        """Count a task that has ended; one that took no time was lost, and says nothing about the speed."""
        self.tasks -= 1
        self.left_bytes -= size_bytes
        if seconds:
            self._done_bytes += size_bytes
            self._busy_s += seconds

    @property
    def most_slots(self) -> int:
        """The number of slots without a deadline."""
        return self.tasks if self.most is None else min(self.tasks, self.most)

    @property
    def bytes_per_s(self) -> float:
        """The speed of one slot so far."""
        if not self._done_bytes:
            return ASSUMED_BYTES_S
        return self._done_bytes / self._busy_s

    def slots(self, now: float) -> int:
        """Return the number of slots to ask for; at least one while there is work, and all if the deadline is over."""
        most = self.most_slots
        if self.deadline is None:
            return most
        left_s = self.deadline - now
        if left_s < _SOON_S:
            return most
        needed = -int(-self.left_bytes * MARGIN / (self.bytes_per_s * left_s) // 1)
        return min(most, max(self.least, needed))

    def reason(self, now: float) -> str:
        """Return why this number of slots is asked for, in words."""
        left = f"{self.left_bytes / 1e6:,.0f} MB in {self.tasks:,} task{'s' * (self.tasks != 1)} left"
        if self.deadline is None:
            return f"{left}, no deadline"
        speed = f"{self.bytes_per_s / 1e6:,.1f} MB/s per slot {'so far' if self._done_bytes else 'assumed'}"
        left_s = self.deadline - now
        when = f"{left_s:,.0f} s left of" if left_s > 0 else f"{-left_s:,.0f} s over"
        return f"{left}, {speed}, {when} its share of the deadline"


ALL_AT_ONCE = ClusterRequest()
