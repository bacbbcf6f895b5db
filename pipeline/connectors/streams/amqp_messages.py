"""Decodes messages of AMQP 1.0, which is how RabbitMQ stores those of streams: their bodies, and their headers."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_DESCRIBED = 0x00
_APPLICATION_PROPERTIES, _DATA, _VALUE = 0x74, 0x75, 0x77
_NUMBERS = {
    0x50: "B", 0x51: "b", 0x52: "B", 0x53: "B", 0x54: "b", 0x55: "b", 0x60: "H", 0x61: "h", 0x70: "I", 0x71: "i",
    0x72: "f", 0x80: "Q", 0x81: "q", 0x82: "d", 0x83: "q",
}  # fmt: skip
_CONSTANTS: dict[int, object] = {0x40: None, 0x41: True, 0x42: False, 0x43: 0, 0x44: 0, 0x45: []}
_SIZED = {0xA0: "B", 0xB0: "I", 0xA1: "B", 0xB1: "I", 0xA3: "B", 0xB3: "I"}
_COMPOUND = {0xC0: "B", 0xD0: "I", 0xC1: "B", 0xD1: "I"}
_FIXED_BYTES = {0x73: 4, 0x74: 4, 0x84: 8, 0x94: 16, 0x98: 16}
_SMALL, _LARGE = b"\x00\x53\x75\xa0", b"\x00\x53\x75\xb0"


class MessageError(Exception):
    """A message is not valid; the message of the error is the reason."""


@dataclass(frozen=True)
class AmqpMessage:
    """The body of a message, `None` if it is not bytes or text, and its application properties."""

    body: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


def decode(data: bytes, *, headers: bool = False) -> AmqpMessage:
    """Return the body, and the application properties if `headers`; raise `MessageError` for an invalid message."""
    if not headers and data[:4] == _SMALL and len(data) == data[4] + 5:
        return AmqpMessage(data[5:])
    if not headers and data[:4] == _LARGE and len(data) == int.from_bytes(data[4:8], "big") + 8:
        return AmqpMessage(data[8:])
    parts: list[bytes] = []
    named: tuple[tuple[str, bytes], ...] = ()
    try:
        for section, at in _sections(data):
            if section in {_DATA, _VALUE}:
                value, _ = _value(data, at)
                if not isinstance(value, bytes | str):
                    return AmqpMessage(None, named)
                parts.append(value.encode() if isinstance(value, str) else value)
            elif section == _APPLICATION_PROPERTIES and headers:
                value, _ = _value(data, at)
                named = tuple(_named(value))
    except (IndexError, struct.error, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(str(error) or type(error).__name__) from error
    return AmqpMessage(b"".join(parts) if parts else None, named)


def _sections(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the code of each section and where its value begins."""
    at = 0
    while at < len(data):
        if data[at] != _DESCRIBED:
            raise MessageError(f"no section at byte {at}")
        code, begin = _value(data, at + 1)
        yield (code if isinstance(code, int) else -1), begin
        at = _end(data, begin)


def _end(data: bytes, at: int) -> int:
    """Return where a value ends, without decoding what is in it."""
    code = data[at]
    if code in _CONSTANTS:
        return at + 1
    if code in _NUMBERS or code == 0x56:  # noqa: PLR2004 - a boolean
        return at + 1 + struct.calcsize(_NUMBERS.get(code, "B"))
    if code in _FIXED_BYTES:
        return at + 1 + _FIXED_BYTES[code]
    kind = _SIZED.get(code) or _COMPOUND.get(code) or {0xE0: "B", 0xF0: "I"}.get(code)
    if kind is None:
        raise MessageError(f"unknown type 0x{code:02x} at byte {at}")
    (size,) = struct.unpack_from(f">{kind}", data, at + 1)
    end = at + 1 + struct.calcsize(kind) + int(size)
    if end > len(data):
        raise MessageError("the message ends within a value")
    return end


def _value(data: bytes, at: int) -> tuple[object, int]:
    """Return the value at a place, and where it ends; values of rare types are their bytes."""
    code, end = data[at], _end(data, at)
    if end > len(data):
        raise MessageError("the message ends within a value")
    if code in _CONSTANTS:
        return _CONSTANTS[code], end
    if code == 0x56:  # noqa: PLR2004 - a boolean
        return data[at + 1] != 0, end
    if code in _NUMBERS:
        return struct.unpack_from(f">{_NUMBERS[code]}", data, at + 1)[0], end
    if code in _SIZED:
        content = data[at + 1 + struct.calcsize(_SIZED[code]) : end]
        return content.decode() if code in {0xA1, 0xB1, 0xA3, 0xB3} else content, end
    if code in _COMPOUND:
        return list(_items(data, at, _COMPOUND[code], end)), end
    return data[at + 1 : end], end


def _items(data: bytes, at: int, kind: str, end: int) -> Iterator[object]:
    """Yield the items of a list; the keys and values of a map in turn."""
    width = struct.calcsize(kind)
    (count,) = struct.unpack_from(f">{kind}", data, at + 1 + width)
    at += 1 + 2 * width
    for _ in range(count):
        if at >= end:
            raise MessageError("a list is shorter than its number of items")
        value, at = _value(data, at)
        yield value


def _named(value: object) -> Iterator[tuple[str, bytes]]:
    items = value if isinstance(value, list) else []
    for name, each in zip(items[::2], items[1::2], strict=False):
        yield str(name), each if isinstance(each, bytes) else b"" if each is None else str(each).encode()
