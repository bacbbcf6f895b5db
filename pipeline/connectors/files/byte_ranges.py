"""Splits text files at line ends; delimited text only at line ends outside of quotes."""

from __future__ import annotations

import csv
import itertools
import mmap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.core.splits import SourceObject, SourceSplit

Bytes = npt.NDArray[np.uint8]

_FEED, _QUOTE = 10, 34
_CHUNK_BYTES = 1 << 20  # counting is fastest if the buffer fits a core's cache
_LOOK_BYTES = 1 << 16
HEAD_BYTES = 1 << 20
"""The number of bytes within which a header must end so that a file can be split."""
_REMAINDER_FACTOR = 1.5
"""A remainder of up to this many times the target size is not split again."""


def is_small(size_bytes: int, target_bytes: int) -> bool:
    """Return whether a file of this size is one split."""
    return size_bytes <= _REMAINDER_FACTOR * target_bytes


def mapped_bytes(path: str) -> Bytes:
    """Return the memory-mapped bytes of a non-empty file."""
    return np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))


def contains_byte(path: str, byte: bytes, start: int) -> bool:
    """Return whether a byte occurs in a non-empty file, from `start` on."""
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(byte, start) >= 0


def head_bytes(data: Bytes, delimiter: str) -> int | None:
    """Return where a delimited file's first line ends; None if that line is not exactly the header."""
    line, end, _ = data[:HEAD_BYTES].tobytes().partition(b"\n")
    try:
        # in strict mode, an open quote at the end of the line is an error
        names = next(csv.reader([line.decode("utf-8-sig").removesuffix("\r")], delimiter=delimiter, strict=True), [])
    except (csv.Error, UnicodeDecodeError):
        return None
    return len(line) + 1 if end and names else None


def splits_of(
    source_object: SourceObject, data: Bytes, target_bytes: int, *, head: int = 0, quotes: bool = False
) -> tuple[SourceSplit, ...]:
    """Split a file at line ends into splits of about `target_bytes`; the first contains the `head`.

    With `quotes`, a line end counts only after an even number of quotes since the head. This holds for every record end
    unless a quote is in an unquoted field; the reader of a split must detect that.
    """
    cuts = [(0, 0), *_cuts(data, target_bytes, head, quotes=quotes)]
    if len(cuts) == 1:
        return (SourceSplit(source_object),)
    last, before = cuts[-1]
    rest = _count(data[last:], _FEED) + int(data[-1] != _FEED)
    ends = [*cuts[1:], (len(data), before + rest)]
    return tuple(
        SourceSplit(source_object, begin, None if end == len(data) else end, lines + 1, end - begin, until - lines)
        for (begin, lines), (end, until) in zip(cuts, ends, strict=True)
    )


def parts_of(
    split: SourceSplit, data: Bytes, target_bytes: int, *, head: int = 0, quotes: bool = False
) -> tuple[SourceSplit, ...]:
    """Divide a split like `splits_of`, given the bytes of its entire file."""
    parts = splits_of(split.source_object, data[split.begin : split.end], target_bytes, head=head, quotes=quotes)
    if len(parts) == 1:
        return (split,)
    return tuple(
        replace(
            part,
            begin=split.begin + part.begin,
            end=split.end if part.end is None else split.begin + part.end,
            first=split.first + part.first - 1,
        )
        for part in parts
    )


def quoted_splits_of(
    source_object: SourceObject, data: Bytes, target_bytes: int, head: int | None
) -> tuple[SourceSplit, ...]:
    """Split a delimited file with a header of `head` bytes; return one split if its header is not its first line."""
    return (
        (SourceSplit(source_object),)
        if head is None
        else splits_of(source_object, data, target_bytes, head=head, quotes=True)
    )


def read_range(path: str, begin: int = 0, end: int | None = None) -> Iterator[memoryview]:
    """Yield a byte range of a file in chunks; use each chunk before the next one is requested.

    All chunks are read into one buffer that stays in a core's cache, which is twice as fast as a mapped file.
    """
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with Path(path).open("rb", buffering=0) as file:
        at = file.seek(begin)
        while got := file.readinto(buffer if end is None else buffer[: end - at]):
            yield buffer[:got]
            at += got


def lines_in(path: str) -> int:
    """Return the number of lines of a file; the last one may lack a line end."""
    lines, is_ended = 0, True
    for chunk in read_range(path):
        lines += _count(np.frombuffer(chunk, np.uint8), _FEED)
        is_ended = chunk[-1] == _FEED
    return lines + (not is_ended)


def _count(data: Bytes, byte: int) -> int:
    starts = range(0, len(data), _CHUNK_BYTES)
    return sum(int(np.count_nonzero(data[start : start + _CHUNK_BYTES] == byte)) for start in starts)


def _cuts(data: Bytes, target_bytes: int, head: int, *, quotes: bool) -> Iterator[tuple[int, int]]:
    """Yield the start of each split after the first, with the number of line ends before it."""
    at, lines, begin = head, _count(data[:head], _FEED), 0
    while not is_small(len(data) - begin, target_bytes):
        goal = min(max(begin + target_bytes - 1, at), len(data))
        lines += _count(data[at:goal], _FEED)
        is_open = quotes and _count(data[at:goal], _QUOTE) % 2 == 1
        line_end, passed = _line_end(data, goal, is_open=is_open, quotes=quotes)
        at, lines = line_end, lines + passed
        if line_end >= len(data):
            return
        yield line_end, lines
        begin = line_end


def _line_end(data: Bytes, start: int, *, is_open: bool, quotes: bool) -> tuple[int, int]:
    """Return the end of the first line end outside of quotes, and the number of line ends up to it."""
    passed = 0
    for at in itertools.count(start, _LOOK_BYTES):
        look = data[at : at + _LOOK_BYTES]
        if not len(look):
            break
        feeds, marks = np.flatnonzero(look == _FEED), np.flatnonzero(look == _QUOTE) if quotes else np.empty(0, int)
        shut = np.flatnonzero((np.searchsorted(marks, feeds) + is_open) % 2 == 0)
        if len(shut):
            return at + int(feeds[shut[0]]) + 1, passed + int(shut[0]) + 1
        passed += len(feeds)
        is_open = bool((len(marks) + is_open) % 2)
    return len(data), passed
