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
class Stated:
    """An expression over the rows of a table, and the option that states it."""

    option: str
    """As it is shown: `key='id'`."""
    sql: str
    place: Place | None = None
    """Where it is written, if that is not the place of the definition."""


def stated_columns(option: str, names: Iterable[str]) -> tuple[Stated, ...]:
    """Return the columns that an option names."""
    return tuple(Stated(f"{option}={name!r}", quoted(name)) for name in names)


def stated_conditions(expectations: Sequence[Expectation], merge: Merge | None) -> tuple[Stated, ...]:
    """Return the conditions of a merged table first, because its expectations may contain them."""
    stated: list[Stated] = []
    if merge is not None:
        conditions = {"apply_as_deletes": merge.apply_as_deletes, "apply_as_truncates": merge.apply_as_truncates}
        stated += [Stated(f"{name}={sql!r}", sql) for name, sql in conditions.items() if sql is not None]
        stated += stated_columns("sequence_by", merge.sequence_by)
    for each in expectations:
        shown = _IMPLIED.get(each.name) or f"expectation {each.name!r} ({each.condition})"
        stated.append(Stated(shown, each.condition, each.place))
    return tuple(stated)


def require_fitting(con: duckdb.DuckDBPyConnection, rows: Schema, stated: Iterable[Stated]) -> None:
    """Raise `DefinitionError` for the first expression that rows with these columns do not allow."""
    stated = tuple(stated)
    if not stated or _binds(con, rows, stated):
        return
    for each in stated:
        try:
            _bind(con, rows, [each])
        except BINDING_ERRORS as error:
            raise DefinitionError(
                f"{each.option} does not fit the rows of the table",
                got=first_line(error),
                do=f"use its columns: {few(rows.names, 12)}" if isinstance(error, duckdb.BinderException) else None,
                place=each.place,
            ) from error


def _binds(con: duckdb.DuckDBPyConnection, rows: Schema, stated: Sequence[Stated]) -> bool:
    try:
        _bind(con, rows, stated)
    except BINDING_ERRORS:
        return False
    return True


def _bind(con: duckdb.DuckDBPyConnection, rows: Schema, stated: Sequence[Stated]) -> None:
    expressions = ", ".join(f"({each.sql}\n)" for each in stated)
    schema_of(con, f"select {expressions} from ({no_rows(rows)})")
