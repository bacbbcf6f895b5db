"""The tail of an ORC file, which says where its stripes are; see the specification ORC v1, sections "Postscript" and "Footer"."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa

_POSTSCRIPT_BYTES = 256
_CHUNK_HEAD_BYTES = 3
_MOST_BLOCK_BYTES = 1 << 23
"""The largest block that the specification allows."""
_NONE, _ZLIB, _SNAPPY, _LZ4, _ZSTD = 0, 1, 2, 4, 5
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT_BITS = 70
_FOOTER_LENGTH, _COMPRESSION, _BLOCK_SIZE = 1, 2, 3  # fields of the postscript
_STRIPES = 3  # a field of the footer
_OFFSET, _INDEX_LENGTH, _DATA_LENGTH, _STRIPE_FOOTER_LENGTH, _ROWS = 1, 2, 3, 4, 5  # fields of a stripe


@dataclass(frozen=True)
class Stripe:
    """The bytes of a stripe, with an exclusive end, and its number of rows."""

    begin: int
    end: int
    rows: int


def stripes(file: BinaryIO) -> tuple[Stripe, ...]:
    """Return the stripes of a file in order; raise `ValueError` for an invalid tail."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _POSTSCRIPT_BYTES, 0))
    tail = file.read(_POSTSCRIPT_BYTES)
    if not tail or tail[-1] >= len(tail):
        raise ValueError("the file has no postscript")
    numbers = {field: value for field, value in _fields(tail[-1 - tail[-1] : -1]) if isinstance(value, int)}
    length, end = numbers.get(_FOOTER_LENGTH, 0), size - 1 - tail[-1]
    if not 0 < length <= end:
        raise ValueError("the length of the footer is invalid")
    file.seek(end - length)
    block_bytes = min(numbers.get(_BLOCK_SIZE, 0) or _MOST_BLOCK_BYTES, _MOST_BLOCK_BYTES)
    footer = _decompressed(file.read(length), numbers.get(_COMPRESSION, _NONE), block_bytes)
    found = [_stripe(value) for field, value in _fields(footer) if field == _STRIPES and isinstance(value, bytes)]
    if any(stripe.end > end or stripe.begin >= stripe.end for stripe in found):
        raise ValueError("a stripe is outside of the file")
    return tuple(found)


def _stripe(message: bytes) -> Stripe:
    numbers = {field: value for field, value in _fields(message) if isinstance(value, int)}
    begin = numbers.get(_OFFSET, 0)
    size = sum(numbers.get(field, 0) for field in (_INDEX_LENGTH, _DATA_LENGTH, _STRIPE_FOOTER_LENGTH))
    return Stripe(begin, begin + size, numbers.get(_ROWS, 0))


def _decompressed(content: bytes, compression: int, block_bytes: int) -> bytes:
    """Return the chunks of a stream decompressed; each has a head with its length, and whether it is compressed."""
    if compression == _NONE:
        return content
    at, chunks = 0, []
    while at + _CHUNK_HEAD_BYTES <= len(content):
        head = int.from_bytes(content[at : at + _CHUNK_HEAD_BYTES], "little")
        at += _CHUNK_HEAD_BYTES
        chunk = content[at : at + (head >> 1)]
        chunks.append(chunk if head & 1 else _block(chunk, compression, block_bytes))
        at += head >> 1
    return b"".join(chunks)


def _block(chunk: bytes, compression: int, block_bytes: int) -> bytes:
    try:
        if compression == _ZLIB:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(chunk, block_bytes)
        if compression == _ZSTD:
            with pa.input_stream(io.BytesIO(chunk), compression="zstd") as stream:
                return bytes(stream.read(block_bytes))
        if compression == _SNAPPY:
            size, _ = _number(chunk, 0)
            return bytes(pa.Codec("snappy").decompress(chunk, min(size, block_bytes), asbytes=True))
        if compression == _LZ4:
            return _lz4(chunk, block_bytes)
    except (pa.ArrowException, zlib.error, OSError) as error:
        raise ValueError(f"the footer cannot be decompressed: {error}") from error
    raise ValueError(f"the compression {compression} is not supported")


def _lz4(chunk: bytes, block_bytes: int) -> bytes:
    """Return an LZ4 block, whose decompressed size is not stored, decompressed."""
    at, found = 0, bytearray()
    while at < len(chunk) and len(found) <= block_bytes:
        token = chunk[at]
        at += 1
        literals, at = _lz4_length(chunk, at, token >> 4)
        found += chunk[at : at + literals]
        at += literals
        if at + 2 > len(chunk):
            break
        distance = int.from_bytes(chunk[at : at + 2], "little")
        length, at = _lz4_length(chunk, at + 2, token & 15)
        if not 0 < distance <= len(found):
            raise ValueError("the footer cannot be decompressed: an invalid LZ4 block")
        for _ in range(length + 4):
            found.append(found[-distance])
    return bytes(found)


def _lz4_length(chunk: bytes, at: int, length: int) -> tuple[int, int]:
    if length < 15:  # noqa: PLR2004 - the largest value of four bits
        return length, at
    while at < len(chunk):
        length += chunk[at]
        at += 1
        if chunk[at - 1] != 255:  # noqa: PLR2004 - more bytes follow this one
            break
    return length, at


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a Protobuf message with their numbers; raise `ValueError` if it is not one."""
    at = 0
    while at < len(message):
        key, at = _number(message, at)
        field, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _number(message, at)
            yield field, value
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(kind, -1)
        if kind == _BYTES:
            length, at = _number(message, at)
        if length < 0 or at + length > len(message):
            raise ValueError("the tail is damaged")
        if kind == _BYTES:
            yield field, message[at : at + length]
        at += length


def _number(message: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while at < len(message) and shift < _LONGEST_VARINT_BITS:
        value |= (message[at] & 127) << shift
        at += 1
        if message[at - 1] < 128:  # noqa: PLR2004 - the last byte of a number
            return value, at
        shift += 7
    raise ValueError("the tail is damaged")
