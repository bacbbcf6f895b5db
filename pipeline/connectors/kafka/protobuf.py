"""Protobuf values, described by a file of descriptors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from pipeline.connectors.column_names import ColumnNames
from pipeline.connectors.kafka.protobuf_columns import columnar, unframed
from pipeline.connectors.kafka.records import Decoded, DecodedColumns, Record, UndecodableError, decode_individually
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
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMESTAMP = "google.protobuf.Timestamp"


class ProtobufCodec:
    """Decodes values of one message type. Absent optional fields are null; enums are decoded to their names."""

    def __init__(self, format: Protobuf, naming: ColumnNames) -> None:  # noqa: A002 - the usual name of the option
        """Load the descriptors.

        Raises `SourceError` if the file is invalid or does not contain the message type, and if two fields have one name in
        the table, although one of them has a value in each message.
        """
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
        _require_one_value(self._type, naming, place)
        self._class = message_factory.GetMessageClass(self._type)
        is_proto3 = all(file.syntax == "proto3" for file in files.file)  # others have default values of their own
        self._columns = columnar(self._type) if is_proto3 else None

    def decoded(self, values: pa.BinaryArray) -> Iterator[tuple[pa.Array, Decoded]]:
        """Yield all messages as one group: decoded by column, unless one of them is invalid."""
        messages = unframed(values) if self._framed else values
        columns = None if self._columns is None or messages is None else self._columns(messages)
        places = pa.array(range(len(values)))
        if columns is None:
            yield places, decode_individually(self, values.to_pylist())
        else:
            yield places, DecodedColumns(columns, [None] * len(values))

    def decode(self, value: bytes) -> Record:
        """Return a message's fields; raise `UndecodableError`."""
        try:
            return _fields(self._class.FromString(_unframed(value) if self._framed else value))
        except (DecodeError, OverflowError) as error:
            raise UndecodableError(f"not valid Protobuf of its message type: {error}") from error

    def schema(self, values: Sequence[bytes], place: Place) -> Schema:
        """Return the columns of the message type; the values are not needed."""
        del values, place
        return Schema.of({field.name: _type(field) for field in self._type.fields})


def _require_one_value(message_type: Any, naming: ColumnNames, place: Place) -> None:
    fields = message_type.fields_by_name
    for name, both in naming.of_fields(fields).items():
        always = next((each for each in both if not fields[each].has_presence), None)
        if len(both) > 1 and always is not None:
            problem = f"rename= makes {' and '.join(map(repr, both))} of {message_type.name!r} one column {name!r}"
            do = "declare the fields as optional, or rename one to another name"
            raise SourceError(problem, got=f"{always!r}, which has a value in each message", do=do, place=place)


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
        return _time(value) if field.message_type.full_name == _TIMESTAMP else _fields(value)
    if field.enum_type is not None:
        enum_value = field.enum_type.values_by_number.get(value)
        return str(value) if enum_value is None else enum_value.name
    return value


def _time(value: Any) -> datetime:
    """Return a timestamp in microseconds; raise `OverflowError` if it is not in the years 1 to 9999."""
    try:
        return _EPOCH + timedelta(microseconds=value.seconds * 1_000_000 + int(value.nanos / 1000))
    except OverflowError as error:
        raise OverflowError(f"a timestamp of {value.seconds} seconds is not in the years 1 to 9999") from error


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
