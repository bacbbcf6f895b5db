"""State that outlives its definition: which changes of its columns keep it, and which are refused."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.core.errors import DefinitionError, Place
from pipeline.core.schema import Schema
from pipeline.kernel.sql_text import quoted
from pipeline.streaming.operators.state_columns import PREFIX

_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_WIDER: Mapping[str, tuple[str, ...]] = {
    **{kind: (*_INTEGERS[number + 1 :], *(("DOUBLE",) if number < 3 else ())) for number, kind in enumerate(_INTEGERS)},  # noqa: PLR2004 - a DOUBLE holds each INTEGER
    "FLOAT": ("DOUBLE",),
    "DATE": ("TIMESTAMP", "TIMESTAMPTZ"),
}
"""The types that hold every value of another one."""


def evolve(before: Schema, now: Schema, defaults: Mapping[str, str], place: Place) -> tuple[str, ...]:
    """Return SQL over the columns of a state as it was, one for each column as it is declared now, in its order.

    A new column has its default, or null; a wider type is cast to; a column that is declared no more is left out. The
    order of the columns does not matter. Raises `DefinitionError` for a type that may not hold what was remembered.
    """
    types = before.as_dict()
    expressions = []
    for column in now.columns:
        name, kind = quoted(column.name), types.get(column.name)
        if kind is None:
            expressions.append(f"({defaults.get(column.name, 'null')})::{column.type} as {name}")
        elif kind == column.type:
            expressions.append(name)
        elif column.type in _WIDER.get(kind, ()):
            expressions.append(f"{name}::{column.type} as {name}")
        else:
            raise DefinitionError(
                f"the state's column {column.name.removeprefix(PREFIX)!r} cannot go on as it was remembered",
                got=f"{kind} before, {column.type} now",
                do="give the new column another name, keep its type, or stream the table anew",
                place=place,
            )
    return tuple(expressions)
