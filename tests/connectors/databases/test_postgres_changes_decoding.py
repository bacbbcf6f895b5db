"""Messages of `pgoutput` that are decoded by column equal those that are decoded one by one."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.connectors.databases.changes.columns import COMMITTED_AT, OP, SEQUENCE, UNAVAILABLE
from pipeline.connectors.databases.postgres_changes.messages import EPOCH_US, MessageDecoder, ReadTable
from tests.rigs.proofs import examples

COLUMNS = ("id", "a", "b")
UNCHANGED = "unchanged"
READ, LEFT_OUT = (10, 4_000_000_000), 12
"""The numbers of tables that are read, and of one that is not."""
Value = tuple[str] | str | None
"""A text in a tuple, a value that is not sent, or null."""


@dataclass
class Log:
    """Messages, and what each change in them means; tables can be altered between two changes."""

    widths: dict[int, int] = field(default_factory=dict)
    messages: list[bytes] = field(default_factory=list)
    changes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    position: int = 100

    def transaction(self, changes: list[tuple[str, int, int, list[Value], list[Value]]]) -> None:
        """Add a transaction with these changes: kind, table, number of columns, old row and new row."""
        self.position += 50
        self.messages.append(b"B" + struct.pack("!QqI", self.position, self.position * 1000, 7))
        for number, (kind, oid, width, old, new) in enumerate(changes, 1):
            if self.widths.get(oid) != width:
                self.widths[oid] = width
                self.messages.append(described(oid, width))
            self.messages.append(message(kind, oid, old[:width], new[:width]))
            for half, op, row in meaning(kind, old[:width], new[:width]):
                self.add(oid, op, row, 2 * number + half)
        ends = struct.pack("!BQQq", 0, self.position, self.position + 8, self.position * 1000)
        self.messages.append(b"C" + ends)

    def add(self, oid: int, op: str, row: list[Value], index: int) -> None:
        change: dict[str, Any] = {name: v[0] for name, v in zip(COLUMNS, row, strict=False) if isinstance(v, tuple)}
        unsent = [name for name, value in zip(COLUMNS, row, strict=False) if value == UNCHANGED]
        facts = {OP: op, SEQUENCE: f"{self.position:016x}-{index:010x}", UNAVAILABLE: unsent or None}
        at_us = EPOCH_US + self.position * 1000
        self.changes.setdefault(f"public.t{oid}", []).append({**change, **facts, COMMITTED_AT: at_us})


def described(oid: int, width: int) -> bytes:
    columns = (bytes([name == "id"]) + name.encode() + struct.pack("!xIi", 25, -1) for name in COLUMNS[:width])
    return (
        b"R"
        + struct.pack("!I", oid)
        + b"public\0"
        + f"t{oid}\0d".encode()
        + struct.pack("!h", width)
        + b"".join(columns)
    )


def encoded(row: list[Value]) -> bytes:
    def value(each: Value) -> bytes:
        if isinstance(each, tuple):
            text = each[0].encode()
            return b"t" + struct.pack("!i", len(text)) + text
        return b"n" if each is None else b"u"

    return struct.pack("!h", len(row)) + b"".join(map(value, row))


def key_of(row: list[Value]) -> list[Value]:
    return [row[0], *[None] * (len(row) - 1)]


def message(kind: str, oid: int, old: list[Value], new: list[Value]) -> bytes:
    """Return a change; `kind` is that of the message and, for an old row or key, that of the row."""
    head = kind[0].encode() + struct.pack("!I", oid)
    if kind == "T":
        return b"T" + struct.pack("!IBI", 1, 0, oid)
    if kind == "I":
        return head + b"N" + encoded(new)
    before = b"" if kind == "U" else kind[1].encode() + encoded(old if kind[1] == "O" else key_of(old))
    return head + before + (b"N" + encoded(new) if kind[0] == "U" else b"")


def meaning(kind: str, old: list[Value], new: list[Value]) -> Iterator[tuple[int, str, list[Value]]]:
    """Yield what a message means: the place in its order, what happened, and the row."""
    if kind == "T":
        yield 0, "truncate", []
    elif kind[0] == "D":
        yield 1, "delete", old if kind == "DO" else key_of(old)
    elif kind == "UK":
        yield from ((0, "delete", key_of(old)), (1, "insert", new))
    elif kind == "UO":
        after = [o if n == UNCHANGED and o is not None else n for o, n in zip(old, new, strict=True)]
        if after[0] != old[0]:
            yield from ((0, "delete", old), (1, "insert", after))
        else:
            yield 1, "update", after
    else:
        yield 1, "insert" if kind == "I" else "update", new


TEXT = st.builds(lambda text: (text,), st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=5))
SENT, KEY = TEXT | st.none(), st.sampled_from([("1",), ("2",)])
CHANGE = st.tuples(
    st.sampled_from(["I", "U", "UK", "UO", "DK", "DO", "T"]),
    st.sampled_from([*READ, LEFT_OUT]),
    st.sampled_from([3, 3, 3, 2, 1]),
    st.tuples(KEY, SENT, SENT).map(list),
    st.tuples(KEY, SENT | st.just(UNCHANGED), SENT | st.just(UNCHANGED)).map(list),
)


@settings(max_examples=examples(60, 5000), deadline=None)
@given(st.lists(st.lists(CHANGE, max_size=6), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_decoding_by_column_equals_decoding_one_by_one(transactions: list[list[Any]], draw: random.Random):
    log = Log()
    for changes in transactions:
        log.transaction(changes)
    tables = {f"public.t{oid}": ReadTable(0, ("id",)) for oid in READ}
    decoder, found = MessageDecoder(0, tables), dict[str, list[dict[str, Any]]]()
    at = 0
    while at < len(log.messages):
        size = draw.randint(1, len(log.messages))
        for decoded in decoder.decode(log.messages[at : at + size]):
            rows = decoded.rows.set_column(
                decoded.rows.schema.get_field_index(COMMITTED_AT),
                COMMITTED_AT,
                decoded.rows[COMMITTED_AT].cast("int64"),
            )
            found.setdefault(decoded.relation.name, []).extend(rows.to_pylist())
        at += size
    shown = {n: [{k: v for k, v in row.items() if v is not None} for row in rows] for n, rows in found.items()}
    expected = {
        name: [{k: v for k, v in row.items() if v is not None} for row in rows]
        for name, rows in log.changes.items()
        if name in tables
    }
    assert shown == expected
    assert decoder.end == log.position + 8
