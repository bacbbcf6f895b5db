"""SQL expressions over one row: without subqueries, window functions and aggregates."""

from __future__ import annotations

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from pipeline.core.errors import DefinitionError, Place
from pipeline.kernel.syntax.function_calls import aggregates_of


def require_row_expression(what: str, text: str, place: Place) -> None:
    """Raise `DefinitionError` if a text is not a single SQL expression over one row."""
    try:
        tree = sqlglot.parse_one(f"select ({text}\n)", dialect="duckdb")
    except SqlglotError as error:
        raise DefinitionError(f"{what} is not a SQL expression", got=repr(text), place=place) from error
    if not isinstance(tree, exp.Select) or len(tree.expressions) != 1 or not isinstance(tree.expressions[0], exp.Paren):
        raise DefinitionError(f"{what} is not a single SQL expression", got=repr(text), place=place)
    inner = any(query is not tree for query in tree.find_all(exp.Query))
    if inner or tree.find(exp.Window) or next(aggregates_of(tree), None) is not None:
        raise DefinitionError(
            f"{what} must not contain a subquery, window function or aggregate", got=repr(text), place=place
        )
