"""Encoded Avro records, of which all are decoded at the same time: each has a position of its own."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Integers = npt.NDArray[np.int64]
MORE = 0x80
"""The bit of a byte after which another byte of the same number follows."""
_PADDING = 16
"""Bytes behind the last record, so that a value of fixed size can be read at any position."""
_VARINT_BYTES = 10


class AvroRecords:
    """Encoded records one after the other, and the position in each that is decoded next."""

    def __init__(self, values: pa.BinaryArray, head_bytes: int) -> None:
        """Begin after the heads of the values, which must be that long and not null."""
        offsets = np.frombuffer(values.buffers()[1], np.int32, len(values) + 1, 4 * values.offset).astype(np.int64)
        buffer = values.buffers()[2]
        content = np.frombuffer(b"" if buffer is None else buffer, np.uint8)[offsets[0] : offsets[-1]]
        self.data = np.concatenate([content, np.zeros(_PADDING, np.uint8)])
        self.at: Integers = offsets[:-1] - offsets[0] + head_bytes
        self.end: Integers = offsets[1:] - offsets[0]
        self.is_bad = np.zeros(len(values), bool)

    def fail(self, rows: Integers) -> None:
        """Mark records as invalid; nothing more is read from them."""
        self.is_bad[rows] = True
        self.at[rows] = self.end[rows]

    def longs(self, rows: Integers) -> Integers:
        """Decode a number of variable length from each of the given records; 0 from invalid ones."""
        found, at, end = np.zeros(len(rows), np.uint64), self.at[rows], self.end[rows]
        active = np.arange(len(rows))
        for number in range(_VARINT_BYTES):
            is_cut = at[active] >= end[active]
            if is_cut.any():
                self._cut(rows, active[is_cut], found, at)
                active = active[~is_cut]
            octets = self.data[at[active]]
            found[active] |= (octets & (MORE - 1)).astype(np.uint64) << np.uint64(7 * number)
            at[active] += 1
            if number == _VARINT_BYTES - 1:  # only one bit is left
                self._cut(rows, active[octets > 1], found, at)
            active = active[octets >= MORE]
            if not len(active):
                break
        is_good = ~self.is_bad[rows]
        self.at[rows[is_good]] = at[is_good]
        return (found >> np.uint64(1)).astype(np.int64) ^ -(found & np.uint64(1)).astype(np.int64)

    def _cut(self, rows: Integers, bad: Integers, found: npt.NDArray[np.uint64], at: Integers) -> None:
        found[bad] = 0
        at[bad] = self.end[rows[bad]]
        self.fail(rows[bad])

    def numbers(self, rows: Integers, least: int, most: int) -> Integers:
        """Decode numbers within limits; 0 from invalid records."""
        found = self.longs(rows)
        is_outside = (found < least) | (found > most)
        if is_outside.any():
            self.fail(rows[is_outside])
            found[is_outside] = 0
        return found

    def of_size(self, rows: Integers, size: int) -> npt.NDArray[np.uint8]:
        """Return the next bytes of each record, one row of the result for each; zeros from invalid records."""
        self.fail(rows[self.at[rows] + size > self.end[rows]])
        begin = np.minimum(self.at[rows], len(self.data) - size)
        found = self.data[begin[:, None] + np.arange(size)]
        is_good = ~self.is_bad[rows]
        found[~is_good] = 0
        self.at[rows[is_good]] += size
        return found

    def of_length(self, rows: Integers, sizes: Integers) -> pa.LargeBinaryArray:
        """Return the next bytes of each record, of these lengths; empty from invalid records.

        The positions increase from record to record, so all ranges, and the gaps between them, are one Arrow array.
        """
        self.fail(rows[(sizes < 0) | (sizes > self.end[rows] - self.at[rows])])
        if not len(rows):
            return pa.array([], pa.large_binary())
        begin = self.at[rows]
        end = begin + np.where(self.is_bad[rows], 0, sizes)
        self.at[rows] = end
        offsets = pa.py_buffer(np.stack([begin, end], axis=1).ravel())
        ranges = pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), 2 * len(rows) - 1, [None, offsets, pa.py_buffer(self.data)]
        )
        return ranges.take(pa.array(np.arange(0, 2 * len(rows), 2)))
