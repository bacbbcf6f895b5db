"""Wider types: which types represent every value of another one exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pipeline.core.schema import Schema
from pipeline.kernel.types import decimal_of

_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT")
_DIGITS = 38
"""The maximum number of digits of a decimal."""
_EXACT = 1 << 53
"""Integers up to this magnitude are exact as `DOUBLE`."""


def wider_types(kind: str) -> tuple[str, ...]:
    """Return the types that represent every value of a type exactly, from the narrowest on.

    `DOUBLE` follows integers: only those up to 2^53 are exact, which `is_exact_as` tests for existing rows.
    """
    if kind in _INTEGERS:
        return (*_INTEGERS[_INTEGERS.index(kind) + 1 :], f"DECIMAL({_DIGITS},0)", "DOUBLE")
    if kind == "FLOAT":
        return ("DOUBLE",)
    if kind == "DATE":
        return ("TIMESTAMP",)
    precision = decimal_of(kind)
    if precision is None:
        return ()
    integer_digits, scale = precision[0] - precision[1], precision[1]
    decimals = (f"DECIMAL({_DIGITS},{each})" for each in range(scale, _DIGITS - integer_digits + 1))
    return tuple(each for each in decimals if each != kind)


def is_wider(kind: str, wider: str) -> bool:
    """Return whether a type may represent all values of another one, which `is_exact_as` tests for existing rows.

    In the result of a statement, a decimal may have more digits after the point and fewer before it.
    """
    if wider in wider_types(kind):
        return True
    before, after = decimal_of(kind), decimal_of(wider)
    return before is not None and after is not None and before != after and before[1] <= after[1]


def widened(schema: Schema, wider: Mapping[str, str]) -> Schema:
    """Return a contract in which the columns of `wider` have these types, where they are wider."""
    return Schema(
        tuple(
            replace(c, type=wider[c.name]) if c.name in wider and is_wider(c.type, wider[c.name]) else c
            for c in schema.columns
        )
    )


def is_exact_as(kind: str, wider: str, column: str) -> str:
    """Return SQL for whether a value of a column is exact in a wider type."""
    fits = f"({column} is null or try_cast({column} as {wider}) is not null)"
    return f"{column} between -{_EXACT} and {_EXACT}" if kind == "BIGINT" and wider == "DOUBLE" else fits
