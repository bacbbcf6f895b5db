"""Conditions and columns that options of a definition state, and which of them do not fit its rows.

DuckDB binds them together with the statement, and its error names a column, but not the option that names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import duckdb

from pipeline.core.definitions import NOT_NULL, SEQUENCED, Expectation
from pipeline.core.errors import DefinitionError, Place, few
from pipeline.core.merge_options import Merge
from pipeline.core.schema import Schema
from pipeline.kernel.engine import first_line, no_rows, schema_of
from pipeline.kernel.sql_text import quoted

BINDING_ERRORS = (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException)
_IMPLIED = {NOT_NULL: "key=", SEQUENCED: "sequence_by="}
"""The options that imply expectations."""


@dataclass(frozen=True)
class OptionExpression:
    """An expression over the rows of a table, and the option that states it."""

    option: str
    """As it is shown: `key='id'`."""
    sql: str
    place: Place | None = None
    """Where it is written, if that is not the place of the definition."""


def column_expressions(option: str, names: Iterable[str]) -> tuple[OptionExpression, ...]:
    """Return the columns that an option names."""
    return tuple(OptionExpression(f"{option}={name!r}", quoted(name)) for name in names)


def condition_expressions(expectations: Sequence[Expectation], merge: Merge | None) -> tuple[OptionExpression, ...]:
    """Return the conditions of a merged table first, because its expectations may contain them."""
    expressions: list[OptionExpression] = []
    if merge is not None:
        conditions = {"apply_as_deletes": merge.apply_as_deletes, "apply_as_truncates": merge.apply_as_truncates}
        expressions += [OptionExpression(f"{name}={sql!r}", sql) for name, sql in conditions.items() if sql is not None]
        expressions += column_expressions("sequence_by", merge.sequence_by)
    for each in expectations:
        shown = _IMPLIED.get(each.name) or f"expectation {each.name!r} ({each.condition})"
        expressions.append(OptionExpression(shown, each.condition, each.place))
    return tuple(expressions)


def require_fitting(con: duckdb.DuckDBPyConnection, rows: Schema, expressions: Iterable[OptionExpression]) -> None:
    """Raise `DefinitionError` for the first expression that rows with these columns do not allow."""
    expressions = tuple(expressions)
    if not expressions or _binds(con, rows, expressions):
        return
    for each in expressions:
        try:
            _bind(con, rows, [each])
        except BINDING_ERRORS as error:
            raise DefinitionError(
                f"{each.option} does not fit the rows of the table",
                got=first_line(error),
                do=f"use its columns: {few(rows.names, 12)}" if isinstance(error, duckdb.BinderException) else None,
                place=each.place,
            ) from error


def _binds(con: duckdb.DuckDBPyConnection, rows: Schema, expressions: Sequence[OptionExpression]) -> bool:
    try:
        _bind(con, rows, expressions)
    except BINDING_ERRORS:
        return False
    return True


def _bind(con: duckdb.DuckDBPyConnection, rows: Schema, expressions: Sequence[OptionExpression]) -> None:
    select = ", ".join(f"({each.sql}\n)" for each in expressions)
    schema_of(con, f"select {select} from ({no_rows(rows)})")
