"""The options of a stream."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.streaming.runtime.autoscaling import ShardRange
from pipeline.streaming.runtime.start import StartPosition, StateMode


@dataclass(frozen=True)
class Intervals:
    """The intervals of micro-batches and commits."""

    batch_s: float = 0.1
    """The maximum time for which a micro-batch waits for rows."""
    commit_s: float = 0.5
    """The maximum time for which emitted rows wait until their commit starts."""
    idle_commit_s: float = 5.0
    """The maximum time between commits while no rows are emitted."""
    batch_offsets: int = 1 << 18
    """The maximum number of offsets per partition and micro-batch, if offsets count records."""


@dataclass(frozen=True)
class StreamOptions:
    """The options of one stream."""

    begin: StartPosition = "committed"
    intervals: Intervals = field(default_factory=Intervals)
    shards: int | ShardRange | None = None
    """Number of state shards (default: number of cores), or a range within which the stream scales itself."""
    source_tasks: int | None = None
    """Number of source tasks (default: number of cores), at most one per partition."""
    anew: bool = False
    """Whether a start at given offsets may replace the table of a stream that has committed."""
    state: StateMode = "restore"
    """How it gets its state when it resumes from a commit."""
    accept_gaps: bool = False
    """Whether to skip rows that the log deleted before they were read."""
