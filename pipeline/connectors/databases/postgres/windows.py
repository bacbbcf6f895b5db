"""Which row versions of a PostgreSQL table a plan reads, as pure functions: by transaction, and by cursor column.

A row version carries the id of the transaction that wrote it, `xmin`. All transactions below the oldest one that is
still open have ended, and no transaction below it ever commits later. A plan therefore reads the versions of
transactions from the previous plan's limit up to the oldest open one: each version is in one plan, however late it is
committed, and equal or missing cursor values make no difference. Ids of subtransactions are above that of their
transaction, so this holds for them, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.connectors.databases.cursor_values import NullCursors
from pipeline.core.cursors import Cursor
from pipeline.kernel.sql_text import literal, quoted

KIND = "transactions"
TupleId = tuple[int, int]
"""A block of a table, and the number of a row version in it, from 1."""
_LAST_IN_BLOCK = 65535
SPLIT_BLOCKS = 8192
"""Blocks of 8 kB in a split."""


@dataclass(frozen=True)
class Heap:
    """A table, or one of its partitions."""

    oid: int
    name: str
    """Its quoted name with the schema, for SQL."""
    shown: str
    blocks: int
    file_node: int
    """Changes if the table is written to another file, with new places of all rows."""


@dataclass(frozen=True)
class UnfinishedScan:
    """A plan that a bound has cut off: what it reads, and the last row version that was read."""

    until: int
    high: str | None
    oids: tuple[int, ...]
    file_nodes: tuple[int, ...]
    heap: int
    after: TupleId


@dataclass(frozen=True)
class TransactionProgress:
    """What was read: all versions of transactions below `through`."""

    through: int = 0
    rows: int = 0
    oids: tuple[int, ...] = ()
    high: str | None = None
    """The cursor value up to which no open transaction was seen, as text."""
    high_kind: str = ""
    scan: UnfinishedScan | None = None
    system: str = ""
    """The identifier of the server's data; empty if the user may not know it."""

    @classmethod
    def of(cls, cursor: Cursor | None) -> TransactionProgress:
        """Return the progress in a cursor; nothing was read without one."""
        if cursor is None:
            return cls()
        value = dict(cursor.of_kind(KIND))
        scan = value.pop("scan", None)
        if scan is not None:
            lists = {name: tuple(scan[name]) for name in ("oids", "file_nodes", "after")}
            scan = UnfinishedScan(**{**scan, **lists})
        return cls(**{**value, "oids": tuple(value["oids"]), "scan": scan})

    def cursor(self) -> Cursor:
        """Return the progress as a cursor."""
        value = json.loads(json.dumps(asdict(self)))
        return Cursor(KIND, value if self.system else {name: each for name, each in value.items() if name != "system"})


@dataclass(frozen=True)
class WindowColumn:
    """A column that grows when a row is inserted or updated; it narrows which rows are looked at."""

    name: str
    kind: str
    """The name of its type in PostgreSQL."""
    lag: str
    """How far behind its greatest value rows may still be committed, as SQL."""
    nulls: NullCursors

    @property
    def sql(self) -> str:
        """The column in SQL."""
        return f"t.{quoted(self.name)}"

    def typed(self, value: str) -> str:
        """Return a stored value as SQL."""
        return f"{literal(value)}::{self.kind}"

    def condition(self, low: str | None) -> str:
        """Return the condition of the rows to look at: from `low` less the lag."""
        parts = (
            []
            if low is None
            else [f"{self.sql} >= {self.typed(low)} - {self.lag}" if self.lag else f"{self.sql} >= {self.typed(low)}"]
        )
        if self.nulls == "exclude":
            parts.append(f"{self.sql} is not null")
        elif parts:
            parts = [f"({parts[0]} or {self.sql} is null)"]
        return " and ".join(parts)


@dataclass(frozen=True)
class RowRange:
    """Row versions of a table: after one place, up to another, and written by transactions of a range."""

    heap: str
    oid: int
    file_node: int
    after: TupleId
    end: TupleId
    since: int
    until: int
    condition: str = ""
    """A further condition; the rows are then sorted by their place, because an index may find them."""
    snapshot: str = ""
    """The exported snapshot in which all ranges of a plan are read, as long as it exists."""
    has_all: bool = False
    """Whether no transaction was open when it was planned, so that all rows in the snapshot belong to it."""

    @classmethod
    def of(cls, stamp: str) -> RowRange:
        """Return the range in the stamp of a source object."""
        value: dict[str, Any] = json.loads(stamp)
        return cls(**{**value, "after": tuple(value["after"]), "end": tuple(value["end"])})

    def stamp(self) -> str:
        """Return the range as text."""
        return json.dumps(asdict(self))

    def query(self, items: str, newest: int | None) -> str:
        """Return a query of the range; `newest` is the next transaction id, `None` if the snapshot has no other rows."""
        order = " order by t.ctid" if self.condition else ""
        return f"select {items} from only {self.heap} t where {self.where(newest)}{order}"

    def where(self, newest: int | None) -> str:
        """Return the condition of the range's rows."""
        parts = [f"t.ctid > '{_place(self.after)}' and t.ctid <= '{_place(self.end)}'"]
        if newest is not None:
            parts.append(versions(self.since, self.until, newest))
        elif self.since:
            raise AssertionError("transactions have a lower limit, so the newest one is needed")
        return " and ".join([*parts, *([self.condition] if self.condition else [])])


def _place(place: TupleId) -> str:
    return f"({place[0]},{place[1]})"


def tuple_id(text: str) -> TupleId:
    """Return a place from its text, for example `(0,1)`."""
    block, _, number = text.strip("()").partition(",")
    return int(block), int(number)


def version(newest: int) -> str:
    """Return SQL for the transaction that wrote a row version, as a number that does not wrap around."""
    return f"({newest} - mod({newest} - t.xmin::text::bigint, 4294967296))"


def versions(since: int, until: int, newest: int) -> str:
    """Return the condition of the row versions of transactions from `since` to `until`, which is excluded."""
    parts = [f"{version(newest)} >= {since}"] if since else []
    return " and ".join([*parts, f"{version(newest)} < {until}"])


def ranges(heap: Heap, since: int, until: int, condition: str, after: TupleId | None) -> tuple[RowRange, ...]:
    """Return ranges of a table, in order; one if an index may find the few rows."""
    begin = after or (0, 0)
    step = max(heap.blocks, 1) if condition else SPLIT_BLOCKS
    firsts = range(begin[0] - begin[0] % step, max(heap.blocks, 1), step)
    return tuple(
        RowRange(
            heap.name,
            heap.oid,
            heap.file_node,
            max(begin, (first, 0)),
            (first + step - 1, _LAST_IN_BLOCK),
            since,
            until,
            condition,
        )
        for first in firsts
    )


def changed(progress: TransactionProgress, heaps: Mapping[int, Heap], newest: int, kind: str, system: str) -> str:
    """Return why rows that were read are no longer valid; empty if they are."""
    if progress.system and system and progress.system != system:
        return "this is another server than the one that was read, whose transactions have other numbers"
    if progress.through > newest:
        return "the server has older transactions than before: it was restored"
    if progress.high is not None and progress.high_kind != kind:
        return f"the type of the cursor changed from {progress.high_kind} to {kind or 'none'}"
    scan = progress.scan
    if scan is not None:
        now = tuple(heaps[oid].file_node if oid in heaps else 0 for oid in scan.oids)
        if now != scan.file_nodes:
            return "the table was rewritten while it was read"
    return ""
