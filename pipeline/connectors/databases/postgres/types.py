"""The types of PostgreSQL: how each column is fetched so that its values arrive as they are."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.connectors.databases.columns import SEPARATOR, DatabaseColumn, FetchedColumn
from pipeline.kernel.sql_text import listed, literal, quoted

_AS_THEY_ARE = {
    "bool": "BOOLEAN",
    "int2": "SMALLINT",
    "int4": "INTEGER",
    "int8": "BIGINT",
    "float4": "FLOAT",
    "float8": "DOUBLE",
    "text": "VARCHAR",
    "varchar": "VARCHAR",
    "bpchar": "VARCHAR",
    "bytea": "BLOB",
}
_TIMES = {"date": "DATE", "timestamp": "TIMESTAMP", "timestamptz": "TIMESTAMPTZ"}
_YEARS = ("'0001-01-01'", "'10000-01-01'")
_LIST_ELEMENTS = {"bool", "int2", "int4", "int8", "float4", "float8", "text", "varchar"}
_TEXT_LIST_ELEMENTS = {"numeric", "bpchar", "name", "date", "timestamp", "timestamptz", "time", "uuid", "interval"}
"""Elements that become text, because a list could not say which of its elements does not fit."""
_DECIMAL_DIGITS = 38
_TYPMOD_OFFSET = 4

CURSOR_KINDS = frozenset({"int2", "int4", "int8", "numeric", *_TIMES, "text", "varchar"})
"""The types that can be a cursor."""
TIME_KINDS = frozenset(_TIMES)
NUMBER_KINDS = frozenset({"int2", "int4", "int8", "numeric"})


def column_of(name: str, kind: str, modifier: int) -> DatabaseColumn:
    """Return how to fetch a column, from the name and the modifier of its type, as PostgreSQL describes a result."""
    at = f"t.{quoted(name)}"
    text = f"{at}::text"
    if kind in _AS_THEY_ARE:
        return DatabaseColumn(name, _AS_THEY_ARE[kind], at, text)
    if kind in _TIMES:
        low, high = _YEARS
        fits = f"{at} >= {low} and {at} < {high}"  # infinity is outside of them
        return DatabaseColumn(name, _TIMES[kind], f"case when {fits} then {at} end", text, f"not ({fits})")
    if kind == "numeric" and (decimal := _decimal(modifier)) is not None:
        return DatabaseColumn(name, decimal, f"nullif({at}, 'NaN')::text", text, f"{at} = 'NaN'")
    if kind.startswith("_"):
        return _array(name, at, kind.removeprefix("_"))
    return DatabaseColumn(name, "VARCHAR", f"{at}::numeric::text" if kind == "money" else text, text)


def _decimal(modifier: int) -> str | None:
    """Return the DECIMAL for the modifier of a numeric; `None` for one that is not bounded, or has more digits."""
    if modifier < _TYPMOD_OFFSET:
        return None
    bits = modifier - _TYPMOD_OFFSET
    precision, scale = bits >> 16 & 0xFFFF, (bits & 0x7FF ^ 0x400) - 0x400
    if precision > _DECIMAL_DIGITS or not 0 <= scale <= precision:
        return None
    return f"DECIMAL({precision},{scale})"


def _array(name: str, at: str, element: str) -> DatabaseColumn:
    """Return an array as a list; one of several dimensions does not fit. Arrays of other elements are text."""
    text = f"{at}::text"
    if element in _LIST_ELEMENTS:
        kind, value = f"{_AS_THEY_ARE[element]}[]", at
    elif element in _TEXT_LIST_ELEMENTS:
        kind, value = "VARCHAR[]", f"{at}::text[]"
    else:
        return DatabaseColumn(name, "VARCHAR", text, text)
    misfit = f"array_ndims({at}) > 1"
    return DatabaseColumn(name, kind, f"case when array_ndims({at}) > 1 then null else {value} end", text, misfit)


def rejection(misfits: Sequence[FetchedColumn], columns: Sequence[DatabaseColumn]) -> str:
    """Return SQL for the text of a rejected row: the row as JSON, and the columns that do not fit with their values."""
    parts = ", ".join(
        f"case when {each.misfit} then {literal(f'column {each.column.name!r} is not {each.column.type}: ')} || {each.column.text} end"
        for each in misfits
    )
    row = f"(select row_to_json(r.*)::text from (select {', '.join(f't.{quoted(c.name)}' for c in columns)}) r)"
    return f"{row} || {literal(SEPARATOR)} || concat_ws('; ', {parts})"


def select_columns(names: Sequence[str]) -> str:
    """Return the SELECT list that describes columns; all of them if no name is given."""
    return listed(list(names)) if names else "*"
