"""Rows that a user passes: a table of any library, or a list of objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.core.errors import RequestError
from pipeline.kernel.frames import arrow_of_pandas


def given_table(rows: Any) -> pa.Table:
    """Return rows as an Arrow table.

    They are a table of pandas, Arrow, Polars, DuckDB or a session, or a sequence of objects; a name that is missing in an object
    is null there. Raises `RequestError` for anything else, and for values of one column that have different types.
    """
    table = _table(rows)
    if not table.num_columns:
        raise RequestError(
            "these rows have no columns", got=f"{type(rows).__name__} of {table.num_rows}", do="pass rows with values"
        )
    return table


def _table(rows: Any) -> pa.Table:
    if isinstance(rows, pa.Table):
        return rows
    try:
        if hasattr(rows, "iterrows"):  # pandas, whose index is no column
            return arrow_of_pandas(rows)
        if hasattr(rows, "__arrow_c_stream__"):
            return pa.table(rows)
        if is_objects(rows):
            names = list(dict.fromkeys(name for row in rows for name in row))
            return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
    except (ValueError, pa.ArrowException, OverflowError) as error:
        raise RequestError("these rows are no table", got=str(error).partition("\n")[0]) from error
    do = "pass a list of rows: [row]" if isinstance(rows, Mapping) else "pass a table, or a list of objects"
    raise RequestError("these are no rows", got=type(rows).__name__, do=do)


def is_objects(rows: Any) -> bool:
    """Return whether rows are a sequence of objects, each with its values by name."""
    is_sequence = isinstance(rows, Sequence) and not isinstance(rows, str | bytes)
    return is_sequence and all(isinstance(row, Mapping) for row in rows)
