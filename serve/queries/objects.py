"""Rows as JSON objects whose members have any names, in any order, and rows of other tables within them.

The engine makes the texts, and Python puts them one after the other. Names are bound like values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.kernel.sql_text import quoted
from pipeline.kernel.types import arrow_type
from serve.queries.expressions import plain
from serve.queries.select import PageStatement, Statement


@dataclass(frozen=True)
class ObjectMember:
    """A member of an object: the value of a column, a text that is the same in all rows, or other objects.

    Other objects are those of related rows in a column, or without a column, one of the same row.
    """

    name: str
    column: str = ""
    """A column of the statement, or of the related row; empty for a constant."""
    type: str = ""
    """The DuckDB type of a column with values."""
    constant: str = ""
    members: tuple[ObjectMember, ...] | None = None
    """Those of other objects."""
    is_list: bool = False
    is_text: bool = False
    """Whether numbers are texts, which keep digits that others read as floats."""
    is_null: bool = False
    """Whether it has no value in any row."""


def as_objects(made: PageStatement, shapes: Sequence[tuple[ObjectMember, ...]]) -> Statement:
    """Return for each row one JSON object of each shape, in columns `row0`, `row1` and so on, beside the columns of the cursor."""
    values: list[Any] = []
    columns = [f"{_object(shape, '', values)}::varchar as row{number}" for number, shape in enumerate(shapes)]
    columns += [quoted(name) for name in made.cursor]
    return Statement(
        f"select {', '.join(columns) or '1 as one'} from ({made.statement.sql})", (*values, *made.statement.values)
    )


def _object(members: tuple[ObjectMember, ...], prefix: str, values: list[Any], depth: int = 0) -> str:
    parts = []
    for each in members:
        values.append(each.name)
        parts.append(f"cast(? as varchar), {_value(each, prefix, values, depth)}")
    return f"json_object({', '.join(parts)})"


def _value(each: ObjectMember, prefix: str, values: list[Any], depth: int) -> str:
    column = f"{prefix}{quoted(each.column)}"
    if each.is_null:
        return "null"
    if each.members is None and not each.column:
        values.append(each.constant)
        return "cast(? as varchar)"
    if each.members is not None and not each.column:
        return _object(each.members, prefix, values, depth)
    if each.members is None:
        return f"cast({column} as {_text_of(each.type)})" if each.is_text else plain(column, arrow_type(each.type))
    if each.is_list:
        row = f"o{depth}"
        return f"list_transform({column}, lambda {row}: {_object(each.members, f'{row}.', values, depth + 1)})"
    return f"case when {column} is not null then {_object(each.members, f'{column}.', values, depth)} end"


def _text_of(kind: str) -> str:
    return "varchar[]" if kind.endswith("[]") else "varchar"
