"""The messages of PostgreSQL's protocol, version 3.

Source: https://www.postgresql.org/docs/current/protocol-message-formats.html.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serve.http_errors import HttpError

MOST_BYTES = 1 << 20
"""The longest message of a client."""
MOST_STARTUP_BYTES = 10_000
PROTOCOL, SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST = 3 << 16, 80877103, 80877104, 80877102
TEXT, BINARY = 0, 1
READY, PARSED, BOUND, CLOSED, NO_DATA, SUSPENDED, NOTHING = b"Z", b"1", b"2", b"3", b"n", b"s", b"I"
_LONG = struct.Struct("!i")
_NULL = _LONG.pack(-1)


@dataclass(frozen=True)
class FieldDescription:
    """A column of a result, as a driver is told of it."""

    name: str
    oid: int
    """The number of its type."""
    length: int
    modifier: int = -1
    form: int = TEXT
    """`TEXT` or `BINARY`."""


class MessageReader:
    """Reads the parts of a message one after the other; raises `HttpError` if it ends before."""

    def __init__(self, content: bytes) -> None:
        """Begin with the first byte."""
        self._content = content
        self._at = 0

    @property
    def is_at_end(self) -> bool:
        """Whether all is read."""
        return self._at >= len(self._content)

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        found = self._content[self._at : self._at + size]
        if size < 0 or len(found) < size:
            raise HttpError("the message cannot be read", do="use a driver of PostgreSQL")
        self._at += size
        return found

    def short(self) -> int:
        """Return the next number of 16 bits."""
        return int.from_bytes(self.take(2), "big", signed=True)

    def long(self) -> int:
        """Return the next number of 32 bits."""
        return int.from_bytes(self.take(4), "big", signed=True)

    def text(self) -> str:
        """Return the next text, which ends with a zero byte."""
        end = self._content.find(b"\0", self._at)
        if end < 0:
            raise HttpError("the message cannot be read", do="use a driver of PostgreSQL")
        found = self._content[self._at : end]
        self._at = end + 1
        try:
            return found.decode()
        except UnicodeDecodeError as error:
            raise HttpError("the text is not in UTF-8", do="set client_encoding to UTF8") from error

    def shorts(self) -> list[int]:
        """Return numbers of 16 bits, of which the first says how many follow."""
        return [self.short() for _ in range(self.short())]

    def longs(self) -> list[int]:
        """Return numbers of 32 bits, of which a number of 16 bits says how many follow."""
        return [self.long() for _ in range(self.short())]

    def value(self) -> bytes | None:
        """Return the next value; `None` is null."""
        size = self.long()
        return None if size < 0 else self.take(size)


def message(kind: bytes, content: bytes = b"") -> bytes:
    """Return a message of a kind."""
    return kind + _LONG.pack(len(content) + 4) + content


def parameter_status(name: str, value: str) -> bytes:
    """Return the value of a setting."""
    return message(b"S", _text(name) + _text(value))


def row_description(fields: Sequence[FieldDescription]) -> bytes:
    """Return the columns of a result."""
    parts = [
        _text(each.name) + struct.pack("!ihihih", 0, 0, each.oid, each.length, each.modifier, each.form)
        for each in fields
    ]
    return message(b"T", struct.pack("!h", len(parts)) + b"".join(parts))


def parameter_description(oids: Sequence[int]) -> bytes:
    """Return the types of the parameters of a statement."""
    return message(b"t", struct.pack(f"!h{len(oids)}i", len(oids), *oids))


def data_rows(columns: Sequence[Sequence[bytes | None]], rows: int) -> bytes:
    """Return the rows of columns with encoded values."""
    if not columns:
        return message(b"D", struct.pack("!h", 0)) * rows
    number = struct.pack("!h", len(columns))
    prefixed = [[_NULL if value is None else _LONG.pack(len(value)) + value for value in column] for column in columns]
    parts: list[bytes] = []
    for row in zip(*prefixed, strict=True):
        content = b"".join(row)
        parts += (b"D", _LONG.pack(len(content) + 6), number, content)
    return b"".join(parts)


def command_complete(tag: str) -> bytes:
    """Return what a statement has done."""
    return message(b"C", _text(tag))


def report(kind: bytes, severity: str, code: str, parts: Mapping[str, str | None]) -> bytes:
    """Return an error (`E`) or a notice (`N`): `parts` are `M`, the message, and perhaps `D`, the detail, and `H`, the hint."""
    fields = {"S": severity, "V": severity, "C": code, **parts}
    return message(kind, b"".join(name.encode() + _text(value) for name, value in fields.items() if value) + b"\0")


def _text(value: str) -> bytes:
    return value.replace("\0", "").encode() + b"\0"
