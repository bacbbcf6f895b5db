"""The body of a response, decompressed in bounded pieces: a few bytes may stand for gigabytes."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import httpx

from pipeline.core.errors import Place, SourceError

ACCEPTED = "gzip"
"""The value of `Accept-Encoding`: one encoding, whose decompression can be bounded."""
_PLAIN, _GZIP = frozenset({"", "identity"}), frozenset({"gzip", "x-gzip"})
_PIECE_BYTES = 1 << 18
_WITH_GZIP_HEAD = 16 + zlib.MAX_WBITS


def body_pieces(response: httpx.Response, place: Place) -> Iterator[bytes]:
    """Yield the body of a response in pieces of at most 256 KB, at least one for each piece on the wire.

    Raises `SourceError` for an encoding that was not asked for, also if there are several, and `httpx.DecodingError` for a
    body that is damaged or incomplete.
    """
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in _PLAIN | _GZIP:
        do = f"let the server answer the header Accept-Encoding: {ACCEPTED}"
        raise SourceError("a response has an encoding that is not read", got=repr(encoding), do=do, place=place)
    wire = response.iter_raw()  # as it comes: an event must not wait for the next one
    return wire if encoding in _PLAIN else _gunzipped(wire, response.request)


def _gunzipped(wire: Iterator[bytes], request: httpx.Request) -> Iterator[bytes]:
    """Yield the content of the members of a gzip stream; zeros after one are padding."""
    unpacking = zlib.decompressobj(_WITH_GZIP_HEAD)
    is_between = True  # members
    try:
        for chunk in wire:
            rest = chunk
            yield b""
            while rest:
                if unpacking.eof:
                    unpacking, is_between, rest = zlib.decompressobj(_WITH_GZIP_HEAD), True, rest.lstrip(b"\0")
                    continue
                piece, is_between = unpacking.decompress(rest, _PIECE_BYTES), False
                rest = unpacking.unused_data if unpacking.eof else unpacking.unconsumed_tail
                while piece:
                    yield piece
                    piece = b"" if rest or unpacking.eof else unpacking.decompress(b"", _PIECE_BYTES)
    except zlib.error as error:
        raise httpx.DecodingError(f"the response is not valid gzip: {error}", request=request) from error
    if not (is_between or unpacking.eof):
        raise httpx.DecodingError("the response ends within its gzip content", request=request)
