"""Queries in DuckDB's dialect, transpiled to Snowflake's by sqlglot."""

from __future__ import annotations

import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError

from pipeline.core.errors import RequestError
from pipeline.warehouse.snowflake.column_types import stored_name


def in_snowflake(text: str) -> str:
    """Return a SELECT of DuckDB's dialect in Snowflake's; quoted names are written as Snowflake stores them.

    Raises `RequestError` for a text that is not one SELECT, and for one that sqlglot cannot transpile faithfully.
    """
    try:
        parsed = sqlglot.parse(text, read="duckdb", error_level=ErrorLevel.RAISE)
    except SqlglotError as error:
        raise RequestError("this query cannot be parsed", got=str(error).partition("\n")[0]) from error
    if len(parsed) != 1 or not isinstance(parsed[0], exp.Query):
        raise RequestError("the warehouse runs one SELECT", got=text.strip()[:200])
    query = parsed[0].transform(_as_stored)
    try:
        return query.sql("snowflake", unsupported_level=ErrorLevel.RAISE)
    except SqlglotError as error:
        raise RequestError(
            "this query has no equivalent in Snowflake", got=str(error).partition("\n")[0], do="write it in other words"
        ) from error


def _as_stored(node: exp.Expression) -> exp.Expression:
    if isinstance(node, exp.Identifier) and node.args.get("quoted"):
        return exp.to_identifier(stored_name(node.name), quoted=True)
    return node
