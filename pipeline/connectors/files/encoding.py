"""Text in other encodings than UTF-8: decoded in pieces as it is read, and named by a plain rule where nobody did."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import IO

from pipeline.core.errors import SourceError

_PIECE_BYTES = 1 << 20
_UNDECODABLE = "headwater.undecodable"
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def encoding_of(name: str | None) -> str | None:
    """Return Python's name of a text encoding; None for UTF-8. Raises `SourceError` for what is no text encoding."""
    if name is None:
        return None
    try:
        b" ".decode(name, "replace")  # without a byte no codec is looked up
        codecs.getincrementaldecoder(name)
        known = codecs.lookup(name).name
    except (LookupError, ValueError) as error:
        raise SourceError(
            "encoding= is no text encoding of Python",
            got=repr(name),
            do="give one such as 'latin-1', 'windows-1252' or 'utf-16'",
        ) from error
    return None if known in {"utf-8", "utf-8-sig"} else known


def recoded(stream: IO[bytes], encoding: str) -> Iterator[bytes]:
    """Yield a text as UTF-8, piece by piece.

    What cannot be decoded becomes bytes that are not UTF-8, so that its record is rejected like any such record.
    """
    codecs.register_error(_UNDECODABLE, _undecodable)
    decoder = codecs.getincrementaldecoder(encoding)(_UNDECODABLE)
    while piece := stream.read(_PIECE_BYTES):
        yield decoder.decode(piece).encode("utf-8", "surrogatepass")
    yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")


def likely_encoding(data: bytes) -> str:
    """Return in which encoding bytes that are not UTF-8 may be.

    That of a byte order mark; UTF-16 where every second byte is zero; windows-1252 where there are bytes from 0x80 to
    0x9F, which are control characters in latin-1; else latin-1.
    """
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    if marked is not None:
        return marked
    for name, zeros in (("utf-16-le", data[1::2]), ("utf-16-be", data[::2])):
        if 2 * zeros.count(0) > len(zeros):
            return name
    return "windows-1252" if any(0x80 <= byte <= 0x9F for byte in data) else "latin-1"  # noqa: PLR2004 - as documented


def not_decodable(data: bytes, encoding: str | None) -> str:
    """Return why bytes are no text, and, where no encoding was declared, which option may help."""
    if encoding is not None:
        return f"not {encoding}"
    return f'not UTF-8 (maybe {likely_encoding(data)}: files(…, encoding="{likely_encoding(data)}"))'


def _undecodable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\udcff", error.end
