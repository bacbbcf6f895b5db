"""The types of shared columns, in DuckDB and in the schema of a Delta table."""

from __future__ import annotations

import json
from typing import Any

from pipeline.core.schema import Column, Schema
from pipeline.kernel.types import decimal_of, inner_types, nested_type, stored_type

_PRIMITIVE = {
    "BOOLEAN": "boolean",
    "TINYINT": "byte",
    "SMALLINT": "short",
    "INTEGER": "integer",
    "BIGINT": "long",
    "FLOAT": "float",
    "DOUBLE": "double",
    "VARCHAR": "string",
    "BLOB": "binary",
    "DATE": "date",
    "TIMESTAMPTZ": "timestamp",
}
_SHARED_AS = {"TIMESTAMP": "TIMESTAMPTZ", "HUGEINT": "DECIMAL(38,0)", "UHUGEINT": "DECIMAL(38,0)"}
"""A time without zone is in UTC: readers of version 1 know no other."""


def shared_schema(schema: Schema) -> Schema:
    """Return the columns with the types as which they are shared."""
    return Schema(tuple(Column(each.name, _shared_type(each.type)) for each in schema.columns))


def schema_string(schema: Schema) -> str:
    """Return shared columns as the `schemaString` of a Delta table."""
    return json.dumps(_struct(schema.as_dict()))


def _shared_type(kind: str) -> str:
    inner = inner_types(kind)
    if inner is not None:
        return nested_type(kind, {name: _shared_type(each) for name, each in inner.items()})
    stored = stored_type(_SHARED_AS.get(kind, kind))
    return _SHARED_AS.get(stored, stored)


def _struct(columns: dict[str, str]) -> dict[str, Any]:
    fields = [{"name": name, "type": _type(kind), "nullable": True, "metadata": {}} for name, kind in columns.items()]
    return {"type": "struct", "fields": fields}


def _type(kind: str) -> Any:
    decimal = decimal_of(kind)
    if decimal is not None:
        return f"decimal({decimal[0]},{decimal[1]})"
    inner = inner_types(kind)
    if inner is None:
        return _PRIMITIVE[kind]
    if kind.startswith("MAP(") and not kind.endswith("]"):
        return {
            "type": "map",
            "keyType": _type(inner["key"]),
            "valueType": _type(inner["value"]),
            "valueContainsNull": True,
        }
    if kind.endswith("]"):
        return {"type": "array", "elementType": _type(inner["element"]), "containsNull": True}
    return _struct(inner)
