"""Column types for a JSON Schema, as taps, connectors and API descriptions use it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.core.schema import Column, Schema
from pipeline.kernel.sql_text import quoted

_FORMATS = {"date-time": "TIMESTAMPTZ", "timestamp": "TIMESTAMPTZ", "date": "DATE"}
_PLAIN = {"boolean": "BOOLEAN", "integer": "BIGINT", "string": "VARCHAR"}
_JSON = "VARCHAR"
"""The type of values whose structure is unknown; they are kept as JSON text."""
_DEEPEST = 12
_MOST_PARTS = 1_000


def columns_of(schema: Mapping[str, Any], definitions: Mapping[str, Any] | None = None) -> Schema:
    """Return the properties of an object as columns.

    `definitions` is the document with the targets of `$ref`. A number is a double, because JSON Schema does not say how many
    digits it has; what has several types, or an unknown structure, is text.
    """
    resolved = _resolved(schema, definitions or schema, 0)
    return Schema(
        tuple(
            Column(name, type_of(each, definitions or schema))
            for name, each in _properties(resolved, definitions or schema).items()
        )
    )


class _TooLargeError(Exception):
    """A type has too many parts."""


def type_of(schema: Any, definitions: Mapping[str, Any]) -> str:
    """Return the type of a value: text for one that contains itself, or has more than a thousand parts."""
    try:
        return _type(schema, definitions, frozenset(), itertools.count())
    except _TooLargeError:
        return _JSON


def _type(schema: Any, definitions: Mapping[str, Any], opened: frozenset[str], parts: Iterator[int]) -> str:
    """Return the type of a value inside the targets of some references; `parts` counts those of the whole type."""
    references = frozenset(_references(schema, definitions, 0))
    if next(parts) > _MOST_PARTS:
        raise _TooLargeError
    if references & opened:
        return _JSON
    node, inside = _resolved(schema, definitions, 0), opened | references
    kinds = _kinds(node)
    if kinds == {"integer", "number"}:
        kinds = {"number"}
    if len(kinds) != 1:
        return _JSON
    kind = next(iter(kinds))
    if kind == "array":
        items = node.get("items")
        return f"{_type(items, definitions, inside, parts)}[]" if isinstance(items, Mapping) else _JSON
    if kind == "object":
        fields = _properties(node, definitions).items()
        listed = ", ".join(f"{quoted(name)} {_type(each, definitions, inside, parts)}" for name, each in fields)
        return f"STRUCT({listed})" if listed else _JSON
    if kind == "number":
        return "BIGINT" if node.get("airbyte_type") in {"integer", "big_integer"} else "DOUBLE"
    return _text(node) if kind == "string" else _PLAIN.get(kind, _JSON)


def _references(schema: Any, definitions: Mapping[str, Any], depth: int) -> Iterator[str]:
    """Yield the references that lead to a schema, also as a choice or a part of it."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return
    reference = schema.get("$ref")
    if isinstance(reference, str):
        yield reference
        yield from _references(_target(reference, definitions), definitions, depth + 1)
    for key in ("anyOf", "oneOf", "allOf"):
        for each in schema[key] if isinstance(schema.get(key), list) else ():
            if isinstance(each, Mapping) and isinstance(each.get("$ref"), str):
                yield each["$ref"]


def _target(reference: str, definitions: Mapping[str, Any]) -> Any:
    """Return what a pointer into the document leads to; `None` for nothing."""
    node: Any = definitions if reference.startswith("#/") else None
    for key in reference[2:].split("/"):
        node = node.get(key.replace("~1", "/").replace("~0", "~")) if isinstance(node, Mapping) else None
    return node


def _text(node: Mapping[str, Any]) -> str:
    is_naive = node.get("airbyte_type") in {"timestamp_without_timezone", "time_without_timezone"}
    kind = _FORMATS.get(str(node.get("format")), "VARCHAR")
    return "TIMESTAMP" if is_naive and kind == "TIMESTAMPTZ" else kind


def _kinds(node: Mapping[str, Any]) -> set[str]:
    """Return the types of a value other than null."""
    declared = node.get("type")
    listed = [declared] if isinstance(declared, str) else declared if isinstance(declared, Sequence) else []
    if not listed and isinstance(node.get("properties"), Mapping):
        listed = ["object"]
    return {str(kind) for kind in listed} - {"null"}


def _properties(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    own = node.get("properties")
    merged = dict(own) if isinstance(own, Mapping) else {}
    for part in node.get("allOf", ()) if isinstance(node.get("allOf"), Sequence) else ():
        inner = _resolved(part, definitions, 0).get("properties")
        merged |= inner if isinstance(inner, Mapping) else {}
    return merged


def _resolved(schema: Any, definitions: Mapping[str, Any], depth: int) -> Mapping[str, Any]:
    """Return a schema without a reference, and without the choice of null."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return {}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        return _resolved(_target(reference, definitions), definitions, depth + 1)
    choices = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(choices, Sequence) and not isinstance(choices, str):
        real = [each for each in choices if not (isinstance(each, Mapping) and each.get("type") == "null")]
        if len(real) == 1:
            return _resolved(real[0], definitions, depth + 1)
    if isinstance(schema.get("allOf"), Sequence) and "type" not in schema:
        parts = [_resolved(each, definitions, depth + 1) for each in schema["allOf"]]
        merged: dict[str, Any] = {}
        for part in parts:
            fields = {**merged.get("properties", {}), **part.get("properties", {})}
            merged = {**merged, **part, **({"properties": fields} if fields else {})}
        return {**merged, **{key: each for key, each in schema.items() if key != "allOf"}}
    return schema


def resolved(schema: Any, document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema, or another part of a document, without a reference; empty if it does not exist."""
    return _resolved(schema, document, 0)
