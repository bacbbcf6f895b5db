"""Protobuf values, described by a file of descriptors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from pipeline.connectors.kafka.records import Record, UndecodableError
from pipeline.connectors.kafka.value_formats import Protobuf
from pipeline.core.errors import Place, SourceError
from pipeline.core.schema import Schema

_HEAD_BYTES = 5
_TYPES = {
    FieldDescriptor.CPPTYPE_INT32: "INTEGER",
    FieldDescriptor.CPPTYPE_INT64: "BIGINT",
    FieldDescriptor.CPPTYPE_UINT32: "BIGINT",
    FieldDescriptor.CPPTYPE_UINT64: "HUGEINT",
    FieldDescriptor.CPPTYPE_DOUBLE: "DOUBLE",
    FieldDescriptor.CPPTYPE_FLOAT: "FLOAT",
    FieldDescriptor.CPPTYPE_BOOL: "BOOLEAN",
    FieldDescriptor.CPPTYPE_ENUM: "VARCHAR",
}
_TIMESTAMP = "google.protobuf.Timestamp"


class ProtobufCodec:
    """Decodes values of one message type. Absent optional fields are null; enums are decoded to their names."""

    def __init__(self, format: Protobuf) -> None:  # noqa: A002 - the usual name of the option
        """Load the descriptors; raise `SourceError` if the file is invalid or does not contain the message type."""
        self._framed = format.framed
        place = Place(format.descriptors)
        try:
            files = descriptor_pb2.FileDescriptorSet.FromString(Path(format.descriptors).read_bytes())
            pool = descriptor_pool.DescriptorPool()
            for file in files.file:
                pool.Add(file)
            self._type = pool.FindMessageTypeByName(format.message)
        except OSError as error:
            raise SourceError("the descriptors cannot be read", got=error.strerror, place=place) from error
        except (DecodeError, KeyError, TypeError) as error:
            problem = f"the descriptors have no message {format.message!r}"
            raise SourceError(problem, got=str(error), do="check message=", place=place) from error
        self._class = message_factory.GetMessageClass(self._type)

    def decode(self, value: bytes) -> Record:
        """Return a message's fields; raise `UndecodableError`."""
        try:
            return _fields(self._class.FromString(_unframed(value) if self._framed else value))
        except DecodeError as error:
            raise UndecodableError(f"not valid Protobuf of its message type: {error}") from error

    def schema(self, values: Sequence[bytes], place: Place) -> Schema:
        """Return the columns of the message type; the values are not needed."""
        del values, place
        return Schema.of({field.name: _type(field) for field in self._type.fields})


def _unframed(value: bytes) -> bytes:
    """Strip the schema id and the message index path (a count and that many integers) from a value."""
    if len(value) <= _HEAD_BYTES or value[0] != 0:
        raise UndecodableError("not Protobuf with a schema id")
    count, at = _varint(value, _HEAD_BYTES)
    for _ in range(count):
        _, at = _varint(value, at)
    return value[at:]


def _varint(value: bytes, at: int) -> tuple[int, int]:
    """Decode a zigzag varint; return it and the position after it."""
    number = shift = 0
    while at < len(value):
        byte = value[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit
            return (number >> 1) ^ -(number & 1), at
    raise UndecodableError("not Protobuf with a schema id: truncated")


def _is_map(field: Any) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _fields(message: Any) -> dict[str, object]:
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def _field(message: Any, field: Any) -> object:
    value = getattr(message, field.name)
    if _is_map(field):
        inner = field.message_type.fields_by_name["value"]
        return [(key, _one(value[key], inner)) for key in value]
    if field.is_repeated:
        return [_one(each, field) for each in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _one(value, field)


def _one(value: Any, field: Any) -> object:
    if field.message_type is not None:
        return value.ToDatetime() if field.message_type.full_name == _TIMESTAMP else _fields(value)
    if field.enum_type is not None:
        enum_value = field.enum_type.values_by_number.get(value)
        return str(value) if enum_value is None else enum_value.name
    return value


def _type(field: Any) -> str:
    if _is_map(field):
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        return f"MAP({_scalar(key)}, {_scalar(value)})"
    return f"{_scalar(field)}[]" if field.is_repeated else _scalar(field)


def _scalar(field: Any) -> str:
    if field.message_type is not None:
        if field.message_type.full_name == _TIMESTAMP:
            return "TIMESTAMPTZ"
        inner = ", ".join(f'"{each.name}" {_type(each)}' for each in field.message_type.fields)
        return f"STRUCT({inner})"
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return "BLOB" if field.type == FieldDescriptor.TYPE_BYTES else "VARCHAR"
    return _TYPES[field.cpp_type]
