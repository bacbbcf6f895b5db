"""Messages of PostgreSQL's output plugin `pgoutput`, version 1 of its protocol, decoded by column.

The format is described in PostgreSQL's documentation, chapter "Logical Replication Message Formats".
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.connectors.databases.changes.columns import (
    CHANGE_FIELDS,
    DELETE,
    INSERT,
    TRUNCATE,
    UPDATE,
    ChangeFacts,
    unavailable,
)
from pipeline.connectors.databases.postgres_changes.tuples import (
    NULL,
    TEXT,
    UNCHANGED,
    Fields,
    Integers,
    Octets,
    padded,
    signed,
    tuples,
    unsigned,
)
from pipeline.core.clients import message_of
from pipeline.core.errors import Place, SourceError

EPOCH_US = 946_684_800_000_000
"""The first microsecond of the year 2000, in microseconds since 1970."""
_OPERATION = {ord("I"): INSERT, ord("U"): UPDATE, ord("D"): DELETE}
_KEY, _OLD, _NEW = ord("K"), ord("O"), ord("N")
_KINDS = np.zeros(256, bool)
_KINDS[list(b"BCORYIUDT")] = True
"""The messages that version 1 of the protocol has without further options."""
_SIZES = {ord("B"): 21, ord("C"): 26}
_NAMED = {ord("O"): (9, 1), ord("Y"): (5, 2)}
"""Messages that are not needed, an origin and a type: where their names begin, and how many they are."""


@dataclass(frozen=True)
class PublishedColumn:
    """A column of a relation as `pgoutput` describes it."""

    name: str
    type_oid: int
    modifier: int
    is_key: bool


@dataclass(frozen=True)
class PublishedRelation:
    """A table as `pgoutput` describes it, before its first change and again after it was altered."""

    oid: int
    name: str
    """Schema and name, separated by a point."""
    identity: str
    """The setting REPLICA IDENTITY: `d`, `i`, `f` or `n`."""
    columns: tuple[PublishedColumn, ...]

    @classmethod
    def of(cls, message: bytes) -> PublishedRelation:
        """Return the relation of a message; raise `ValueError` or `struct.error` if it is damaged."""
        (oid,) = struct.unpack_from("!I", message, 1)
        schema, at = _text(message, 5)
        name, at = _text(message, at)
        identity = chr(message[at])
        (count,) = struct.unpack_from("!h", message, at + 1)
        at, columns = at + 3, []
        for _ in range(count):
            is_key = bool(message[at] & 1)
            column, at = _text(message, at + 1)
            type_oid, modifier = struct.unpack_from("!Ii", message, at)
            columns.append(PublishedColumn(column, type_oid, modifier, is_key))
            at += 8
        if at != len(message):
            raise ValueError("the description of a table has another size than its columns")
        return cls(oid, f"{schema or 'pg_catalog'}.{name}", identity, tuple(columns))


@dataclass(frozen=True)
class ReadTable:
    """A table to decode: the position from which on, and its primary key, which is used if entire old rows are sent."""

    begins_at: int
    key: Sequence[str]


@dataclass(frozen=True)
class DecodedChanges:
    """Consecutive changes of one table that have the same columns."""

    relation: PublishedRelation
    rows: pa.Table


@dataclass
class MessageDecoder:
    """Decodes messages in the order in which the server sends them; a call may end within a transaction."""

    through: int
    """Transactions before this position were decoded earlier, and are left out."""
    tables: Mapping[str, ReadTable]
    """The tables to decode, by name; changes of others are left out."""
    place: Place | None = None
    """The database, as shown in errors."""
    end: int = 0
    """The position behind the last complete transaction."""
    relations: dict[int, PublishedRelation] = field(default_factory=dict)
    _open: tuple[int, int, int] = (0, 0, 0)
    """Position, time and number of changes of the transaction in which the last call ended."""

    def decode(self, messages: list[bytes]) -> Iterator[DecodedChanges]:
        """Yield the changes of all tables, those of each table in order; raise `SourceError` for a damaged message."""
        try:
            yield from self._decoded(messages)
        except (IndexError, KeyError, ValueError, struct.error) as error:
            raise SourceError(
                "PostgreSQL sent a message that cannot be decoded",
                got=message_of(error),
                do="run again; if it comes again, headwater run --full takes a new snapshot",
                place=self.place,
            ) from error

    def _decoded(self, messages: list[bytes]) -> Iterator[DecodedChanges]:
        if not messages:
            return
        data, begin, end = padded(messages)
        kinds = data[begin]
        _require_known(messages, kinds, end - begin)
        facts = self._facts(data, begin, kinds)
        is_new = facts.commit >= np.uint64(self.through)
        oids = np.where(np.isin(kinds, (*_OPERATION, ord("R"))), signed(data, begin + 1, 4) & 0xFFFFFFFF, -1)
        truncates = self._truncated(messages, kinds, is_new)
        for oid in dict.fromkeys([*np.unique(oids[oids >= 0]).tolist(), *truncates]):
            yield from self._of_table(
                int(oid), _Messages(messages, data, begin, end, kinds, facts, is_new), oids, truncates
            )

    def _facts(self, data: Octets, begin: Integers, kinds: Octets) -> ChangeFacts:
        """Return the facts of each message; those that are no changes have arbitrary ones."""
        starts = np.flatnonzero(kinds == ord("B"))
        position, time, count = self._open
        commits = np.concatenate([np.array([position], np.uint64), unsigned(data, begin[starts] + 1, 8)])
        times = np.concatenate([[time], signed(data, begin[starts] + 9, 8) + EPOCH_US])
        which = np.cumsum(kinds == ord("B"))
        is_change = np.isin(kinds, (*_OPERATION, ord("T")))
        if not position and is_change[: starts[0] if len(starts) else None].any():
            raise ValueError("a change is in no transaction")
        changes = np.cumsum(is_change)
        before = np.concatenate([[-count], changes[starts]])
        number = changes - before[which]
        ends = np.flatnonzero(kinds == ord("C"))
        if (unsigned(data, begin[ends] + 2, 8) != commits[which[ends]]).any():
            raise ValueError("a transaction ends that did not begin")
        if len(ends):
            self.end = int(unsigned(data, begin[ends[-1:]] + 10, 8)[0])
        self._open = (int(commits[-1]), int(times[-1]), int(number[-1]))
        op = np.zeros(len(kinds), np.int8)
        for kind, operation in _OPERATION.items():
            op[kinds == kind] = operation
        op[kinds == ord("T")] = TRUNCATE
        return ChangeFacts(op, commits[which], 2 * number, times[which])

    def _truncated(
        self, messages: Sequence[bytes], kinds: Octets, is_new: npt.NDArray[np.bool_]
    ) -> dict[int, list[int]]:
        """Return for each table the messages that truncate it."""
        found: dict[int, list[int]] = {}
        for at in np.flatnonzero((kinds == ord("T")) & is_new).tolist():
            (count,) = struct.unpack_from("!I", messages[at], 1)
            if len(messages[at]) != 6 + 4 * count:
                raise ValueError("a truncate has another size than its tables")
            for oid in struct.unpack_from(f"!{count}I", messages[at], 6):
                found.setdefault(oid, []).append(at)
        return found

    def _of_table(
        self, oid: int, messages: _Messages, oids: Integers, truncates: Mapping[int, list[int]]
    ) -> Iterator[DecodedChanges]:
        """Yield the changes of a table, divided where it was altered."""
        mine = np.flatnonzero(oids == oid)
        is_relation = messages.kinds[mine] == ord("R")
        described, changes = mine[is_relation], mine[~is_relation]
        changes = changes[messages.is_new[changes]]
        emptied = np.array(truncates.get(oid, []), np.int64)
        borders = np.concatenate([[-1], described, [len(messages.kinds)]])
        for low, high in itertools.pairwise(borders.tolist()):
            if low >= 0:
                self.relations[oid] = PublishedRelation.of(messages.content[low])
            rows = changes[(changes > low) & (changes < high)]
            empty = emptied[(emptied > low) & (emptied < high)]
            if len(rows) or len(empty):
                relation = self.relations[oid]
                table = self.tables.get(relation.name)
                if table is None:
                    continue
                rows, empty = (
                    each[messages.facts.commit[each] >= np.uint64(table.begins_at)] for each in (rows, empty)
                )
                key = tuple(at for at, column in enumerate(relation.columns) if column.name in table.key)
                decoding = _Decoding(relation, key or tuple(range(len(relation.columns))), messages)
                if len(rows) or len(empty):
                    yield DecodedChanges(relation, decoding.table(rows, empty))


@dataclass(frozen=True)
class _Messages:
    content: Sequence[bytes]
    data: Octets
    begin: Integers
    end: Integers
    kinds: Octets
    facts: ChangeFacts
    is_new: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Decoding:
    """Decodes changes of a table, which all have the same columns."""

    relation: PublishedRelation
    key: tuple[int, ...]
    messages: _Messages

    def table(self, rows: Integers, emptied: Integers) -> pa.Table:
        """Return the changes in these messages in order; an update of the key becomes a delete and an insert."""
        data, at, width = self.messages.data, self.messages.begin[rows], len(self.relation.columns)
        marker = data[at + 5]
        first, behind = tuples(data, at + 6, width)
        has_old = (self.messages.kinds[rows] == ord("U")) & ((marker == _KEY) | (marker == _OLD))
        fields, moved = first, rows[:0]
        is_complete = _is_marked(self.messages.kinds[rows], marker)
        if has_old.any():
            paired = np.flatnonzero(has_old)
            is_complete[paired] &= data[behind[paired]] == _NEW
            second, behind[paired] = tuples(data, behind[paired] + 1, width)
            fields = [self._after(*pair, paired) for pair in zip(first, second, strict=True)]
            moved = paired[self._has_moved(first, fields, marker, paired)]
        if not (is_complete & (behind == self.messages.end[rows])).all():
            raise ValueError("a change has another size than its row")
        op = self.messages.facts.op[rows].copy()
        op[moved] = INSERT
        parts = [self._part(rows, fields, op, half=1)]
        if len(moved):
            before = [each.take(moved) for each in first]
            parts.append(self._part(rows[moved], before, np.full(len(moved), DELETE, np.int8), half=0))
        if len(emptied):
            parts.append(self._emptied(emptied))
        if len(parts) == 1:
            return parts[0]
        order = np.argsort(np.concatenate([2 * rows + 1, 2 * rows[moved], 2 * emptied]), kind="stable")
        return pa.concat_tables(parts).take(pa.array(order))

    def _after(self, old: Fields, new: Fields, paired: Integers) -> Fields:
        """Return a column after the changes; a value that was not sent again is taken from the old row, if that was sent."""
        is_kept = (new.kind == UNCHANGED) & (old.kind[paired] == TEXT)
        after = new.chosen(old.take(paired), is_kept)
        kind, begin, end = old.kind.copy(), old.begin.copy(), old.end.copy()
        kind[paired], begin[paired], end[paired] = after.kind, after.begin, after.end
        return Fields(kind, begin, end)

    def _has_moved(
        self, old: Sequence[Fields], new: Sequence[Fields], marker: Octets, paired: Integers
    ) -> npt.NDArray[np.bool_]:
        """Return which updates changed the key: those with an old key, and of those with an old row the different ones."""
        has_moved = marker[paired] == _KEY
        for at in self.key:
            before, after = (each[at].take(paired).texts(self.messages.data) for each in (old, new))
            different = pc.fill_null(pc.not_equal(before, after), False).to_numpy(zero_copy_only=False)  # noqa: FBT003
            one_is_null = (old[at].kind[paired] == NULL) != (new[at].kind[paired] == NULL)
            has_moved = has_moved | ((different | one_is_null) & (marker[paired] == _OLD))
        return np.asarray(has_moved)

    def _part(self, rows: Integers, fields: Sequence[Fields], op: npt.NDArray[np.int8], half: int) -> pa.Table:
        facts = self.messages.facts
        mine = ChangeFacts(op, facts.commit[rows], facts.index[rows] + half, facts.committed_us[rows])
        names = [column.name for column in self.relation.columns]
        missing = unavailable(names, [each.kind == UNCHANGED for each in fields], len(rows))
        values = [each.texts(self.messages.data) for each in fields]
        return pa.table([*values, *mine.arrays(), missing], self._schema())

    def _emptied(self, rows: Integers) -> pa.Table:
        nothing = [pa.nulls(len(rows), pa.string())] * len(self.relation.columns)
        facts = self.messages.facts
        mine = ChangeFacts(facts.op[rows], facts.commit[rows], facts.index[rows], facts.committed_us[rows])
        return pa.table([*nothing, *mine.arrays(), pa.nulls(len(rows), CHANGE_FIELDS[-1].type)], self._schema())

    def _schema(self) -> pa.Schema:
        return pa.schema([*(pa.field(column.name, pa.string()) for column in self.relation.columns), *CHANGE_FIELDS])


def _require_known(messages: Sequence[bytes], kinds: Octets, sizes: Integers) -> None:
    """Raise `ValueError` for messages of other kinds, or of other sizes than theirs."""
    is_right = _KINDS[kinds] & (sizes > 0)
    for kind, size in _SIZES.items():
        is_right &= (kinds != kind) | (sizes == size)
    for at in np.flatnonzero(np.isin(kinds, (*_NAMED,))).tolist():
        begin, texts = _NAMED[kinds[at]]
        is_right[at] &= len(messages[at]) > begin and messages[at][-1] == 0 and messages[at].count(0, begin) == texts
    if not is_right.all():
        raise ValueError("a message is of an unknown kind, or cut off")


def _is_marked(kinds: Octets, marker: Octets) -> npt.NDArray[np.bool_]:
    """Return whether changes have the row that they must have: the new or an old one."""
    is_old = (marker == _KEY) | (marker == _OLD)
    is_new = marker == _NEW
    return np.asarray(np.where(kinds == ord("I"), is_new, is_old | ((kinds == ord("U")) & is_new)))


def _text(message: bytes, at: int) -> tuple[str, int]:
    end = message.index(0, at)
    return message[at:end].decode(), end + 1
