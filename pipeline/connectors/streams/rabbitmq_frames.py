"""Frames of RabbitMQ's stream protocol: requests as bytes, and the chunks of messages that a server delivers."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

SUBSCRIBE, DELIVER, CREDIT, STORE_OFFSET, QUERY_OFFSET, UNSUBSCRIBE = 7, 8, 9, 10, 11, 12
METADATA, PEER_PROPERTIES, SASL_HANDSHAKE, SASL_AUTHENTICATE, TUNE, OPEN = 15, 17, 18, 19, 20, 21
CLOSE, HEARTBEAT = 22, 23
RESPONSE = 0x8000
OK, STREAM_UNAVAILABLE = 1, 6
REFUSED = {7: "mechanism not supported", 8: "authentication failure", 9: "SASL error", 11: "only from loopback", 12: "no access to the virtual host", 16: "access refused"}  # fmt: skip
FIRST, LAST, OFFSET, TIMESTAMP = 1, 2, 4, 5

_CHUNK = struct.Struct(">bbHIqQQIIII")
_BATCH = struct.Struct(">BHII")
_NO_COMPRESSION, _GZIP, _LZ4, _ZSTD = 0, 1, 3, 4
_CODECS = {_LZ4: "lz4", _ZSTD: "zstd"}

_UNCHECKED_BYTES, _MOST_EXPANSION = 16 << 20, 200
"""What messages may expand to: a few bytes may stand for gigabytes."""


class FrameError(Exception):
    """A frame cannot be read; the message is the reason."""


@dataclass(frozen=True)
class Chunk:
    """Messages that were written together: those with the offsets from `first` on."""

    first: int
    count: int
    timestamp_ms: int
    data: bytes
    entries: int

    @property
    def end(self) -> int:
        """The offset after the last message."""
        return self.first + self.count

    @property
    def identity(self) -> str:
        """What tells this chunk from another one at the same offset."""
        return f"{self.first}:{self.timestamp_ms}:{zlib.crc32(self.data)}"

    def messages(self) -> Iterator[bytes]:
        """Yield the messages in order; raise `FrameError` if the chunk cannot be read."""
        at = 0
        for _ in range(self.entries):
            if self.data[at] & 0x80:
                kind, count, full, size = _BATCH.unpack_from(self.data, at)
                at += _BATCH.size
                content = _decompressed((kind >> 4) & 7, self.data[at : at + size], full)
                at += size
                yield from _sized(content, count)
            else:
                (size,) = struct.unpack_from(">I", self.data, at)
                at += 4 + size
                yield self.data[at - size : at]


def _sized(content: bytes, count: int) -> Iterator[bytes]:
    at = 0
    for _ in range(count):
        (size,) = struct.unpack_from(">I", content, at)
        at += 4 + size
        yield content[at - size : at]


def _decompressed(kind: int, data: bytes, size: int) -> bytes:
    if kind == _NO_COMPRESSION:
        return data
    if size > max(_UNCHECKED_BYTES, _MOST_EXPANSION * len(data)):
        raise FrameError(f"messages expand from {len(data):,} to {size:,} bytes, more than {_MOST_EXPANSION} times")
    if kind == _GZIP:
        unpacking = zlib.decompressobj(zlib.MAX_WBITS | 32)
        content = unpacking.decompress(data, size + 1)
        if len(content) != size or not unpacking.eof:
            raise FrameError("messages do not have the size that their frame names")
        return content
    if kind not in _CODECS:
        raise FrameError("messages are compressed with Snappy, which cannot be read: use zstd, lz4 or gzip")
    return pa.Codec(_CODECS[kind]).decompress(data, size, asbytes=True)  # type: ignore[no-any-return]


def chunk(frame: bytes) -> Chunk | None:
    """Return the messages of a delivery without its first byte; `None` if it has no messages of users.

    Raises `FrameError` if it was damaged.
    """
    magic, kind, entries, count, timestamp, _, first, crc, size, _, _ = _CHUNK.unpack_from(frame)
    data = frame[_CHUNK.size : _CHUNK.size + size]
    if magic >> 4 != 5 or zlib.crc32(data) != crc:  # noqa: PLR2004 - the mark of a chunk
        raise FrameError("a chunk of messages is damaged")
    return None if kind else Chunk(first, count, timestamp, data, entries)


def text(value: str) -> bytes:
    """Return a text as the protocol writes it."""
    encoded = value.encode()
    return struct.pack(">h", len(encoded)) + encoded


def properties(pairs: Mapping[str, str]) -> bytes:
    """Return names and values as the protocol writes them."""
    return struct.pack(">i", len(pairs)) + b"".join(text(name) + text(value) for name, value in pairs.items())


def frame(key: int, content: bytes, correlation: int | None = None) -> bytes:
    """Return a request, with a correlation id if it has an answer."""
    head = struct.pack(">HH", key, 1) + (b"" if correlation is None else struct.pack(">I", correlation))
    return struct.pack(">I", len(head) + len(content)) + head + content


@dataclass(frozen=True)
class StreamLeader:
    """Where a stream is: the address of its leader, and the number of brokers that were named."""

    host: str
    port: int
    brokers: int


def leader(content: bytes) -> tuple[int, StreamLeader | None]:
    """Return the code of the first stream in an answer to `METADATA`, and its leader."""
    at = 0
    (count,) = struct.unpack_from(">i", content, at)
    at += 4
    brokers: dict[int, tuple[str, int]] = {}
    for _ in range(count):
        (reference,) = struct.unpack_from(">H", content, at)
        host, at = _text(content, at + 2)
        (port,) = struct.unpack_from(">I", content, at)
        at += 4
        brokers[reference] = (host, port)
    _, at = _text(content, at + 4)
    code, reference = struct.unpack_from(">HH", content, at)
    found = brokers.get(reference)
    return code, None if found is None else StreamLeader(*found, len(brokers))


def _text(content: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from(">h", content, at)
    return content[at + 2 : at + 2 + max(size, 0)].decode(), at + 2 + max(size, 0)


def texts(values: Sequence[str]) -> bytes:
    """Return a list of texts as the protocol writes it."""
    return struct.pack(">i", len(values)) + b"".join(map(text, values))
