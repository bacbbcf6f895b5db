"""Filters of Ray datasets as SQL, which the engine and data skipping evaluate before rows reach Ray."""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections.abc import Mapping
from typing import cast

from ray.data.expressions import BinaryExpr, ColumnExpr, Expr, LiteralExpr, Operation, UnaryExpr

from pipeline.core.schema import Schema
from pipeline.kernel.sql_text import literal, quoted

_SIGNS = {
    Operation.EQ: "=",
    Operation.NE: "<>",
    Operation.LT: "<",
    Operation.LE: "<=",
    Operation.GT: ">",
    Operation.GE: ">=",
}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "<>": "<>"}
_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT"}


def conditions_of(expr: Expr, schema: Schema) -> tuple[str, ...]:
    """Return SQL conditions that are true for all rows that satisfy the expression, one per part of its conjunction.

    A part is left out unless both engines compare its values in the same way, so the caller must apply the expression as well.
    """
    if isinstance(expr, BinaryExpr) and expr.op is Operation.AND:
        return (*conditions_of(expr.left, schema), *conditions_of(expr.right, schema))
    condition = _condition(expr, schema.as_dict())
    return () if condition is None else (condition,)


def columns_of(expr: Expr) -> tuple[str, ...]:
    """Return the columns that an expression reads, each once."""
    if isinstance(expr, ColumnExpr):
        return (expr.name,)
    fields = [value if isinstance(value, list | tuple) else [value] for value in vars(expr).values()]
    parts = [part for part in itertools.chain.from_iterable(fields) if isinstance(part, Expr)]
    return tuple(dict.fromkeys(itertools.chain.from_iterable(map(columns_of, parts))))


def _condition(expr: Expr, kinds: Mapping[str, str]) -> str | None:
    if isinstance(expr, UnaryExpr):
        return _null_test(expr, kinds)
    if not isinstance(expr, BinaryExpr):
        return None
    if expr.op in {Operation.AND, Operation.OR}:
        sides = [_condition(side, kinds) for side in (expr.left, expr.right)]
        parts = [f"({side})" for side in sides if side is not None]
        if expr.op is Operation.OR and len(parts) < len(sides):
            return None
        return f" {expr.op.value} ".join(parts) or None
    if expr.op is Operation.IN:
        return _membership(expr, kinds)
    return _comparison(expr, kinds)


def _null_test(expr: UnaryExpr, kinds: Mapping[str, str]) -> str | None:
    words = {Operation.IS_NULL: "is null", Operation.IS_NOT_NULL: "is not null"}.get(expr.op)
    column = _column(expr.operand, kinds)
    return None if words is None or column is None else f"{quoted(column)} {words}"


def _membership(expr: BinaryExpr, kinds: Mapping[str, str]) -> str | None:
    column = _column(expr.left, kinds)
    if column is None or not isinstance(expr.right, LiteralExpr) or not isinstance(expr.right.value, list):
        return None
    values = [_value(value, kinds[column]) for value in expr.right.value]
    if not values or None in values:
        return None
    return f"{quoted(column)} in ({', '.join(cast('list[str]', values))})"


def _comparison(expr: BinaryExpr, kinds: Mapping[str, str]) -> str | None:
    sign = _SIGNS.get(expr.op)
    if sign is None:
        return None
    left, right = expr.left, expr.right
    if isinstance(left, LiteralExpr):
        left, right, sign = right, left, _MIRRORED[sign]
    column = _column(left, kinds)
    value = _value(right.value, kinds[column]) if column is not None and isinstance(right, LiteralExpr) else None
    return None if column is None or value is None else f"{quoted(column)} {sign} {value}"


def _column(expr: Expr, kinds: Mapping[str, str]) -> str | None:
    return expr.name if isinstance(expr, ColumnExpr) and expr.name in kinds else None


def _value(value: object, kind: str) -> str | None:
    """Return a constant in SQL, or `None` if it is not of the kind that a column of this type is compared with exactly."""
    if isinstance(value, int | float):
        return _number(value, kind)
    if isinstance(value, str):
        return literal(value) if kind == "VARCHAR" else None
    if isinstance(value, dt.datetime):
        is_alike = kind == ("TIMESTAMP" if value.tzinfo is None else "TIMESTAMPTZ")
        return literal(value.isoformat(sep=" ")) if is_alike else None
    return literal(value.isoformat()) if isinstance(value, dt.date) and kind == "DATE" else None


def _number(value: float, kind: str) -> str | None:
    if isinstance(value, bool):
        return str(value).lower() if kind == "BOOLEAN" else None
    if isinstance(value, int):
        return str(value) if kind in _INTEGERS or (kind == "DOUBLE" and abs(value) < 1 << 53) else None
    return _double(value) if kind == "DOUBLE" and math.isfinite(value) else None


def _double(value: float) -> str:
    """Return a constant with an exponent: without one, it would be a DECIMAL."""
    text = repr(value)
    return text if "e" in text else f"{text}e0"
