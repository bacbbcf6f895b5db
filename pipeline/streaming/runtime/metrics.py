"""What a stream does, counted while it does it: rates, times of its phases, and how long rows take to their commit."""

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
"""The upper ends of the histogram's buckets; a last one has what is longer."""
PHASES = ("wait", "read", "advance", "stage", "save", "commit")
"""For rows to come; reading and making ready; in the shards; judging and staging; the memory's files; the table's commit."""
_RATE_OVER_S = 5.0


@dataclass
class Histogram:
    """How often something took how long."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum_s: float = 0.0
    max_s: float = 0.0

    def add(self, seconds: float, times: int) -> None:
        """Count something that happened some times, and took so long each time."""
        self.counts[bisect.bisect_left(BOUNDS_S, seconds)] += times
        self.sum_s += seconds * times
        self.max_s = max(self.max_s, seconds)

    @property
    def count(self) -> int:
        """How often it happened."""
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """Return how long it took at most in a share of the cases, evenly between a bucket's ends; `None` for no case."""
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
    """The counts of one stream since it was started, through restarts.

    A row's latency is from when its log offered it (the look at the log that found it, which may be `batch_s` after it was
    written) to the commit that has it, or that has what it was remembered as.
    """

    clock: Callable[[], float] = time.monotonic
    rows: int = 0
    bytes: int = 0
    micro_batches: int = 0
    commits: int = 0
    restarts: int = 0
    phases: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    """Seconds by phase; `commit` goes on beside the others."""
    latency: Histogram = field(default_factory=Histogram)
    epochs: Histogram = field(default_factory=Histogram)
    """Of commits: from the begin of staging to the end."""
    _lapped: float = 0.0
    _offered: float = 0.0
    _pending: list[tuple[float, int]] = field(default_factory=list)
    _sent: deque[_StagedEpoch] = field(default_factory=deque)
    """Commits that have begun; the next one may begin before the last has ended."""
    _staging_at: float = 0.0
    _lately: deque[tuple[float, int, int]] = field(default_factory=deque)

    def begin(self) -> None:
        """A micro-batch begins."""
        self.micro_batches += 1
        self._lapped = self.clock()

    def end_phase(self, phase: str) -> None:
        """A phase is over."""
        now = self.clock()
        self.phases[phase] += now - self._lapped
        self._lapped = now
        if phase == "wait":
            self._offered = now

    def count_rows(self, rows: int, size_bytes: int) -> None:
        """Rows were read."""
        if not rows:
            return
        self.rows += rows
        self.bytes += size_bytes
        self._pending.append((self._offered, rows))
        self._lately.append((self._lapped, rows, size_bytes))
        while self._lately and self._lapped - self._lately[0][0] > 2 * _RATE_OVER_S:
            self._lately.popleft()

    def reached(self, step: CommitStep) -> None:
        """A commit came to a step: `staged` and `saved` in the stream's thread, `committed` in that of its commits."""
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
            self.epochs.add(now - sent.staging_at, 1)
            self.commits += 1

    def restarted(self) -> None:
        """The stream goes on from its last commit: what was pending is read again."""
        self.restarts += 1
        self._pending = []
        self._sent.clear()

    def rates(self) -> tuple[float, float]:
        """Return rows and bytes a second of the last seconds."""
        now = self.clock()
        lately = [sample for sample in list(self._lately) if now - sample[0] <= _RATE_OVER_S]
        if not lately:
            return 0.0, 0.0
        over = min(_RATE_OVER_S, max(now - lately[0][0], 0.5))
        return sum(rows for _, rows, _ in lately) / over, sum(size for *_, size in lately) / over


class RunStatus(StrEnum):
    """What a stream does, or how it ended."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"
    """For a system that does not answer."""
    PAUSED = "paused"
    DRAINING = "draining"
    RESTARTING = "restarting"
    ENDED = "ended"
    STOPPED = "stopped"
    FAILED = "failed"


TROUBLED = frozenset({RunStatus.FAILED, RunStatus.RESTARTING, RunStatus.WAITING})
"""The statuses whose reason is in `StreamStatus.error`."""


@dataclass(frozen=True)
class StreamStatus:
    """A stream as it is at a moment, for people and machines."""

    name: str
    status: RunStatus = RunStatus.STARTING
    epoch: int = 0
    rows_per_s: float = 0.0
    bytes_per_s: float = 0.0
    lag: Mapping[str, int | None] = field(default_factory=dict)
    """By partition: offsets that are not read yet; `None` for a log that has no end."""
    watermark_delay_s: float | None = None
    """How far the watermark is behind the clock; `None` before the first and at the end of time."""
    totals: Mapping[str, int] = field(default_factory=dict)
    """Rows since the stream was made, by what became of them."""
    state_rows: int = 0
    state_bytes: int = 0
    """What is remembered, as of the last commit."""
    shards: int = 1
    restarts: int = 0
    commits: int = 0
    phases_s: Mapping[str, float] = field(default_factory=dict)
    latency: Histogram = field(default_factory=Histogram)
    epochs: Histogram = field(default_factory=Histogram)
    waits_for: Sequence[str] = ()
    """Where something is held: the partitions, or inputs, for which event time waits."""
    error: str = ""
    """Why it was restarted last, what it waits for, or why it failed."""

    @property
    def behind(self) -> int | None:
        """The lag of all partitions together; `None` when one has no end."""
        known: Sequence[int | None] = list(self.lag.values())
        return None if None in known else sum(value for value in known if value is not None)
