"""Metrics of a running stream: rates, time per phase, and the latency of rows."""

from __future__ import annotations

import bisect
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate

from pipeline.streaming.runtime.steps import CommitStep

BOUNDS_S = (0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""The upper bounds of the histogram buckets, in seconds. A last bucket holds longer times."""
PHASES = ("wait", "read", "advance", "stage", "save", "commit")
"""Waiting for rows; reading and preparing; processing in shards; validating and staging; saving state; committing."""
_RATE_OVER_S = 5.0


@dataclass
class Histogram:
    """A histogram of durations."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum_s: float = 0.0
    max_s: float = 0.0

    def add(self, seconds: float, times: int) -> None:
        """Add a duration that occurred `times` times."""
        self.counts[bisect.bisect_left(BOUNDS_S, seconds)] += times
        self.sum_s += seconds * times
        self.max_s = max(self.max_s, seconds)

    @property
    def count(self) -> int:
        """The number of durations."""
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """Return a quantile, interpolated linearly within a bucket; `None` if there are no durations."""
        total = self.count
        if not total:
            return None
        ends = list(accumulate(self.counts))
        at = bisect.bisect_left(ends, share * total)
        begin = BOUNDS_S[at - 1] if at else 0.0
        end = min(BOUNDS_S[at], self.max_s) if at < len(BOUNDS_S) else self.max_s
        inside = (share * total - (ends[at - 1] if at else 0)) / self.counts[at]
        return begin + max(end - begin, 0.0) * inside


@dataclass(frozen=True)
class _StagedEpoch:
    rows: list[tuple[float, int]]
    staging_at: float
    sent_at: float


@dataclass
class StreamMetrics:
    """The metrics of one stream since it was started, including restarts.

    The latency of a row is the time from when the log offered it (up to `batch_s` after it was written) to the commit
    that contains the row or its contribution to the state.
    """

    clock: Callable[[], float] = time.monotonic
    rows: int = 0
    bytes: int = 0
    micro_batches: int = 0
    commits: int = 0
    restarts: int = 0
    recoveries: int = 0
    recovery_s: float = 0.0
    """How long the recoveries took together, from the error of a lost worker until all workers were ready again."""
    phases: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    """Seconds by phase. `commit` runs in parallel to the other phases."""
    latency: Histogram = field(default_factory=Histogram)
    commit_durations: Histogram = field(default_factory=Histogram)
    """The durations of commits, from the start of staging to the end of the commit."""
    _lapped: float = 0.0
    _offered: float = 0.0
    _pending: list[tuple[float, int]] = field(default_factory=list)
    _sent: deque[_StagedEpoch] = field(default_factory=deque)
    """Commits that have started. The next one may start before the previous one has ended."""
    _staging_at: float = 0.0
    _lately: deque[tuple[float, int, int]] = field(default_factory=deque)

    def begin(self) -> None:
        """Start a micro-batch."""
        self.micro_batches += 1
        self._lapped = self.clock()

    def end_phase(self, phase: str) -> None:
        """End a phase."""
        now = self.clock()
        self.phases[phase] += now - self._lapped
        self._lapped = now
        if phase == "wait":
            self._offered = now

    def count_rows(self, rows: int, size_bytes: int) -> None:
        """Count rows that were read."""
        if not rows:
            return
        self.rows += rows
        self.bytes += size_bytes
        self._pending.append((self._offered, rows))
        self._lately.append((self._lapped, rows, size_bytes))
        while self._lately and self._lapped - self._lately[0][0] > 2 * _RATE_OVER_S:
            self._lately.popleft()

    def reached(self, step: CommitStep) -> None:
        """Record a step of a commit: `staged` and `saved` in the stream's thread, `committed` in the commit thread."""
        if step == CommitStep.STAGED:
            self._staging_at = self._lapped
            self.end_phase("stage")
        elif step == CommitStep.SAVED:
            self.end_phase("save")
            self._sent.append(_StagedEpoch(self._pending, self._staging_at, self._lapped))
            self._pending = []
        elif step == CommitStep.COMMITTED:
            now, sent = self.clock(), self._sent.popleft()
            for offered, rows in sent.rows:
                self.latency.add(now - offered, rows)
            self.phases["commit"] += now - sent.sent_at
            self.commit_durations.add(now - sent.staging_at, 1)
            self.commits += 1

    def restarted(self) -> None:
        """Record a restart from the last commit. Pending rows are read again."""
        self.restarts += 1
        self._pending = []
        self._sent.clear()

    def recovered(self, seconds: float) -> None:
        """Record a recovery from lost workers. Pending rows are read again."""
        self.recoveries += 1
        self.recovery_s += seconds
        self._pending = []
        self._sent.clear()

    def rates(self) -> tuple[float, float]:
        """Return rows and bytes per second, averaged over the last 5 seconds."""
        now = self.clock()
        lately = [sample for sample in list(self._lately) if now - sample[0] <= _RATE_OVER_S]
        if not lately:
            return 0.0, 0.0
        over = min(_RATE_OVER_S, max(now - lately[0][0], 0.5))
        return sum(rows for _, rows, _ in lately) / over, sum(size for *_, size in lately) / over


class RunStatus(StrEnum):
    """The status of a stream."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"
    """Waiting for a system that does not answer."""
    PAUSED = "paused"
    DRAINING = "draining"
    RECOVERING = "recovering"
    """Replacing lost workers."""
    RESTARTING = "restarting"
    ENDED = "ended"
    STOPPED = "stopped"
    FAILED = "failed"


TROUBLED = frozenset({RunStatus.FAILED, RunStatus.RECOVERING, RunStatus.RESTARTING, RunStatus.WAITING})
"""The statuses whose reason is in `StreamStatus.error`."""


@dataclass(frozen=True)
class StreamStatus:
    """The status and metrics of a stream at a point in time."""

    name: str
    status: RunStatus = RunStatus.STARTING
    epoch: int = 0
    rows_per_s: float = 0.0
    bytes_per_s: float = 0.0
    lag: Mapping[str, int | None] = field(default_factory=dict)
    """The number of offsets that are not read yet, by partition; `None` for a log without an end."""
    watermark_delay_s: float | None = None
    """How far the watermark is behind the clock; `None` before the first watermark and after the end of the log."""
    totals: Mapping[str, int] = field(default_factory=dict)
    """Rows since the stream was created, by outcome."""
    state_rows: int = 0
    state_bytes: int = 0
    """The size of the state files, as of the last commit."""
    shards: int = 1
    restarts: int = 0
    recoveries: int = 0
    """How often lost workers were replaced."""
    recovery_s: float = 0.0
    """How long that took in total."""
    commits: int = 0
    phases_s: Mapping[str, float] = field(default_factory=dict)
    latency: Histogram = field(default_factory=Histogram)
    commit_durations: Histogram = field(default_factory=Histogram)
    waits_for: Sequence[str] = ()
    """If the stream has state: the partitions or inputs that hold the watermark back."""
    error: str = ""
    """The reason for the last recovery or restart, for waiting, or for the failure."""

    @property
    def behind(self) -> int | None:
        """The total lag of all partitions; `None` if a log has no end."""
        known: Sequence[int | None] = list(self.lag.values())
        return None if None in known else sum(value for value in known if value is not None)
