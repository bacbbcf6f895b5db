"""The text of a Protobuf file descriptor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

_F = FieldDescriptorProto
_SCALARS = {number: name.removeprefix("TYPE_").lower() for name, number in FieldDescriptorProto.Type.items()}
_LABELS = {_F.LABEL_REPEATED: "repeated ", _F.LABEL_REQUIRED: "required "}


def text_of(file: FileDescriptorProto, *, is_sorted: bool = False) -> str:
    """Return the text of a file, without comments and services; with `is_sorted`, definitions are in order of their names.

    Fields are in order of their numbers then.
    """
    return "\n".join(_file(file, is_sorted)) + "\n"


def _file(file: FileDescriptorProto, is_sorted: bool) -> Iterator[str]:  # noqa: FBT001 - passed on in this module only
    syntax = file.syntax or "proto2"
    yield f'syntax = "{syntax}";'
    if file.package:
        yield f"package {file.package};"
    public = {file.dependency[number] for number in file.public_dependency}
    for name in sorted(file.dependency) if is_sorted else file.dependency:
        yield f'import {"public " if name in public else ""}"{name}";'
    for message in _ordered(file.message_type, is_sorted):
        yield from _message(message, syntax, is_sorted, "")
    for enum in _ordered(file.enum_type, is_sorted):
        yield from _enum(enum, "")


def _ordered(parts: Any, is_sorted: bool) -> Sequence[Any]:  # noqa: FBT001 - likewise
    return sorted(parts, key=lambda part: part.name) if is_sorted else list(parts)


def _message(message: DescriptorProto, syntax: str, is_sorted: bool, indent: str) -> Iterator[str]:  # noqa: FBT001 - likewise
    inner = f"{indent}  "
    yield f"{indent}message {message.name} {{"
    maps = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
    yield from _fields(message, maps, syntax, is_sorted, inner)
    for nested in _ordered(message.nested_type, is_sorted):
        if nested.name not in maps:
            yield from _message(nested, syntax, is_sorted, inner)
    for enum in _ordered(message.enum_type, is_sorted):
        yield from _enum(enum, inner)
    for reserved in message.reserved_range:
        last = reserved.end - 1
        yield f"{inner}reserved {reserved.start}{f' to {last}' if last > reserved.start else ''};"
    if message.reserved_name:
        yield f"{inner}reserved {', '.join(f'{chr(34)}{name}{chr(34)}' for name in message.reserved_name)};"
    yield f"{indent}}}"


def _fields(
    message: DescriptorProto,
    maps: dict[str, DescriptorProto],
    syntax: str,
    is_sorted: bool,  # noqa: FBT001 - likewise
    indent: str,
) -> Iterator[str]:
    """Yield the fields; those of a oneof together, where its first one is."""
    fields = sorted(message.field, key=lambda field: field.number) if is_sorted else list(message.field)
    printed: set[int] = set()
    for field in fields:
        if not field.HasField("oneof_index") or field.proto3_optional:
            yield f"{indent}{_field(field, maps, syntax)}"
        elif field.oneof_index not in printed:
            printed.add(field.oneof_index)
            yield f"{indent}oneof {message.oneof_decl[field.oneof_index].name} {{"
            for each in fields:
                if each.HasField("oneof_index") and each.oneof_index == field.oneof_index:
                    yield f"{indent}  {_field(each, maps, syntax, is_in_oneof=True)}"
            yield f"{indent}}}"


def _field(
    field: FieldDescriptorProto, maps: dict[str, DescriptorProto], syntax: str, *, is_in_oneof: bool = False
) -> str:
    entry = maps.get(field.type_name.rpartition(".")[2]) if field.type == _F.TYPE_MESSAGE else None
    if entry is not None:
        key, value = entry.field
        return f"map<{_type(key)}, {_type(value)}> {field.name} = {field.number};"
    is_optional = field.proto3_optional or (syntax == "proto2" and field.label == _F.LABEL_OPTIONAL)
    label = "" if is_in_oneof else _LABELS.get(field.label, "optional " if is_optional else "")
    return f"{label}{_type(field)} {field.name} = {field.number}{_options(field)};"


def _type(field: FieldDescriptorProto) -> str:
    return str(field.type_name or _SCALARS[field.type])


def _options(field: FieldDescriptorProto) -> str:
    given = []
    if field.HasField("default_value"):
        is_text = field.type in {_F.TYPE_STRING, _F.TYPE_BYTES}
        quoted = field.default_value.replace("\\", "\\\\").replace('"', '\\"')
        given.append(f'default = "{quoted}"' if is_text else f"default = {field.default_value}")
    if field.options.HasField("packed"):
        given.append(f"packed = {str(field.options.packed).lower()}")
    if field.options.deprecated:
        given.append("deprecated = true")
    return f" [{', '.join(given)}]" if given else ""


def _enum(enum: EnumDescriptorProto, indent: str) -> Iterator[str]:
    yield f"{indent}enum {enum.name} {{"
    if enum.options.allow_alias:
        yield f"{indent}  option allow_alias = true;"
    for value in enum.value:
        yield f"{indent}  {value.name} = {value.number};"
    yield f"{indent}}}"
