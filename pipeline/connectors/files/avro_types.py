"""Arrow types of Avro schemas, and which schemas are decoded by column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

_DECIMAL_DIGITS = 38
_PRIMITIVES = {
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "bytes": pa.binary(),
}
_LOGICAL: Mapping[tuple[object, object], pa.DataType] = {
    ("int", "date"): pa.date32(),
    ("int", "time-millis"): pa.time32("ms"),
    ("long", "time-micros"): pa.time64("us"),
    ("long", "timestamp-millis"): pa.timestamp("ms", "UTC"),
    ("long", "timestamp-micros"): pa.timestamp("us", "UTC"),
    ("long", "local-timestamp-millis"): pa.timestamp("ms"),
    ("long", "local-timestamp-micros"): pa.timestamp("us"),
}
"""Logical types of numbers; others are read as the type that they annotate."""
_NULL = "null"


class _AsTextError(Exception):
    """Values of a type are stored as JSON text, because no Arrow type has them."""


@dataclass(frozen=True)
class AvroFileColumns:
    """The columns of a schema, with the units of times in the file, and those that are JSON text."""

    types: pa.Schema
    as_text: frozenset[str]

    @classmethod
    def of(cls, schema: Any) -> AvroFileColumns:
        """Return the columns of a schema; raise `ValueError` if it is not a valid record.

        A type that refers to itself, a union of several types, and a decimal of more than 38 digits become text.
        """
        if not isinstance(schema, Mapping) or schema.get("type") != "record" or not schema.get("fields"):
            raise ValueError("the schema is not a record with fields")
        name, columns = _full_name(schema, ""), {}
        types = _Types(name)
        try:
            for field in schema["fields"]:
                columns[str(field["name"])] = types.column(field["type"], name.rpartition(".")[0])
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"the schema is not valid: {error!r}") from error
        as_text = frozenset(name for name, kind in columns.items() if kind is None)
        return cls(pa.schema([(name, kind or pa.string()) for name, kind in columns.items()]), as_text)


def without_logical_types(schema: Any) -> Any:
    """Return a schema with the underlying types, except decimals: dates of Python have fewer years than those of Avro."""
    if isinstance(schema, list):
        return [without_logical_types(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    inner = {name: without_logical_types(schema[name]) for name in ("type", "items", "values") if name in schema}
    fields = [{**field, "type": without_logical_types(field["type"])} for field in schema.get("fields", ())]
    kept = {**schema, **inner, **({"fields": fields} if "fields" in schema else {})}
    if kept.get("logicalType") != "decimal":
        kept.pop("logicalType", None)
    return kept


def is_columnar(schema: Any) -> bool:
    """Return whether the columnar decoder has all types of a schema, so that it does not fail or change a value."""
    return all(_is_columnar(field["type"], is_top=True) for field in schema["fields"])


def _is_columnar(schema: Any, *, is_top: bool = False) -> bool:
    if isinstance(schema, list):
        others = [each for each in schema if each != _NULL]
        return len(schema) == 2 and len(others) == 1 and _is_columnar(others[0])  # noqa: PLR2004 - null and a type
    if not isinstance(schema, Mapping):
        return schema in _PRIMITIVES
    match schema["type"]:
        case "record":
            return bool(schema["fields"]) and all(_is_columnar(field["type"]) for field in schema["fields"])
        case "array":
            return _is_columnar(schema["items"])
        case "enum":
            return is_top
        case kind:
            return _is_columnar_scalar(kind, schema)


def _is_columnar_scalar(kind: Any, schema: Mapping[str, Any]) -> bool:
    logical = schema.get("logicalType")
    if (kind, logical) == ("bytes", "decimal"):
        return 0 < int(schema.get("precision", 0)) <= _DECIMAL_DIGITS
    is_known = logical is None or (kind, logical) in _LOGICAL
    return is_known and (kind == "fixed" or (isinstance(kind, str) and kind in _PRIMITIVES))


class _Types:
    """Arrow types by the full names of the Avro types that were defined before; `None` while a type is being defined."""

    def __init__(self, name: str) -> None:
        self.names: dict[str, pa.DataType | None] = {name: None}

    def column(self, schema: Any, space: str) -> pa.DataType | None:
        try:
            return self.of(schema, space)
        except _AsTextError:
            return None

    def of(self, schema: Any, space: str) -> pa.DataType:
        if isinstance(schema, list):
            others = [each for each in schema if each != _NULL]
            if len(others) != 1:
                raise _AsTextError
            return self.of(others[0], space)
        if isinstance(schema, Mapping):
            return self._structured(schema, space)
        if schema == _NULL:
            return pa.string()
        found = _PRIMITIVES.get(schema) or self.names.get(f"{space}.{schema}") or self.names.get(schema)
        if found is None:
            raise _AsTextError
        return found

    def _structured(self, schema: Mapping[str, Any], space: str) -> pa.DataType:
        kind = schema["type"]
        if kind in {"record", "enum", "fixed"}:
            name = _full_name(schema, space)
            self.names[name] = None
            self.names[name] = found = self._named(schema, name.rpartition(".")[0])
            return found
        if kind == "array":
            if not _has_bytes(schema["items"]):
                raise ValueError("an array has items without bytes")  # a few bytes could say that there are any number
            return pa.list_(self.of(schema["items"], space))
        if kind == "map":
            return pa.map_(pa.string(), self.of(schema["values"], space))
        if (kind, schema.get("logicalType")) == ("bytes", "decimal"):
            return _decimal(schema)
        return _LOGICAL.get((kind, schema.get("logicalType"))) or self.of(kind, space)

    def _named(self, schema: Mapping[str, Any], space: str) -> pa.DataType:
        if schema["type"] == "record":
            fields = [(str(field["name"]), self.of(field["type"], space)) for field in schema["fields"]]
            if not fields:
                raise _AsTextError
            return pa.struct(fields)
        if schema["type"] == "enum":
            return pa.string()
        return _decimal(schema) if schema.get("logicalType") == "decimal" else pa.binary()


def _decimal(schema: Mapping[str, Any]) -> pa.DataType:
    digits, scale = int(schema.get("precision", 0)), int(schema.get("scale", 0))
    if not 0 < digits <= _DECIMAL_DIGITS or not 0 <= scale <= digits:
        raise _AsTextError
    return pa.decimal128(digits, scale)


def _has_bytes(schema: Any) -> bool:
    if not isinstance(schema, Mapping):
        return bool(schema != _NULL)
    if schema["type"] == "record":
        return any(_has_bytes(field["type"]) for field in schema["fields"])
    return schema["type"] != _NULL and schema.get("size") != 0


def _full_name(schema: Mapping[str, Any], space: str) -> str:
    name, own = str(schema.get("name", "")), str(schema.get("namespace", space))
    return name if "." in name or not own else f"{own}.{name}"
