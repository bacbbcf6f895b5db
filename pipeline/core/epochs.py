"""The epoch of a stream: its progress and the files of its state at one commit.

It is part of the manifest of the table's version, so rows, offsets, watermark and state change in one commit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.core.format_versions import require_known
from pipeline.core.state_identity import StateIdentity, identity_of

FORMAT_VERSION = 2
"""The format version of new epochs; earlier versions can be read."""
BEGINNING, END = -(1 << 62), 1 << 62
"""The lowest and the highest watermark. All watermarks are in microseconds since 1970 in UTC."""


@dataclass(frozen=True)
class PartitionProgress:
    """The latest event time of a partition, `None` before its first row, and the arrival time of its last row."""

    latest: int | None
    at: int
    is_live: bool = False
    """Whether event time is close to arrival time, so that the watermark of an idle partition may follow the clock."""


@dataclass(frozen=True)
class InputProgress:
    """The progress of a streamed input: the next offset and the event time of each partition."""

    offsets: Mapping[str, int] = field(default_factory=dict)
    partitions: Mapping[str, PartitionProgress] = field(default_factory=dict)
    watermark: int = BEGINNING
    began: Mapping[str, int] = field(default_factory=dict)
    """The offset at which the stream started to read each partition."""
    stamps: Mapping[str, str] = field(default_factory=dict)
    """A value per partition that changes if the partition is recreated under the same name."""
    is_idle: bool = False
    """Whether all partitions are idle, so that none holds back the watermark."""

    def beginning(self, offsets: Mapping[str, int], stamps: Mapping[str, str]) -> InputProgress:
        """Return the progress with these offsets; new partitions start at their offset, with their stamp."""
        return replace(self, offsets=dict(offsets), began={**offsets, **self.began}, stamps={**stamps, **self.stamps})


@dataclass(frozen=True)
class StateSegment:
    """A byte range of a state file: added rows of a state table, or the numbers of deleted rows."""

    table: str
    kind: str
    begin: int
    end: int
    rows: int


@dataclass(frozen=True)
class StateFile:
    """A state file of one shard, in the table's folder: a base, or the changes since the previous file."""

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
    """The progress and the state of a stream at one commit."""

    number: int
    inputs: Mapping[str, InputProgress]
    """Progress by the name of the streamed input."""
    identity: StateIdentity | None = None
    """Identifies the state by its definition; `None` for a stream without state."""
    watermark: int = BEGINNING
    shards: int = 1
    state: Sequence[StateFile] = ()
    totals: Mapping[str, int] = field(default_factory=dict)
    """Rows since the stream started, by outcome."""
    engine: str = ""
    """The version of the engine that wrote the state."""
    drained: bool = False
    """Whether all windows were closed, so that no further rows are emitted."""
    definition: str = ""
    """In format 1, instead of the identity: a hash of SQL that Headwater generated."""
    format_version: int = FORMAT_VERSION

    @property
    def offsets(self) -> dict[str, int]:
        """The offsets of all partitions of all inputs."""
        return {uri: offset for reached in self.inputs.values() for uri, offset in reached.offsets.items()}


def epoch_of(parts: Mapping[str, Any]) -> Epoch:
    """Return an epoch from the result of `dataclasses.asdict`, in this or an earlier format.

    Raises `StorageError` for a later format.
    """
    version = parts.get("format_version", 1)
    advice = "upgrade Headwater, or rebuild the table: headwater stream --from earliest"
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
