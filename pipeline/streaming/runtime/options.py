"""What a stream is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.streaming.runtime.start import StartPosition, StateMode


@dataclass(frozen=True)
class Intervals:
    """How often a stream does what."""

    batch_s: float = 0.1
    """How long a micro-batch waits for rows at most before it takes what there is."""
    commit_s: float = 0.5
    """How long rows that came out wait at most for their commit to begin."""
    idle_commit_s: float = 5.0
    """How long the stream goes on without a commit while no rows come out."""
    batch_offsets: int = 1 << 18
    """The most offsets of a partition that a micro-batch takes, where offsets count records."""


@dataclass(frozen=True)
class StreamOptions:
    """How one stream runs."""

    begin: StartPosition = "committed"
    intervals: Intervals = field(default_factory=Intervals)
    shards: int | None = None
    """How many shards keep its state; `None`: as many as there are cores."""
    source_tasks: int | None = None
    """How many tasks read; `None`: as many as there are cores, and at most one for each partition."""
    anew: bool = False
    """Whether a start at offsets may replace the table of a stream that has committed."""
    state: StateMode = "restore"
    """Where its state comes from when it goes on from a commit."""
    accept_gaps: bool = False
    """Whether to go on behind what the log deleted before it was read."""
