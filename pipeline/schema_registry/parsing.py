"""Parses schemas of each type, with those that they refer to."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.schema_registry.errors import invalid_schema
from pipeline.schema_registry.schemas import ParsedSchema, Resolve, SchemaText

_DEEPEST = 100


def parse(schema: SchemaText, resolve: Resolve) -> ParsedSchema:
    """Parse a schema; raise `RegistryError` 42201 if it is not valid, and 42207 or 40401 for a reference that does not exist."""
    return _PARSERS[schema.type](schema, _all(schema, resolve))


def _all(schema: SchemaText, resolve: Resolve) -> dict[str, SchemaText]:
    """Return all schemas that a schema refers to, directly or not, by name; each after those that it refers to.

    Each version is followed once: with two references to the version before, the paths would double in each version.
    """
    found: dict[str, SchemaText] = {}
    followed: set[tuple[str, int]] = set()

    def follow(outer: SchemaText, depth: int) -> None:
        if depth > _DEEPEST:
            raise invalid_schema(f"it refers to schemas that refer to others, more than {_DEEPEST} times")
        for reference in outer.references:
            referenced = resolve(reference)
            if (reference.subject, reference.version) not in followed:
                followed.add((reference.subject, reference.version))
                follow(referenced, depth + 1)
            found[reference.name] = referenced

    follow(schema, 0)
    return found


def _avro(schema: SchemaText, known: Mapping[str, SchemaText]) -> ParsedSchema:
    from pipeline.schema_registry.avro_schemas import AvroSchema  # noqa: PLC0415 - an extra

    return AvroSchema.of(schema.text, [each.text for each in known.values()])


def _json(schema: SchemaText, known: Mapping[str, SchemaText]) -> ParsedSchema:
    from pipeline.schema_registry.json_schemas import JsonSchema  # noqa: PLC0415 - used only for JSON

    return JsonSchema.of(schema.text, {name: each.text for name, each in known.items()})


def _protobuf(schema: SchemaText, known: Mapping[str, SchemaText]) -> ParsedSchema:
    from pipeline.schema_registry.protobuf_schemas import ProtobufSchema  # noqa: PLC0415 - an extra

    return ProtobufSchema.of(schema.text, {name: each.text for name, each in known.items()})


_PARSERS = {"AVRO": _avro, "JSON": _json, "PROTOBUF": _protobuf}
