"""What a step with memory promises, so that it can be cut into shards, killed anywhere and go on elsewhere.

An epoch takes rows of the streamed inputs to it in three moves:

    input blocks --prepare--> rows dealt by a hash of their key --advance--> rows of the table
    (where they are read)     (to the shard of the key)          (in the shard, with its memory)

All that an operator remembers is in the tables of its `StateTables`. Given the same rows in whatever blocks, and the same
watermark in the end, the rows that come out are the same, as a multiset, with any number of shards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from pipeline.core.epochs import BEGINNING, END
from pipeline.core.schema import Schema
from pipeline.core.state_identity import StateIdentity
from pipeline.streaming.operators.state_tables import StateTables

__all__ = ["BEGINNING", "END", "HASH", "PARTLY", "Emits", "Evolving", "Operator", "Prepared", "Progress", "arrived"]

HASH = "_hash"
"""The column by which rows are dealt to shards: every row that arrives has it, and every row of a memory must."""
Emits = Literal["append", "upsert"]


def arrived(name: str) -> str:
    """Return the name of the table in a shard's engine that has the prepared rows of an input, with `_hash`."""
    return f"_arrived_{name}"


@dataclass(frozen=True)
class Prepared:
    """How the rows of an input are made ready where they are read."""

    select: str
    """A SELECT over the input by its name; it sees one block of it at a time, and other tables whole."""
    by: tuple[str, ...] = ()
    """The columns of its result whose hash deals the rows to shards; without any, all rows go to one."""
    late: str | None = None
    """A condition on a row of the input, before `select`: true for one that came too late. Those are set aside."""
    late_reason: str = ""
    """The reason given for such a row."""
    partly_late: str | None = None
    """A condition on a row that is not late: true for one that came too late for some of its windows. It counts in the
    others, and a note of it is set aside."""
    note: str = ""
    """What that note says: `PARTLY`, and the watermark as a time in UTC."""


PARTLY = "late for its windows that end by "
"""What the note of a row begins with that is late for some of its windows; the watermark follows, as a time in UTC."""


@dataclass(frozen=True)
class Progress:
    """Event time as an epoch sees it: the watermark before its rows, and with them."""

    before: int
    watermark: int


class Operator(Protocol):
    """A step with memory, pure but for the memory it is given."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the streamed inputs."""

    @property
    def emits(self) -> Emits:
        """`append`: a row is final; `upsert`: it takes the place of the one with its key, of the table's `key`."""

    @property
    def identity(self) -> StateIdentity:
        """What its state is by the definition: a state may be restored where that is the same."""

    @property
    def state(self) -> Mapping[str, str]:
        """The tables it remembers in, each as SQL of a SELECT without rows that has its columns, `_hash` among them."""

    @property
    def horizon(self) -> str | None:
        """SQL of the watermark at which all that is held is out, null when nothing is; `None` where nothing ever waits."""

    def prepare(self, name: str, before: int) -> Prepared:
        """Return how rows of an input are made ready, given the watermark before the epoch."""

    def advance(self, state: StateTables, progress: Progress) -> str:
        """Take the rows that arrived into the memory and return a SELECT of those that are out now.

        It runs in `state.con`, once for each epoch, in order; what it returns is read before the next call.
        """


@runtime_checkable
class Evolving(Protocol):
    """An operator with tables whose columns the user declares; state is kept when these change in a way that loses nothing."""

    @property
    def evolving(self) -> frozenset[str]:
        """The names of these tables."""

    def evolved(self, before: Schema) -> tuple[str, ...]:
        """Return SQL over the columns that such a table had, one expression for each column that it has now.

        Raises `DefinitionError` for a column that cannot be kept.
        """
