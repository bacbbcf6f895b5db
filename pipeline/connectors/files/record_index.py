"""Indexes the lines of a text file, and the lines on which records of delimited text begin; positions are line numbers.

A line ends with a line feed; a preceding carriage return is part of the line end. Lines are numbered from 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_CHUNK_BYTES = 64 << 20
BOM = b"\xef\xbb\xbf"
_FEED, _RETURN, _QUOTE = 10, 13, 34

Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RecordIndex:
    """The bytes of a file, and the start of each line followed by the end of the file."""

    data: npt.NDArray[np.uint8]
    bounds: Numbers

    @property
    def count(self) -> int:
        """The number of lines."""
        return len(self.bounds) - 1

    def texts(self) -> pa.LargeBinaryArray:
        """Return the lines of the file with their ends, without copying."""
        return self._cut(self.bounds)

    def texts_from(self, starts: Numbers) -> pa.LargeBinaryArray:
        """Return the text from each of these lines up to the next of them, without copying."""
        return self._cut(np.append(self.bounds[starts - 1], self.bounds[-1]))

    def numbers_at(self, offsets: Numbers) -> Numbers:
        """Return the number of the line that contains each byte offset."""
        return np.searchsorted(self.bounds[:-1], offsets, side="right").astype(np.int64)

    def blank(self) -> Flags:
        """Return which lines are empty."""
        begins, ends = self.bounds[:-1], self.bounds[1:].copy()
        ends -= self._is(ends - 1, _FEED)
        ends -= self._is(ends - 1, _RETURN) & (ends > begins)
        return ends <= begins

    def returns(self) -> Flags:
        """Return which lines end with a carriage return and a line feed."""
        ends = self.bounds[1:]
        return self._is(ends - 1, _FEED) & self._is(ends - 2, _RETURN)

    def lone_returns(self) -> Numbers:
        """Return the offsets of the carriage returns that no line feed follows."""
        offsets = _offsets(self.data, _RETURN)
        return offsets[~self._is(np.minimum(offsets + 1, len(self.data) - 1), _FEED)]

    def quoted(self) -> Numbers:
        """Return the indexes of the lines that contain a double quote."""
        has_quote = np.zeros(self.count, np.bool_)
        has_quote[self.numbers_at(_offsets(self.data, _QUOTE)) - 1] = True
        return np.flatnonzero(has_quote)

    def quotes_between(self, begins: Numbers, ends: Numbers) -> Numbers:
        """Return the number of double quotes in each of these ranges of bytes."""
        if not len(begins):
            return begins
        quotes = _offsets(self.data, _QUOTE)
        return (np.searchsorted(quotes, ends) - np.searchsorted(quotes, begins)).astype(np.int64)

    def _cut(self, bounds: Numbers) -> pa.LargeBinaryArray:
        buffers = [None, pa.py_buffer(bounds), pa.py_buffer(self.data)]
        return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(bounds) - 1, buffers)

    def _is(self, offsets: Numbers, byte: int) -> Flags:
        matches: Flags = (offsets >= 0) & (self.data[np.maximum(offsets, 0)] == byte)
        return matches


def lines_of(path: str) -> RecordIndex:
    """Return the lines of a non-empty file, without a byte order mark."""
    data = np.memmap(path, dtype=np.uint8, mode="r")
    begins = np.concatenate([np.zeros(1, np.int64), _offsets(data, _FEED) + 1])
    bounds = begins if begins[-1] == len(data) else np.append(begins, len(data))
    if data[: len(BOM)].tobytes() == BOM:
        bounds[0] = len(BOM)
    return RecordIndex(data, bounds)


def records(lines: RecordIndex, delimiter: str, expected: int, *, blank_counts: bool) -> Numbers:
    """Return the numbers of the lines on which a record begins, starting with the header's.

    Blank lines are not records, unless `blank_counts`. If there are exactly `expected` lines, each is a record;
    otherwise quotes are parsed to find fields that span lines.
    """
    counted = np.ones(lines.count, np.bool_) if blank_counts else ~lines.blank()
    if np.count_nonzero(counted) != expected:
        counted &= ~_starts_inside_quotes(lines, delimiter)
    return np.flatnonzero(counted) + 1


def record_ends(lines: RecordIndex, delimiter: str) -> Flags:
    """Return which lines end outside quotes, so that a record ends with them."""
    return np.append(~_starts_inside_quotes(lines, delimiter)[1:], True)


def _starts_inside_quotes(lines: RecordIndex, delimiter: str) -> Flags:
    """Return which lines begin inside a quoted field.

    Each line keeps the quoting state, toggles it, or sets it independently of the previous state. The state at a line
    follows from the last line that set it and the number of toggles since.
    """
    comma = re.escape(delimiter)
    field = f'(?:"(?:[^"]|"")*"|[^"{comma}][^{comma}]*|)'
    rest = f'(?:{field}{comma})*"(?:[^"]|"")*'
    marked = lines.quoted()
    texts = lines.texts().take(pa.array(marked))
    opens, stays = np.zeros(lines.count, np.bool_), np.ones(lines.count, np.bool_)
    opens[marked] = pc.match_substring_regex(texts, f"^{rest}$").to_numpy(zero_copy_only=False)
    stays[marked] = pc.match_substring_regex(texts, f'^(?:[^"]|"")*(?:"{comma}{rest})?$').to_numpy(zero_copy_only=False)
    settled = np.maximum.accumulate(np.where(opens == stays, np.arange(lines.count), -1))
    turns = np.cumsum(opens & ~stays)
    since: Numbers = turns - np.where(settled >= 0, turns[settled], 0)
    after = ((settled >= 0) & opens[settled]) ^ (since % 2 == 1)
    return np.concatenate([np.zeros(1, np.bool_), after[:-1]])


def _offsets(data: npt.NDArray[np.uint8], byte: int) -> Numbers:
    parts = [
        np.flatnonzero(data[start : start + _CHUNK_BYTES] == byte) + start
        for start in range(0, len(data), _CHUNK_BYTES)
    ]
    return np.concatenate(parts).astype(np.int64, copy=False)
