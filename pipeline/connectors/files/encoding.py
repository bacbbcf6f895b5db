"""Text in encodings other than UTF-8: decodes it in chunks, and suggests an encoding if none was declared."""

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
    """Return Python's name of a text encoding; None for UTF-8. Raises `SourceError` for an unknown encoding."""
    if name is None:
        return None
    try:
        b" ".decode(name, "replace")  # an empty input would not look up the codec
        codecs.getincrementaldecoder(name)
        known = codecs.lookup(name).name
    except (LookupError, ValueError) as error:
        raise SourceError(
            "encoding= is not a text encoding of Python",
            got=repr(name),
            do="use an encoding such as 'latin-1', 'windows-1252' or 'utf-16'",
        ) from error
    return None if known in {"utf-8", "utf-8-sig"} else known


def recoded(stream: IO[bytes], encoding: str) -> Iterator[bytes]:
    """Yield a text as UTF-8, in chunks.

    Undecodable bytes become bytes that are not UTF-8, so that their record is rejected like other such records.
    """
    codecs.register_error(_UNDECODABLE, _undecodable)
    decoder = codecs.getincrementaldecoder(encoding)(_UNDECODABLE)
    while piece := stream.read(_PIECE_BYTES):
        yield decoder.decode(piece).encode("utf-8", "surrogatepass")
    yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")


def likely_encoding(data: bytes) -> str:
    """Return the likely encoding of bytes that are not UTF-8.

    It is the encoding of a byte order mark, UTF-16 if every second byte is zero, windows-1252 if there are bytes from
    0x80 to 0x9F (control characters in latin-1), otherwise latin-1.
    """
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    if marked is not None:
        return marked
    for name, zeros in (("utf-16-le", data[1::2]), ("utf-16-be", data[::2])):
        if 2 * zeros.count(0) > len(zeros):
            return name
    return "windows-1252" if any(0x80 <= byte <= 0x9F for byte in data) else "latin-1"  # noqa: PLR2004 - as documented


def not_decodable(data: bytes, encoding: str | None) -> str:
    """Return why bytes are not text and, if no encoding was declared, the option to try."""
    if encoding is not None:
        return f"not {encoding}"
    return f'not UTF-8 (maybe {likely_encoding(data)}: files(…, encoding="{likely_encoding(data)}"))'


def _undecodable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\udcff", error.end
