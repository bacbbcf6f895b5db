"""Schema evolution of user-declared state: which column changes convert existing state, and which are rejected."""

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
"""The wider types that can represent every value of a type."""


def evolve(before: Schema, now: Schema, defaults: Mapping[str, str], place: Place) -> tuple[str, ...]:
    """Return SQL over the previous columns of a state, one expression for each current column, in their order.

    A new column has its default or null. A column with a wider type is cast. A column that is no longer declared is
    dropped. The order of columns is irrelevant. Raises `DefinitionError` for a type that may not hold the stored
    values.
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
                f"state column {column.name.removeprefix(PREFIX)!r} cannot be converted to its new type",
                got=f"{kind} before, {column.type} now",
                do="use another name for the new column, keep the type, or rebuild the table with --from earliest",
                place=place,
            )
    return tuple(expressions)
