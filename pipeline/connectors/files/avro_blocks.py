"""The container of Avro files: its header, and its blocks of records; see the specification, "Object Container Files"."""

from __future__ import annotations

import bz2
import json
import lzma
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

_MAGIC, _SYNC_BYTES = b"Obj\x01", 16
_MOST_HEADER_BYTES = 16 << 20
_MOST_BLOCK_BYTES = 1 << 30
"""The largest block that is read, compressed or not."""
_CRC_BYTES = 4
_LONGEST_VARINT_BITS = 70
_LOOK_BYTES = 20
"""Two numbers of variable length."""


@dataclass(frozen=True)
class Block:
    """A block of records: where it begins, where its records begin and end, and their number."""

    begin: int
    records_begin: int
    records_end: int
    rows: int

    @property
    def end(self) -> int:
        """Where the next block begins."""
        return self.records_end + _SYNC_BYTES


@dataclass(frozen=True)
class AvroContainer:
    """The header of an Avro file."""

    schema: Any
    """The schema, as parsed JSON."""
    codec: str
    sync: bytes
    header_bytes: int

    @classmethod
    def of(cls, file: BinaryIO) -> AvroContainer:
        """Read the header of a file; raise `ValueError` if it is not valid."""
        file.seek(0)
        head = file.read(_MOST_HEADER_BYTES)
        if not head.startswith(_MAGIC):
            raise ValueError("the file does not begin as an Avro file")
        metadata, at = _metadata(head, len(_MAGIC))
        sync = head[at : at + _SYNC_BYTES]
        if len(sync) != _SYNC_BYTES:
            raise ValueError("the header is not complete")
        codec = metadata.get("avro.codec", b"null").decode(errors="replace")
        if codec not in _CODECS:
            raise ValueError(f"the codec {codec!r} is not supported")
        try:
            schema = json.loads(metadata.get("avro.schema", b""))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the schema is not JSON: {error}") from error
        return cls(schema, codec, sync, at + _SYNC_BYTES)

    def blocks(self, file: BinaryIO, begin: int = 0, end: int | None = None) -> Iterator[Block]:
        """Yield the blocks that begin within a range of bytes; raise `ValueError` for a damaged block."""
        size, at = file.seek(0, os.SEEK_END), max(begin, self.header_bytes)
        while at < (size if end is None else end):
            file.seek(at)
            head = file.read(_LOOK_BYTES)
            rows, used = long_at(head, 0)
            length, used = long_at(head, used)
            block = Block(at, at + used, at + used + length, rows)
            if rows < 0 or not 0 <= length <= _MOST_BLOCK_BYTES or block.end > size:
                raise ValueError(f"the block at byte {at} is damaged, or the file is not complete")
            file.seek(block.records_end)
            if file.read(_SYNC_BYTES) != self.sync:
                raise ValueError(f"the block at byte {at} does not end with the file's marker")
            yield block
            at = block.end

    def records(self, file: BinaryIO, block: Block) -> bytes:
        """Return the decompressed records of a block; raise `ValueError` if they cannot be decompressed."""
        file.seek(block.records_begin)
        content = file.read(block.records_end - block.records_begin)
        try:
            records = _CODECS[self.codec](content)
        except (pa.ArrowException, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise ValueError(f"the block at byte {block.begin} cannot be decompressed: {error}") from error
        if len(records) > _MOST_BLOCK_BYTES:
            raise ValueError(f"the block at byte {block.begin} expands to more than {_MOST_BLOCK_BYTES} bytes")
        return records

    def plain(self, blocks: list[tuple[int, bytes]], schema: Any) -> bytes:
        """Return an Avro file of these uncompressed blocks, each with its number of rows."""
        head = [_MAGIC, _long(1), _sized(b"avro.schema"), _sized(json.dumps(schema).encode()), b"\0", self.sync]
        return b"".join([*head, *(_long(rows) + _sized(records) + self.sync for rows, records in blocks)])


def _metadata(head: bytes, at: int) -> tuple[dict[str, bytes], int]:
    """Return the header's map, and the position after it."""
    metadata: dict[str, bytes] = {}
    while True:
        count, at = long_at(head, at)
        if not count:
            return metadata, at
        if count < 0:
            count, (_, at) = -count, long_at(head, at)
        for _ in range(min(count, len(head))):
            key, at = _bytes_at(head, at)
            metadata[key.decode(errors="replace")], at = _bytes_at(head, at)


def _bytes_at(data: bytes, at: int) -> tuple[bytes, int]:
    length, at = long_at(data, at)
    if not 0 <= length <= len(data) - at:
        raise ValueError("the header is not complete")
    return data[at : at + length], at + length


def long_at(data: bytes, at: int) -> tuple[int, int]:
    """Return the number of variable length at a position, and the position after it; raise `ValueError` if it is cut."""
    value, shift = 0, 0
    while at < len(data) and shift < _LONGEST_VARINT_BITS:
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:  # noqa: PLR2004 - the last byte of a number
            return (value >> 1) ^ -(value & 1), at
        shift += 7
    raise ValueError("a number is cut off")


def _long(value: int) -> bytes:
    encoded, rest = bytearray(), value << 1
    while rest > 127:  # noqa: PLR2004 - more than seven bits
        encoded.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*encoded, rest])


def _sized(content: bytes) -> bytes:
    return _long(len(content)) + content


def _inflated(content: bytes) -> bytes:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    records = inflate.decompress(content, _MOST_BLOCK_BYTES + 1)
    if not inflate.eof and len(records) <= _MOST_BLOCK_BYTES:
        raise EOFError("the compressed records are not complete")
    return records


def _unsnapped(content: bytes) -> bytes:
    """Return Snappy records decompressed; their checksum follows them."""
    size, shift, at = 0, 0, 0
    while at < len(content) - _CRC_BYTES and shift < _LONGEST_VARINT_BITS:
        size |= (content[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if content[at - 1] < 128:  # noqa: PLR2004 - the last byte of a number
            break
    if size > _MOST_BLOCK_BYTES:
        raise EOFError(f"a block of {size} bytes")
    records = bytes(pa.Codec("snappy").decompress(content[:-_CRC_BYTES], size, asbytes=True))
    if zlib.crc32(records) != int.from_bytes(content[-_CRC_BYTES:], "big"):
        raise EOFError("its checksum is wrong")
    return records


def _of_zstd(content: bytes) -> bytes:
    with pa.CompressedInputStream(pa.BufferReader(content), "zstd") as stream:
        return bytes(stream.read(_MOST_BLOCK_BYTES + 1))


_CODECS: Mapping[str, Callable[[bytes], bytes]] = {
    "null": bytes,
    "deflate": _inflated,
    "snappy": _unsnapped,
    "zstandard": _of_zstd,
    "bzip2": lambda content: bz2.BZ2Decompressor().decompress(content, _MOST_BLOCK_BYTES + 1),
    "xz": lambda content: lzma.LZMADecompressor().decompress(content, _MOST_BLOCK_BYTES + 1),
}
