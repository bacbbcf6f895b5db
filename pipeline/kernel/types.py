"""Which DuckDB types a Delta table holds, and what the others are stored as."""

from __future__ import annotations

import functools
import re

import pyarrow as pa

from pipeline.core.schema import Schema
from pipeline.kernel.engine import arrow, connect, plain_type, quoted

_STORED_AS = {
    "HUGEINT": "BIGINT",  # a sum of integers; a larger value fails loudly
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
    "INTERVAL": "VARCHAR",
    "UUID": "VARCHAR",
    "BIT": "VARCHAR",
    "JSON": "VARCHAR",
    '"NULL"': "INTEGER",
    "NULL": "INTEGER",
}
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


def stored(schema: Schema) -> Schema:
    """Return the schema as a lake stores it."""
    return Schema.of({column.name: stored_type(column.type) for column in schema.columns})


def stored_type(kind: str) -> str:
    """Return what a DuckDB type is stored as; most are stored as themselves."""
    if kind.startswith("ENUM"):
        return "VARCHAR"
    return _STORED_AS.get(kind, kind)


def arrow_schema(schema: Schema) -> pa.Schema:
    """Return a stored schema in Arrow's types; nested types are asked of DuckDB."""
    return pa.schema([pa.field(column.name, arrow_type(column.type)) for column in schema.columns])


@functools.cache
def arrow_type(kind: str) -> pa.DataType:
    """Return a stored DuckDB type as an Arrow type."""
    if kind in _ARROW:
        return _ARROW[kind]
    decimal = re.fullmatch(r"DECIMAL\((\d+), ?(\d+)\)", kind)
    if decimal:
        return pa.decimal128(int(decimal[1]), int(decimal[2]))
    with connect() as con:  # a nested type: DuckDB knows its own grammar
        return arrow(con, f"select null::{kind} as x limit 0").schema.field("x").type


def sql_type(kind: pa.DataType) -> str:
    """Return the DuckDB type of an Arrow type, as a lake stores it."""
    for name, known in _ARROW.items():
        if known == kind:
            return name
    if pa.types.is_decimal(kind):
        return f"DECIMAL({kind.precision},{kind.scale})"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP" if kind.tz is None else "TIMESTAMPTZ"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_map(kind):
        return f"MAP({sql_type(kind.key_type)}, {sql_type(kind.item_type)})"
    if pa.types.is_struct(kind):
        fields = ", ".join(f"{quoted(field.name)} {sql_type(field.type)}" for field in kind)
        return f"STRUCT({fields})"
    with connect() as con:  # a rare one, for example a view of text: DuckDB reads it, so DuckDB names it
        con.register("t", pa.table({"x": pa.nulls(0, kind)}))
        row = con.execute("describe select x from t").fetchall()[0]
        return stored_type(plain_type(str(row[1])))


def from_arrow(schema: pa.Schema) -> Schema:
    """Return an Arrow schema in DuckDB's type names."""
    return Schema.of({field.name: sql_type(field.type) for field in schema})
