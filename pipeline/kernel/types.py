"""The DuckDB types that a Delta table can store, and the types as which others are stored."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import replace

import duckdb
import pyarrow as pa

from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.schema import Column, Schema
from pipeline.kernel.engine import arrow, connect, schema_of
from pipeline.kernel.sql_text import quoted

_STORED_AS = {
    "HUGEINT": "BIGINT",  # the type of a sum of integers; a larger value raises an error
    "UHUGEINT": "BIGINT",
    "UBIGINT": "DECIMAL(20,0)",
    "UINTEGER": "BIGINT",
    "USMALLINT": "INTEGER",
    "UTINYINT": "SMALLINT",
    "TIMESTAMP_S": "TIMESTAMP",
    "TIMESTAMP_MS": "TIMESTAMP",
    "TIMESTAMP_NS": "TIMESTAMP",
    "TIME": "VARCHAR",
    "TIME WITH TIME ZONE": "VARCHAR",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ",
    "INTERVAL": "VARCHAR",
    "UUID": "VARCHAR",
    "TIME_NS": "VARCHAR",
    "BIT": "VARCHAR",
    "BIGNUM": "VARCHAR",
    "JSON": "VARCHAR",
    '"NULL"': "INTEGER",
    "NULL": "INTEGER",
}
_UNTYPED = {'"NULL"', "NULL"}
"""The type of a column of nulls in a query; a declared column cannot have it."""
_MOST_TYPES = 4_096
"""How many types are kept with their Arrow types: DuckDB parses nested ones. Callers of endpoints can ask for any number of types."""
_ARROW = {
    "BOOLEAN": pa.bool_(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "VARCHAR": pa.string(),
    "BLOB": pa.binary(),
    "DATE": pa.date32(),
    "TIMESTAMP": pa.timestamp("us"),
    "TIMESTAMPTZ": pa.timestamp("us", "UTC"),
}


def require_types(schema: Schema, place: Place | None) -> None:
    """Raise `DefinitionError` for a column with an unknown type."""
    for column in schema.columns:
        if not _is_type(column.type):
            known = did_you_mean(column.type, {*_ARROW, *_STORED_AS} - _UNTYPED)
            problem = f"column {column.name!r} has an unknown type"
            raise DefinitionError(problem, got=column.type, do=known, place=place)


def _is_type(kind: str) -> bool:
    try:
        duckdb.sqltype(kind)
    except duckdb.Error:
        return False
    return kind not in _UNTYPED


def stored(schema: Schema) -> Schema:
    """Return the schema with the types as stored in a lake."""
    return Schema(tuple(replace(column, type=stored_type(column.type)) for column in schema.columns))


def as_stored(con: duckdb.DuckDBPyConnection, select: str) -> str:
    """Return a SELECT with its columns cast to the types stored in a lake; some DuckDB types have no Arrow type."""
    schema = schema_of(con, select)
    kinds = stored(schema).as_dict()
    if kinds == schema.as_dict():
        return select
    columns = ", ".join(f"{quoted(name)}::{kind} as {quoted(name)}" for name, kind in kinds.items())
    return f"select {columns} from ({select}\n) as _as_made"


def stored_type(kind: str) -> str:
    """Return the type as which a DuckDB type is stored: most are unchanged, arrays become lists; field names are quoted."""
    inner = inner_types(kind)
    if inner is not None:
        return nested_type(kind, {name: stored_type(part) for name, part in inner.items()})
    if kind.startswith(("ENUM(", "UNION(")):
        return "VARCHAR"
    return _STORED_AS.get(kind, kind)


def nested_type(kind: str, inner: Mapping[str, str]) -> str:
    """Return a nested type with its inner types replaced."""
    if kind.endswith("]"):
        return f"{inner['element']}[]"
    if kind.startswith("MAP"):
        return f"MAP({inner['key']}, {inner['value']})"
    return f"STRUCT({', '.join(f'{quoted(name)} {part}' for name, part in inner.items())})"


def decimal_of(kind: str) -> tuple[int, int] | None:
    """Return the precision and scale of a DECIMAL; `None` for another type."""
    match = re.fullmatch(r"(?:DECIMAL|NUMERIC)(?:\((\d+)(?:, ?(\d+))?\))?", kind)
    return (int(match[1] or 18), int(match[2] or (0 if match[1] else 3))) if match else None


def inner_types(kind: str) -> dict[str, str] | None:
    """Return the inner types of a nested type, by the struct's field names, or by `element`, `key` and `value`."""
    listed = re.fullmatch(r"(.*)\[\d*\]", kind, re.DOTALL)
    if listed:
        return {"element": listed[1]}
    nested = re.fullmatch(r"(STRUCT|MAP)\((.*)\)", kind, re.DOTALL)
    if nested is None:
        return None
    parts = _parts(nested[2])
    return dict(zip(("key", "value"), parts, strict=True)) if nested[1] == "MAP" else dict(map(_field_of, parts))


def _field_of(field: str) -> tuple[str, str]:
    match = re.fullmatch(r'("(?:[^"]|"")*"|\w+) (.*)', field, re.DOTALL)
    if match is None:
        raise AssertionError(f"not a field of a struct: {field!r}")
    name = match[1][1:-1].replace('""', '"') if match[1].startswith('"') else match[1]
    return name, match[2]


def _parts(text: str) -> list[str]:
    """Split a text at commas outside of parentheses and quotes."""
    parts, depth = [""], 0
    for piece in re.findall(r'"(?:[^"]|"")*"|\'(?:[^\']|\'\')*\'|.', text, re.DOTALL):
        depth += (piece == "(") - (piece == ")")
        if piece == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += piece
    return [part.strip() for part in parts]


def arrow_schema(schema: Schema) -> pa.Schema:
    """Return a stored schema as an Arrow schema; nested types are converted by DuckDB."""
    return pa.schema([pa.field(column.name, arrow_type(column.type)) for column in schema.columns])


@functools.lru_cache(_MOST_TYPES)
def arrow_type(kind: str) -> pa.DataType:
    """Return a stored DuckDB type as an Arrow type."""
    if kind in _ARROW:
        return _ARROW[kind]
    decimal = decimal_of(kind)
    if decimal is not None:
        return pa.decimal128(*decimal)
    with connect() as con:  # a nested type, which DuckDB parses
        return arrow(con, f"select null::{kind} as x limit 0").schema.field("x").type


def sql_type(kind: pa.DataType) -> str:
    """Return the DuckDB type as which an Arrow type is stored."""
    known = next((name for name, arrow_kind in _ARROW.items() if arrow_kind == kind), None)
    return known or _parametric(kind) or _nested(kind) or _as_duckdb_reads(kind)


def _parametric(kind: pa.DataType) -> str | None:
    if pa.types.is_decimal(kind):
        return f"DECIMAL({kind.precision},{kind.scale})"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP" if kind.tz is None else "TIMESTAMPTZ"
    return None


def _nested(kind: pa.DataType) -> str | None:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_map(kind):
        return f"MAP({sql_type(kind.key_type)}, {sql_type(kind.item_type)})"
    if pa.types.is_struct(kind):
        return f"STRUCT({', '.join(f'{quoted(field.name)} {sql_type(field.type)}' for field in kind)})"
    return None


def _as_duckdb_reads(kind: pa.DataType) -> str:
    """Return the type of other Arrow types, for example string views, as DuckDB reads them."""
    with connect() as con:
        con.register("t", pa.table({"x": pa.nulls(0, kind)}))
        return stored_type(schema_of(con, "select x from t").columns[0].type)


def from_arrow(schema: pa.Schema) -> Schema:
    """Return an Arrow schema with DuckDB types."""
    return Schema(tuple(Column(field.name, sql_type(field.type)) for field in schema))
