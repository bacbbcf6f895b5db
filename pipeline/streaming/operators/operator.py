"""The contract of a stateful operator, which can be divided into shards, killed at any point and resumed elsewhere.

Rows of the inputs pass through it in two steps:

    input blocks --prepare--> rows distributed by a hash of the key --advance--> rows of the table
    (in the source task)      (to the shard of the key)              (in the shard, with its state)

All state of an operator is in the tables of its `StateTables`. For the same rows and the same final watermark, the
emitted rows are the same as a multiset, however the rows are divided into blocks and for any number of shards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from pipeline.core.epochs import BEGINNING, END
from pipeline.core.schema import Schema
from pipeline.core.state_identity import StateIdentity
from pipeline.streaming.operators.state_tables import StateTables

__all__ = [
    "BEGINNING",
    "END",
    "HASH",
    "PARTLY",
    "DeclaredState",
    "Emits",
    "Operator",
    "Prepared",
    "WatermarkAdvance",
    "arrived",
]

HASH = "_hash"
"""The column by which rows are distributed to shards. All prepared rows and all rows of state have it."""
Emits = Literal["append", "upsert"]


def arrived(name: str) -> str:
    """Return the name of the table with the prepared rows of an input, including `_hash`, in a shard."""
    return f"_arrived_{name}"


@dataclass(frozen=True)
class Prepared:
    """How the rows of an input are prepared in the task that reads them."""

    select: str
    """A SELECT over the input by its name. It sees one block of the input at a time, and all rows of other tables."""
    by: tuple[str, ...] = ()
    """The columns of the result whose hash determines the shard; without any, all rows go to one shard."""
    late: str | None = None
    """A condition on rows of the input, evaluated before `select`: true for late rows, which are quarantined."""
    late_reason: str = ""
    """The reason with which late rows are quarantined."""
    partly_late: str | None = None
    """A condition on rows that are not late: true for a row that is too late for some of its windows. It counts in the
    others, and a note about it is added to the quarantine."""
    note: str = ""
    """The reason in that note: `PARTLY` and the watermark as a time in UTC."""


PARTLY = "late for its windows that end by "
"""The beginning of the note about a row that is late for some windows. The watermark follows, as a time in UTC."""


@dataclass(frozen=True)
class WatermarkAdvance:
    """The watermark before the rows of a micro-batch and after them."""

    before: int
    watermark: int


class Operator(Protocol):
    """A stateful processing step. It is pure except for the state that it is given."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the streamed inputs."""

    @property
    def emits(self) -> Emits:
        """`append`: rows are final. `upsert`: a row replaces the previous one with the same `key` of the table."""

    @property
    def identity(self) -> StateIdentity:
        """The identity of its state, derived from the definition. State is restored only if the identity matches."""

    @property
    def state(self) -> Mapping[str, str]:
        """Its state tables: for each name, a SELECT without rows that has the columns, including `_hash`."""

    @property
    def horizon(self) -> str | None:
        """SQL for the watermark at which all waiting rows are emitted, null if none wait; `None` if rows never wait."""

    def prepare(self, name: str, before: int) -> Prepared:
        """Return how rows of an input are prepared, given the watermark before them."""

    def advance(self, state: StateTables, progress: WatermarkAdvance) -> str:
        """Add the rows that arrived to the state, and return a SELECT of the rows to emit.

        It is called once per micro-batch, in order. The SELECT runs in `state.con` before the next call.
        """


@runtime_checkable
class DeclaredState(Protocol):
    """An operator with state tables whose columns the user declares. State is converted if their change is lossless."""

    @property
    def evolving(self) -> frozenset[str]:
        """The names of these tables."""

    def evolved(self, before: Schema) -> tuple[str, ...]:
        """Return SQL over the previous columns of such a table, one expression for each current column.

        Raises `DefinitionError` for a column that cannot be converted.
        """
