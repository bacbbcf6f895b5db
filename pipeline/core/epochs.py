"""What a stream's table says of the stream that makes it: how far it is, and where its memory is kept.

It stands in the manifest of the table's version, so that rows, offsets, watermark and memory change in one commit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.core.format_versions import require_known
from pipeline.core.state_identity import StateIdentity, identity_of

FORMAT_VERSION = 2
"""The format of the epochs that are written; earlier ones can be read."""
BEGINNING, END = -(1 << 62), 1 << 62
"""The watermarks before all time and after it, in microseconds since 1970 in UTC, as all watermarks are."""


@dataclass(frozen=True)
class PartitionProgress:
    """What is known of a partition: its latest event time, if a row came, and when the last one came, by the clock."""

    latest: int | None
    at: int
    is_live: bool = False
    """Whether it happened about when it came, by the clock: then time goes on by the clock while nothing comes."""


@dataclass(frozen=True)
class InputProgress:
    """How far a streamed input is: the offset of each partition that comes next, and its event time."""

    offsets: Mapping[str, int] = field(default_factory=dict)
    partitions: Mapping[str, PartitionProgress] = field(default_factory=dict)
    watermark: int = BEGINNING
    began: Mapping[str, int] = field(default_factory=dict)
    """The offset of each partition at which the stream began to read it."""
    stamps: Mapping[str, str] = field(default_factory=dict)
    """What tells each partition from one that is made anew under its name."""
    is_idle: bool = False
    """Whether none of its partitions holds the watermark back."""

    def beginning(self, offsets: Mapping[str, int], stamps: Mapping[str, str]) -> InputProgress:
        """Return it with these offsets; a partition that was not known begins there, and has that stamp."""
        return replace(self, offsets=dict(offsets), began={**offsets, **self.began}, stamps={**stamps, **self.stamps})


@dataclass(frozen=True)
class StateSegment:
    """A stretch of a state file: rows of a table that came, or the numbers of rows that went."""

    table: str
    kind: str
    begin: int
    end: int
    rows: int


@dataclass(frozen=True)
class StateFile:
    """A file of the memory of one shard, below the table's folder: a base, or the changes since the file before."""

    path: str
    shard: int
    is_base: bool
    sha256: str
    segments: Sequence[StateSegment] = ()

    @property
    def size_bytes(self) -> int:
        """The size of the file."""
        return max((segment.end for segment in self.segments), default=0)


@dataclass(frozen=True)
class Epoch:
    """A stream at one of its commits."""

    number: int
    inputs: Mapping[str, InputProgress]
    """By the name of the streamed input."""
    identity: StateIdentity | None = None
    """What its state is by its definition; None for a stream without state."""
    watermark: int = BEGINNING
    shards: int = 1
    state: Sequence[StateFile] = ()
    totals: Mapping[str, int] = field(default_factory=dict)
    """Rows since the stream began, by what became of them."""
    engine: str = ""
    """The version of the engine whose states the memory holds."""
    drained: bool = False
    """Whether every window was closed, and nothing is to come."""
    definition: str = ""
    """In an epoch of format 1, in place of the identity: a hash of SQL that Headwater generated."""
    format_version: int = FORMAT_VERSION

    @property
    def offsets(self) -> dict[str, int]:
        """The offsets of all partitions of all inputs."""
        return {uri: offset for reached in self.inputs.values() for uri, offset in reached.offsets.items()}


def epoch_of(parts: Mapping[str, Any]) -> Epoch:
    """Return what `dataclasses.asdict` made of an epoch, in this or an earlier format.

    Raises `StorageError` for a later one.
    """
    version = parts.get("format_version", 1)
    advice = "upgrade Headwater, or make the table anew: headwater stream --from earliest"
    require_known(version, FORMAT_VERSION, "the state of a stream", advice)
    inputs = {
        name: InputProgress(
            offsets=progress["offsets"],
            partitions={uri: PartitionProgress(**seen) for uri, seen in progress["partitions"].items()},
            watermark=progress["watermark"],
            began=progress["began"],
            stamps=progress["stamps"],
            is_idle=progress.get("is_idle", False),
        )
        for name, progress in parts["inputs"].items()
    }
    state = tuple(
        StateFile(**{**file, "segments": tuple(StateSegment(**segment) for segment in file["segments"])})
        for file in parts["state"]
    )
    identity = identity_of(parts.get("identity"))
    return Epoch(**{**parts, "inputs": inputs, "state": state, "identity": identity, "format_version": version})
