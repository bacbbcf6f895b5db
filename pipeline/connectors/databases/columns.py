"""The columns of a table in a database, and the SELECT that fetches them without bending a value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pipeline.core.schema import Column, Schema

REJECTED_ROW = "_rejected_row"
"""The column of a SELECT for a row that the types cannot represent: the row as JSON, `SEPARATOR`, and the reason."""
SEPARATOR = "\x1f"
"""A character that does not occur in JSON."""


@dataclass(frozen=True)
class DatabaseColumn:
    """A column as the database fetches it."""

    name: str
    type: str
    """The DuckDB type of its values, as it is stored in the lake."""
    value: str
    """SQL for the value; null if `misfit` is true. A DECIMAL may be fetched as text."""
    text: str
    """SQL for the exact value as text, which has no misfits."""
    misfit: str = ""
    """SQL that is true for a value that the type cannot represent, for example infinity; empty if there are none."""


@dataclass(frozen=True)
class FetchedColumn:
    """A column of a SELECT: its SQL, and the SQL that is true for a row to be rejected."""

    column: DatabaseColumn
    sql: str
    misfit: str
    is_text: bool = False
    """Whether it is fetched as text because the contract wants text."""


def schema_of_columns(columns: Iterable[DatabaseColumn]) -> Schema:
    """Return the columns with the types under which they are fetched."""
    return Schema(tuple(Column(column.name, column.type) for column in columns))


def fetched(
    columns: Sequence[DatabaseColumn], schema: Schema, undeclared: Sequence[str] | None
) -> tuple[FetchedColumn, ...]:
    """Return the columns to fetch for a contract: those in it, and the undeclared ones; without `undeclared`, all.

    A column that the contract declares as VARCHAR, and one that it does not have, is fetched as exact text, so that
    every value has its place.
    """
    declared, chosen = schema.as_dict(), []
    for column in columns:
        if undeclared is not None and column.name not in declared and column.name not in undeclared:
            continue
        kind = declared.get(column.name, "VARCHAR" if undeclared is not None else column.type)
        if kind == "VARCHAR" and column.type != "VARCHAR":
            chosen.append(FetchedColumn(column, column.text, "", is_text=True))
        else:
            chosen.append(FetchedColumn(column, column.value, column.misfit))
    return tuple(chosen)


def select_list(
    columns: Sequence[FetchedColumn],
    quote: Callable[[str], str],
    rejection: Callable[[Sequence[FetchedColumn], Sequence[DatabaseColumn]], str],
) -> str:
    """Return the SELECT list of columns, with `REJECTED_ROW` if any of them may have values that do not fit.

    `rejection` returns SQL for the text of a rejected row, from the columns that may not fit, and all columns.
    """
    items = [f"{each.sql} as {quote(each.column.name)}" for each in columns]
    misfits = [each for each in columns if each.misfit]
    if misfits:
        condition = " or ".join(f"({each.misfit})" for each in misfits)
        row = rejection(misfits, [each.column for each in columns])
        items.append(f"case when {condition} then {row} end as {quote(REJECTED_ROW)}")
    return ", ".join(items) or "1 as nothing"
