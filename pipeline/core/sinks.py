"""Where rows of a table are sent: a sink follows the versions of its table, which the lake keeps for it.

The log of the table is all there is to send from: what a sink has not got yet is read from there, after each commit
and at every start, so a crash between commit and sink is made good and nothing is kept twice. The target itself knows
how far it is, where it can in the same transaction as the rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline.core.definitions import Definition, caller
from pipeline.core.errors import ConflictError, DefinitionError, SinkError
from pipeline.core.fingerprint import fingerprint

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class SinkPosition:
    """A version of a table. Version numbers recur when a table is removed and made again; manifest ids do not."""

    version: int
    manifest_id: int | None = None

    def to_json(self) -> str:
        """Return the text in which a target keeps its position."""
        return json.dumps({"version": self.version, "mark": self.manifest_id})

    @classmethod
    def from_json(cls, text: str | bytes) -> SinkPosition:
        """Return what `to_json` wrote."""
        fields = json.loads(text)
        return cls(fields["version"], fields["mark"])


@dataclass(frozen=True)
class Delivery:
    """What came to a table from one version to another, in one piece.

    For a table whose rows are changed, `rows` are those that are new or are not as they were, and `gone` those that no
    longer are: of a table with a key, those whose key is no more; of another, all of them.
    """

    to: SinkPosition
    since: SinkPosition | None
    """How far the target has to be for this to come next; `None`: it has nothing yet."""
    rows: pa.RecordBatchReader
    """Read once, in the order of the table's files."""
    gone: pa.Table
    key: tuple[str, ...] = ()
    """The table's key."""
    is_whole: bool = False
    """Whether `rows` are all rows of the table, because what changed since cannot be told."""


class Target(Protocol):
    """A place that deliveries are written to, one after the other, by one writer. After an error it is opened anew."""

    def reached(self) -> SinkPosition | None:
        """Return the last version that is surely there; `None` when nothing is."""

    def write(self, delivery: Delivery) -> None:
        """Write a delivery; nothing is done when it is there already.

        Raises `ConflictError` when the target is elsewhere than it begins, or another writer has taken over;
        `SchemaError` for rows that cannot be written, `SinkError` when the target does not take them.
        """

    def close(self) -> None:
        """Let go of the target."""


@dataclass(frozen=True)
class SinkContext:
    """Whose target it is: the sink in its project, and the folder for what is kept on this machine."""

    project: str
    env: str
    sink: str
    state: Path

    @property
    def id(self) -> str:
        """A name that no other sink has."""
        return f"headwater.{self.project}.{self.env}.{self.sink}"


class Destination(Protocol):
    """What a definition says of its target; nothing is opened before rows are sent."""

    def open(self, home: SinkContext) -> Target:
        """Open the target; raise `SinkError` when it cannot be."""

    def __str__(self) -> str:
        """What and where it is, in one line and without secrets."""


@dataclass(frozen=True, kw_only=True)
class Sink(Definition):
    """Sends the rows of a table to a place outside the lake. Make one with `sink`."""

    table: str
    to: Destination = field(compare=False)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The table."""
        return (self.table,)

    @property
    def selected_with(self) -> str:
        """Its table's name."""
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
    """Send the rows of a table to a target, and what becomes of them.

        alerts = sink("late_twice", to=to_kafka("alerts", key="tailnum"))

    What the table holds when the sink first sees it is sent first. A streamed table is followed by `headwater stream`, after
    each commit; any other by `headwater run`. A target that fails does no harm to the table: the next time it gets
    what it has not got yet.
    """
    place = caller()
    if not isinstance(of, str):
        raise DefinitionError("a sink has the name of a table", got=repr(of), do="write it as text", place=place)
    return Sink(place=place, description=description or f"to {to}", table=of, to=to)


def is_delivered(delivery: Delivery, reached: SinkPosition | None) -> bool:
    """Return whether a target at a position has a delivery; raise `ConflictError` when it neither has it nor comes next."""
    if reached == delivery.to:
        return True
    if reached != delivery.since:
        raise ConflictError(
            "another process has written to this target",
            got=f"it is at {_words(reached)}, not at {_words(delivery.since)}",
            do="let one process send: what it has not sent yet, it will",
        )
    return False


def require_deletable(key: tuple[str, ...], delivery: Delivery) -> None:
    """Raise `SinkError` when rows went that a target which tells rows apart by a key cannot take away."""
    if delivery.gone.num_rows and key != delivery.key:
        raise SinkError(
            "rows went from the table, and the sink cannot say which",
            got=f"the key {list(key)} of the sink, {list(delivery.key)} of the table",
            do="give both the same key=, or send a table that rows only come to",
        )


def _words(position: SinkPosition | None) -> str:
    return "its beginning" if position is None else f"version {position.version}"
