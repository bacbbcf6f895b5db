"""What the bytes of a delimited file say about how it can be converted, found in one pass that stays in the cache."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

_CHUNK_BYTES = 1 << 20
_LONGEST_NUMBER = 200
"""The number of bytes that consecutive chunks share, so that a number is seen whole."""
_LOWER = 32
"""The bit that makes a letter lowercase; it is also set in digits and signs."""
_HEXADECIMAL, _EXPONENT = (int.from_bytes(pair, "little") for pair in (b"0x", b"e-"))
_UNDERFLOW, _ZEROS = re.compile(rb"[eE]-[0-9]{3,}(?![0-9A-Za-z-])"), b"0" * _LONGEST_NUMBER
"""A nonzero number that underflows a `DOUBLE` contains one of these."""


@dataclass(frozen=True)
class ByteTraits:
    """What occurs in a file."""

    has_return: bool = False
    has_quote: bool = False
    has_underscore: bool = False
    """Also only in the rows, if the header is known."""
    has_hexadecimal: bool = False
    """Whether it contains `0x` or `0X`."""
    may_underflow: bool = False
    """Whether it may contain a nonzero number that underflows a `DOUBLE`."""


def byte_traits(path: str, head: int = 0) -> ByteTraits:
    """Return what occurs in a file; an underscore counts only from `head` on, the number of bytes of the header."""
    traits = ByteTraits()
    file_bytes = Path(path).stat().st_size
    size = min(_CHUNK_BYTES, file_bytes) + _LONGEST_NUMBER
    buffer, kept, at = bytearray(size), 0, 0
    lower = (np.empty(size, np.uint8), np.empty(size, np.uint8))
    with Path(path).open("rb", buffering=0) as file, memoryview(buffer) as view:
        while read := file.readinto(view[kept:]):
            end = kept + read
            skipped = max(0, head - (at - kept))
            at += read
            chunk = _Chunk(buffer, end, skipped, end if at >= file_bytes else end - _LONGEST_NUMBER)
            traits = _with_chunk(traits, chunk, lower)
            kept = min(end, _LONGEST_NUMBER)
            view[:kept] = bytes(view[end - kept : end])
    return traits


@dataclass(frozen=True)
class _Chunk:
    """The first `end` bytes of a buffer, of which `head` belong to the header."""

    buffer: bytearray
    end: int
    head: int
    last: int
    """Where the last number may begin; the next chunk contains the later ones whole."""


def _with_chunk(traits: ByteTraits, chunk: _Chunk, lower: Sequence[npt.NDArray[np.uint8]]) -> ByteTraits:
    """Return the traits with those of a chunk; `lower` are two arrays for results between."""
    buffer, end = chunk.buffer, chunk.end
    data = np.frombuffer(buffer, np.uint8, end)
    has_hexadecimal, may_underflow = traits.has_hexadecimal, traits.may_underflow
    may_underflow = may_underflow or buffer.find(_ZEROS, 0, end) >= 0
    for shift, place in enumerate(lower):
        count = (end - shift) // 2 * 2
        pairs = np.bitwise_or(data[shift : shift + count], _LOWER, out=place[:count]).view("<u2")
        has_hexadecimal = has_hexadecimal or bool((pairs == _HEXADECIMAL).any())
        if not may_underflow and (is_exponent := pairs == _EXPONENT).any():
            places = (2 * np.flatnonzero(is_exponent) + shift).tolist()
            may_underflow = any(place < chunk.last and _UNDERFLOW.match(buffer, place, end) for place in places)
    return replace(
        traits,
        has_return=traits.has_return or buffer.find(b"\r", 0, end) >= 0,
        has_quote=traits.has_quote or buffer.find(b'"', 0, end) >= 0,
        has_underscore=traits.has_underscore or buffer.find(b"_", chunk.head, end) >= 0,
        has_hexadecimal=has_hexadecimal,
        may_underflow=may_underflow,
    )
