"""Which changes of a Protobuf file are compatible: those by which a reader finds each field that was written, as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

_F = FieldDescriptorProto
_GROUPS = (
    {_F.TYPE_STRING, _F.TYPE_BYTES},
    {_F.TYPE_INT32, _F.TYPE_UINT32, _F.TYPE_INT64, _F.TYPE_UINT64, _F.TYPE_BOOL, _F.TYPE_ENUM},
    {_F.TYPE_SINT32, _F.TYPE_SINT64},
    {_F.TYPE_FIXED32, _F.TYPE_SFIXED32},
    {_F.TYPE_FIXED64, _F.TYPE_SFIXED64},
)
"""Types that have the same encoding."""
_BY_LENGTH = {_F.TYPE_STRING, _F.TYPE_BYTES, _F.TYPE_MESSAGE}
"""Types of which the last value of a repeated field is read as a single one."""


def problems_of(new: FileDescriptorProto, old: FileDescriptorProto) -> list[str]:
    """Return why messages of the earlier file cannot be read with the later one."""
    if new.package != old.package:
        return [f"the package changed from {old.package!r} to {new.package!r}"]
    return list(_messages(_by_name(new.message_type), _by_name(old.message_type), ""))


def _by_name(messages: object) -> dict[str, DescriptorProto]:
    return {message.name: message for message in messages}  # type: ignore[attr-defined]  # a repeated field


def _messages(new: Mapping[str, DescriptorProto], old: Mapping[str, DescriptorProto], outer: str) -> Iterator[str]:
    for name, earlier in old.items():
        later = new.get(name)
        if later is None:
            yield f"the message {outer}{name} was removed"
            continue
        yield from _fields(later, earlier, f"{outer}{name}")
        yield from _messages(_by_name(later.nested_type), _by_name(earlier.nested_type), f"{outer}{name}.")


def _fields(new: DescriptorProto, old: DescriptorProto, message: str) -> Iterator[str]:
    before, after = ({field.number: field for field in each.field} for each in (old, new))
    for number, field in before.items():
        where = f"the field {message}.{field.name}"
        if number not in after:
            if field.label == _F.LABEL_REQUIRED:
                yield f"{where} is required and was removed"
            elif _is_in_oneof(field) and any(_oneof(old, field) == _oneof(new, each) for each in after.values()):
                yield f"{where} was removed from the oneof {_oneof(old, field)!r}, which remains"
        else:
            yield from _changes(field, after[number], where)
    for number, field in after.items():
        if number not in before and field.label == _F.LABEL_REQUIRED:
            yield f"the field {message}.{field.name} is required and was added"
    yield from _oneofs(new, old, message)


def _changes(old: FieldDescriptorProto, new: FieldDescriptorProto, where: str) -> Iterator[str]:
    if {old.type, new.type} & {_F.TYPE_MESSAGE, _F.TYPE_GROUP} or old.type == new.type == _F.TYPE_ENUM:
        if (old.type, old.type_name) != (new.type, new.type_name):
            yield f"{where} has another type"
    elif old.type != new.type and not any({old.type, new.type} <= group for group in _GROUPS):
        yield f"{where} has a type with another encoding"
    if (old.label == _F.LABEL_REPEATED) != (new.label == _F.LABEL_REPEATED) and new.type not in _BY_LENGTH:
        yield f"{where} is {'no longer' if old.label == _F.LABEL_REPEATED else 'now'} repeated, with another encoding"
    if (old.label == _F.LABEL_REQUIRED) != (new.label == _F.LABEL_REQUIRED):
        yield f"{where} is {'no longer' if old.label == _F.LABEL_REQUIRED else 'now'} required"


def _oneofs(new: DescriptorProto, old: DescriptorProto, message: str) -> Iterator[str]:
    """Yield the fields whose oneof changed so that a value may replace another one, or be lost."""
    before = {field.number: _oneof(old, field) for field in old.field}
    existing = set(before.values()) - {""}
    moved: dict[str, list[str]] = {}
    for field in new.field:
        later, earlier = _oneof(new, field), before.get(field.number)
        if earlier is None or later == earlier:
            continue
        if later:
            moved.setdefault(later, []).append(field.name)
        elif any(_oneof(new, each) == earlier for each in new.field):
            yield f"the field {message}.{field.name} was moved out of the oneof {earlier!r}, which remains"
    for name, fields in moved.items():
        if name in existing or len(fields) > 1:
            problem = "which existed" if name in existing else "which excludes that both are set"
            yield f"the fields {', '.join(fields)} of {message} were moved into the oneof {name!r}, {problem}"


def _is_in_oneof(field: FieldDescriptorProto) -> bool:
    return field.HasField("oneof_index") and not field.proto3_optional


def _oneof(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    """Return the name of a field's oneof; empty if it has none."""
    return message.oneof_decl[field.oneof_index].name if _is_in_oneof(field) else ""
