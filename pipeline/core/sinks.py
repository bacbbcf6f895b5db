"""Sinks: deliver the versions of a table to an external system.

A sink reads outstanding versions from the lake, after each commit and at every start, so a crash between commit and
delivery loses nothing and no separate queue is needed. The target stores its own position, in the same transaction as
the rows if it supports transactions.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pipeline.core.definitions import Definition, caller
from pipeline.core.errors import ConflictError, DefinitionError, SinkError
from pipeline.core.fingerprint import fingerprint

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class SinkPosition:
    """A version of a table. Version numbers recur if a table is dropped and recreated; manifest ids do not."""

    version: int
    manifest_id: int | None = None

    def to_json(self) -> str:
        """Return the text that a target stores as its position."""
        return json.dumps({"version": self.version, "mark": self.manifest_id})

    @classmethod
    def from_json(cls, text: str | bytes) -> SinkPosition:
        """Return the position from the text written by `to_json`."""
        fields = json.loads(text)
        return cls(fields["version"], fields["mark"])


@dataclass(frozen=True)
class Delivery:
    """The changes of a table from one version to another.

    If rows of the table can change, `rows` contains new and changed rows, and `gone` contains removed rows: for a table
    with a key, the rows whose key no longer exists; for other tables, all rows that no longer exist.
    """

    to: SinkPosition
    since: SinkPosition | None
    """The position of the target that this delivery follows; `None` for an empty target."""
    rows: pa.RecordBatchReader
    """Can be read once; rows are in the order of the table's files."""
    gone: pa.Table
    key: tuple[str, ...] = ()
    """The table's key."""
    files: tuple[str, ...] = ()
    """The URIs of all data files of the table in this version, in order."""
    is_whole: bool = False
    """Whether `rows` contains all rows of the table, because the changes cannot be determined."""
    current: Callable[[pa.Table | None], pa.RecordBatchReader] | None = None
    """Returns the rows of the table in this version: all, or those whose values in some columns a given table contains.
    It is called after `rows` has been read."""


class Target(Protocol):
    """Receives deliveries in order from a single writer. After an error, it is closed and reopened."""

    def reached(self) -> SinkPosition | None:
        """Return the last version that is known to be written; `None` for an empty target."""

    def write(self, delivery: Delivery) -> None:
        """Write a delivery; do nothing if it is already written.

        Raises `ConflictError` if the delivery does not follow the target's position, or if another writer has taken
        over; `SchemaError` for rows that cannot be represented; `SinkError` if the target rejects them.
        """

    def close(self) -> None:
        """Close the target."""


@dataclass(frozen=True)
class SinkContext:
    """The sink and its project, and the folder for its local files."""

    project: str
    env: str
    sink: str
    state: Path
    online: str = ""
    """The URL of the online store of features."""
    memory_bytes: int | None = None
    """The memory of an engine; `None` for its default."""

    @property
    def id(self) -> str:
        """A name that is unique to this sink."""
        return f"headwater.{self.project}.{self.env}.{self.sink}"


class Destination(Protocol):
    """The target of a sink as defined. It is not opened until rows are sent."""

    def open(self, context: SinkContext) -> Target:
        """Open the target; raise `SinkError` on failure."""

    def __str__(self) -> str:
        """A one-line description of the target, without secrets."""


@runtime_checkable
class SharesFiles(Protocol):
    """A destination that refers to the data files of the lake, so that the version that it has must stay readable."""

    @property
    def shares_files(self) -> bool:
        """Whether it refers to them."""


@dataclass(frozen=True, kw_only=True)
class Sink(Definition):
    """Delivers the rows of a table to an external system. Create one with `sink`."""

    table: str
    to: Destination = field(compare=False)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The table."""
        return (self.table,)

    @property
    def selected_with(self) -> str:
        """The name of the table."""
        return self.table

    @property
    def kind(self) -> str:
        """`sink`."""
        return "sink"

    @property
    def fingerprint(self) -> str:
        """Changes with the table and the target."""
        return fingerprint("sink", self.table, str(self.to))


def sink(of: str, *, to: Destination, description: str = "") -> Sink:
    """Deliver the rows of a table, and their changes, to a target.

        alerts = sink("late_twice", to=to_kafka("alerts", key="tailnum"))

    The first delivery contains all current rows of the table. `headwater stream` delivers streamed tables after each
    commit; `headwater run` delivers other tables. If the target fails, the table is not affected, and outstanding changes
    are sent on the next delivery.
    """
    place = caller()
    if not isinstance(of, str):
        raise DefinitionError(
            "a sink requires the name of a table", got=repr(of), do="pass it as a string", place=place
        )
    return Sink(place=place, description=description or f"to {to}", table=of, to=to)


def is_delivered(delivery: Delivery, reached: SinkPosition | None) -> bool:
    """Return whether a target at a position has a delivery; raise `ConflictError` if it neither has it nor is next."""
    if reached == delivery.to:
        return True
    if reached != delivery.since:
        raise ConflictError(
            "another process has written to this target",
            got=f"{_words(reached)} instead of {_words(delivery.since)}",
            do="run one sender; it delivers what is outstanding",
        )
    return False


def require_deletable(key: tuple[str, ...], delivery: Delivery) -> None:
    """Raise `SinkError` if rows were deleted and the target cannot delete them, because its key is not the table's."""
    if delivery.gone.num_rows and key != delivery.key:
        raise SinkError(
            "the sink cannot delete rows, because its key is not the table's key",
            got=f"key {list(key)} of the sink, key {list(delivery.key)} of the table",
            do="set the same key= on both, or send an append-only table",
        )


def _words(position: SinkPosition | None) -> str:
    return "the start" if position is None else f"version {position.version}"
