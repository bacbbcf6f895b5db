"""Expressions over the columns of a row, for conditions that compare more than a column with values.

Functions are those of the table below and no others. None of them raises an error for a value: what cannot be computed is
null, so that a condition tells nothing about rows that a policy excludes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.core.schema import Column
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.types import arrow_type

_PLAIN = ("BOOLEAN", "TINYINT", "UTINYINT", "SMALLINT", "USMALLINT", "INTEGER", "UINTEGER", "BIGINT", "UBIGINT", "HUGEINT", "FLOAT",
          "DOUBLE", "DATE", "TIMESTAMP", "TIMESTAMPTZ", "VARCHAR", "BLOB")  # fmt: skip
_SECONDS = "'%Y-%m-%dT%H:%M:%S.%f'"


@dataclass(frozen=True)
class ColumnReference:
    """A column of the row. Nested values are read as JSON text."""

    column: Column

    @property
    def type(self) -> str:
        """The SQL type of its values; other types than those of an interface are read as text."""
        return self.column.type if is_plain(self.column) else "VARCHAR"


@dataclass(frozen=True)
class Constant:
    """A value as a text in the format of its type; `None` is null. It is bound, and never becomes part of a statement."""

    type: str
    value: str | None


@dataclass(frozen=True)
class Call:
    """A function of `FUNCTIONS` with its arguments."""

    function: str
    arguments: tuple[Expression, ...]
    type: str
    depth: int = field(default=1, compare=False)
    """How many calls are within each other."""


Expression = ColumnReference | Constant | Call

FUNCTIONS: Mapping[str, str] = {
    # comparisons are true or false, also with nulls: null equals null, and is neither less nor greater than anything
    "eq": "({0} is not distinct from {1})",
    "ne": "({0} is distinct from {1})",
    "gt": "coalesce(try({0} > {1}), false)",
    "ge": "coalesce(try({0} >= {1}), false)",
    "lt": "coalesce(try({0} < {1}), false)",
    "le": "coalesce(try({0} <= {1}), false)",
    "not": "(not {0})",
    "contains": "contains({0}, {1})",
    "starts_with": "starts_with({0}, {1})",
    "ends_with": "ends_with({0}, {1})",
    "length": "length({0})",
    "index_of": "(strpos({0}, {1}) - 1)",
    "substring_from": "try(substr({0}, greatest(try_cast({1} as bigint), 0) + 1))",
    "substring": "try(substr({0}, greatest(try_cast({1} as bigint), 0) + 1, greatest(try_cast({2} as bigint), 0)))",
    "lower": "lower({0})",
    "upper": "upper({0})",
    "trim": "trim({0}, E' \\t\\r\\n')",
    "concat": "({0} || {1})",
    "year": "year({0})",
    "month": "month({0})",
    "day": "day({0})",
    "hour": "hour({0})",
    "minute": "minute({0})",
    "second": "second({0})",
    "fraction_of_second": "((microsecond({0}) % 1000000) / 1000000)",
    "date": "cast({0} as date)",
    "time_of_day": "cast(cast({0} as timestamp) as time)",
    "utc_offset_minutes": "(0 * minute({0}))",
    "round": "round({0})",
    "floor": "floor({0})",
    "ceiling": "ceil({0})",
    "negate": "try(- {0})",
    "add": "try({0} + {1})",
    "subtract": "try({0} - {1})",
    "multiply": "try({0} * {1})",
    "divide": "try({0} / {1})",
    "divide_integers": "try({0} // {1})",
    "modulo": "try({0} % {1})",
    **{
        f"as {kind}": f"try_cast({{0}} as {kind})"
        for kind in ("BOOLEAN", "TINYINT", "UTINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL(38,10)", "DATE",
                     "TIME", "TIMESTAMP", "TIMESTAMPTZ", "VARCHAR")
    },
    "time_as_text": f"(replace(strftime({{0}}, {_SECONDS}), '.000000', '') || 'Z')",
}  # fmt: skip
"""The SQL of each function; each argument occurs once, in its order, because values are bound in this order."""


def is_nested(column: Column) -> bool:
    """Return whether a column has lists, structs or maps."""
    return column.type.endswith("]") or column.type.startswith(("STRUCT(", "MAP("))


def is_plain(column: Column) -> bool:
    """Return whether a column has a type that interfaces know: numbers, texts, truth values, times and bytes."""
    return column.type in _PLAIN or (column.type.startswith("DECIMAL(") and not is_nested(column))


def expression_sql(expression: Expression, values: list[Any], prefix: str) -> str:
    """Return the SQL of an expression, and append its values; `prefix` is that of the row's columns.

    Floats that are not finite count as null, as in the responses.
    """
    if isinstance(expression, Constant):
        values.append(expression.value)
        return f"cast(? as {expression.type})"
    if isinstance(expression, ColumnReference):
        return column_value(expression.column, prefix)
    arguments = [expression_sql(each, values, prefix) for each in expression.arguments]
    if expression.function in {"and", "or"}:
        return f"({f' {expression.function} '.join(arguments)})"
    return FUNCTIONS[expression.function].format(*arguments)


def column_value(column: Column, prefix: str = "") -> str:
    """Return the SQL of a column's value: floats that are not finite are null, nested values JSON text, and unknown types text."""
    name = f"{prefix}{quoted(column.name)}"
    if not is_plain(column) and not is_nested(column):
        return f"cast({name} as varchar)"
    if is_nested(column):
        return f"case when {name} is not null then to_json({plain(name, arrow_type(column.type))})::varchar end"
    return f"(case when isfinite({name}) then {name} end)" if column.type in {"FLOAT", "DOUBLE"} else name


def plain(value: str, kind: pa.DataType, depth: int = 0) -> str:
    """Return an expression that JSON can represent: no NaN or infinity, times in ISO 8601, bytes in base64."""
    if pa.types.is_floating(kind):
        return f"case when isfinite({value}) then {value} end"
    if pa.types.is_timestamp(kind):
        zone = "" if kind.tz is None else "Z"
        return f"replace(strftime({value}, {_SECONDS}), '.000000', '') || '{zone}'"
    if pa.types.is_binary(kind):
        return f"base64({value})"
    return _plain_nested(value, kind, depth) if pa.types.is_nested(kind) else value


def _plain_nested(value: str, kind: pa.DataType, depth: int) -> str:
    inner = f"v{depth}"
    if pa.types.is_struct(kind):
        fields = ", ".join(
            f"{quoted(field.name)} := {plain(f'{value}.{quoted(field.name)}', field.type, depth)}" for field in kind
        )
        return f"case when {value} is not null then struct_pack({fields}) end"
    if pa.types.is_map(kind):
        items = f"list_transform(map_values({value}), lambda {inner}: {plain(inner, kind.item_type, depth + 1)})"
        return f"case when {value} is not null then map(map_keys({value}), {items}) end"
    return f"list_transform({value}, lambda {inner}: {plain(inner, kind.value_type, depth + 1)})"
