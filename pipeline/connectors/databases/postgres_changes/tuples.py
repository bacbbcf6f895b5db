"""Fields of many encoded rows at once: each row has a position of its own, and a column is decoded for all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Integers = npt.NDArray[np.int64]
Octets = npt.NDArray[np.uint8]
NULL, UNCHANGED, TEXT = ord("n"), ord("u"), ord("t")
_KINDS = np.zeros(256, bool)
_KINDS[[NULL, UNCHANGED, TEXT]] = True
_PADDING = 16
"""Bytes behind the last row, so that a number can be read at any position."""
_LENGTH = 4


def padded(blocks: list[bytes]) -> tuple[Octets, Integers, Integers]:
    """Return blocks one after the other, where each begins, and where it ends."""
    end = np.cumsum(np.fromiter(map(len, blocks), np.int64, len(blocks)))
    data = np.frombuffer(b"".join(blocks) + bytes(_PADDING), np.uint8)
    return data, np.concatenate([[0], end[:-1]]), end


def unsigned(data: Octets, at: Integers, size: int) -> npt.NDArray[np.uint64]:
    """Return big-endian numbers of `size` bytes at these positions."""
    found = np.zeros(len(at), np.uint64)
    for offset in range(size):
        found = (found << np.uint64(8)) | data[at + offset].astype(np.uint64)
    return found


def signed(data: Octets, at: Integers, size: int) -> Integers:
    """Return big-endian numbers of `size` bytes, with a sign."""
    shift = np.int64(64 - 8 * size)
    return (unsigned(data, at, size).astype(np.int64) << shift) >> shift


@dataclass(frozen=True)
class Fields:
    """A column of several rows: where each value is, and whether it is a value."""

    kind: Octets
    """`NULL`, `UNCHANGED` or `TEXT` for each row."""
    begin: Integers
    end: Integers

    def chosen(self, other: Fields, is_other: npt.NDArray[np.bool_]) -> Fields:
        """Return the fields with some of them replaced by those of the same rows in `other`."""
        return Fields(
            np.where(is_other, other.kind, self.kind),
            np.where(is_other, other.begin, self.begin),
            np.where(is_other, other.end, self.end),
        )

    def take(self, rows: Integers) -> Fields:
        """Return the fields of some rows, which must be in order."""
        return Fields(self.kind[rows], self.begin[rows], self.end[rows])

    def texts(self, data: Octets) -> pa.StringArray:
        """Return the values as texts; the positions of the rows must be in order.

        All values, and the gaps between them, are one Arrow array, of which every second is taken.
        """
        if not len(self.kind):
            return pa.array([], pa.string())
        offsets = pa.py_buffer(np.stack([self.begin, self.end], axis=1).ravel())
        size = 2 * len(self.kind) - 1
        ranges = pa.LargeBinaryArray.from_buffers(pa.large_binary(), size, [None, offsets, pa.py_buffer(data)])
        places = pa.array(np.arange(0, size, 2), mask=self.kind != TEXT)
        return ranges.take(places).cast(pa.string())


def tuples(data: Octets, at: Integers, columns: int) -> tuple[list[Fields], Integers]:
    """Return the columns of tuples of pgoutput that begin at these positions, and the positions behind them.

    Raises `ValueError` or `IndexError` for what is no tuple with that many columns.
    """
    _require_size(signed(data, at, 2) == columns)
    fields, at = [], at + 2
    for _ in range(columns):
        kind = data[at]
        is_text = kind == TEXT
        begin = at + 1 + _LENGTH * is_text
        size = np.where(is_text, signed(data, at + 1, _LENGTH), 0)
        _require_size(_KINDS[kind] & (size >= 0))
        fields.append(Fields(kind, begin, begin + size))
        at = begin + size
    return fields, at


def _require_size(is_right: npt.NDArray[np.bool_]) -> None:
    if not is_right.all():
        raise ValueError("a row has other columns than its table")


def copied(data: Octets, at: Integers, columns: int) -> list[Fields]:
    """Return the columns of rows of COPY in binary format that begin at these positions."""
    fields, at = [], at + 2
    for _ in range(columns):
        size = signed(data, at, _LENGTH)
        kind = np.where(size < 0, NULL, TEXT).astype(np.uint8)
        begin = at + _LENGTH
        fields.append(Fields(kind, begin, begin + np.maximum(size, 0)))
        at = fields[-1].end
    return fields
