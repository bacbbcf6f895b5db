"""The messages of Flight SQL: Protobuf of a handful of fields, each in a `google.protobuf.Any`.

Source: https://arrow.apache.org/docs/format/FlightSql.html, FlightSql.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serve.http_errors import HttpError

_PREFIX = "type.googleapis.com/arrow.flight.protocol.sql."
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class FlightMessage:
    """A message: its name, and the values of its fields by number."""

    name: str
    fields: Mapping[int, tuple[int | bytes, ...]]

    def text(self, number: int) -> str:
        """Return a text field; empty if it is not set."""
        value = self.fields.get(number, (b"",))[-1]
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""

    def maybe_text(self, number: int) -> str | None:
        """Return an optional text field."""
        return self.text(number) if number in self.fields else None

    def texts(self, number: int) -> tuple[str, ...]:
        """Return a repeated text field."""
        return tuple(v.decode("utf-8", "replace") for v in self.fields.get(number, ()) if isinstance(v, bytes))

    def flag(self, number: int) -> bool:
        """Return a boolean field."""
        return bool(self.fields.get(number, (0,))[-1])


def parse(content: bytes) -> FlightMessage:
    """Return the message in an `Any`; raise `HttpError` if there is none of Flight SQL."""
    outer = _fields(content)
    message = FlightMessage("", outer)
    url = message.text(1)
    if not url.startswith(_PREFIX):
        raise HttpError("the request is none of Flight SQL", do="use a driver of Flight SQL")
    inner = outer.get(2, (b"",))[-1]
    return FlightMessage(url.removeprefix(_PREFIX), _fields(inner if isinstance(inner, bytes) else b""))


def packed(name: str, fields: Mapping[int, bytes]) -> bytes:
    """Return a message in an `Any`."""
    return encoded({1: f"{_PREFIX}{name}".encode(), 2: encoded(fields)})


def encoded(fields: Mapping[int, bytes]) -> bytes:
    """Return a message of texts, bytes and messages."""
    return b"".join(_varint(number << 3 | _BYTES) + _varint(len(value)) + value for number, value in fields.items())


def _fields(content: bytes) -> dict[int, tuple[int | bytes, ...]]:
    found: dict[int, tuple[int | bytes, ...]] = {}
    at = 0
    if len(content) > _MOST_BYTES:
        raise HttpError("the request is too large", got=f"{len(content)} bytes")
    try:
        while at < len(content):
            tag, at = _read_varint(content, at)
            number, kind = tag >> 3, tag & 7
            value: int | bytes
            if kind == _VARINT:
                value, at = _read_varint(content, at)
            else:
                size, at = _read_varint(content, at) if kind == _BYTES else ({_FIXED64: 8, _FIXED32: 4}[kind], at)
                value = content[at : at + size]
                at += size
                if at > len(content):
                    raise IndexError(at)  # noqa: TRY301 - one refusal for whatever is wrong
            found[number] = (*found.get(number, ()), value)
    except (IndexError, KeyError) as error:
        raise HttpError("the request cannot be read", do="use a driver of Flight SQL") from error
    return found


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:  # noqa: PLR2004 - the last byte
            return value, at
        if shift > 63:  # noqa: PLR2004 - the bits of a number
            raise IndexError(at)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - the bits of a byte
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
