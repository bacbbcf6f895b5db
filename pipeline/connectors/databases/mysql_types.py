"""The types of MySQL and MariaDB: how each column is fetched so that its values arrive as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.connectors.databases.columns import SEPARATOR, DatabaseColumn, FetchedColumn
from pipeline.connectors.databases.sessions import is_number
from pipeline.kernel.sql_text import literal

_INTEGERS = {1: "TINYINT", 2: "SMALLINT", 9: "INTEGER", 3: "INTEGER", 8: "BIGINT", 13: "SMALLINT"}
_UNSIGNED = {1: "SMALLINT", 2: "INTEGER", 9: "BIGINT", 3: "BIGINT", 8: "DECIMAL(20,0)", 13: "SMALLINT"}
_DECIMALS, _FLOAT, _DOUBLE, _BIT, _GEOMETRY = {0, 246}, 4, 5, 16, 255
_DATE, _TIME, _TIMES = 10, 11, {7: "TIMESTAMPTZ", 12: "TIMESTAMP"}
_UNSIGNED_FLAG, _BINARY_CHARSET, _JSON = 32, 63, 245
_DECIMAL_DIGITS = 38


def quoted_in_backticks(name: str) -> str:
    """Return a name in backticks."""
    return "`" + name.replace("`", "``") + "`"


def mysql_literal(text: str) -> str:
    """Return a string literal; one with a backslash, which may be an escape, is written as bytes."""
    return f"convert(x'{text.encode().hex()}' using utf8mb4)" if "\\" in text else literal(text)


def column_of(field: Any) -> DatabaseColumn:
    """Return how to fetch a column, from its description in a result."""
    name, kind = str(field.name), int(field.type_code)
    at = f"t.{quoted_in_backticks(name)}"
    text = f"cast({at} as char)"
    is_unsigned = bool(field.flags & _UNSIGNED_FLAG)
    if kind in _INTEGERS:
        stored = (_UNSIGNED if is_unsigned else _INTEGERS)[kind]
        return DatabaseColumn(name, stored, text if stored.startswith("DECIMAL") else at, text)
    if kind in _DECIMALS:
        return DatabaseColumn(name, _decimal(field, is_unsigned=is_unsigned), text, text)
    if kind in {_FLOAT, _DOUBLE}:
        return DatabaseColumn(name, "FLOAT" if kind == _FLOAT else "DOUBLE", at, text)
    if kind == _DATE or kind in _TIMES:
        fits = f"(month({at}) > 0 and dayofmonth({at}) > 0 and year({at}) > 0)"  # '0000-00-00' and '2024-01-00'
        misfit = f"{at} is not null and not coalesce({fits}, false)"
        return DatabaseColumn(name, _TIMES.get(kind, "DATE"), f"case when {fits} then {at} end", text, misfit)
    return _text_or_bytes(name, at, kind, field)


def _text_or_bytes(name: str, at: str, kind: int, field: Any) -> DatabaseColumn:
    text = f"cast({at} as char)"
    if kind == _BIT:
        bits = f"lpad(bin({at}), {int(field.length)}, '0')"
        return DatabaseColumn(name, "VARCHAR", bits, bits)
    if kind == _GEOMETRY:
        return DatabaseColumn(name, "VARCHAR", f"st_astext({at})", f"st_astext({at})")
    if field.charsetnr == _BINARY_CHARSET and kind not in {_TIME, _JSON}:
        return DatabaseColumn(name, "BLOB", at, f"hex({at})")
    return DatabaseColumn(name, "VARCHAR", text, text)


def _decimal(field: Any, *, is_unsigned: bool) -> str:
    """Return the DECIMAL of a field, whose length counts its sign and its point; VARCHAR if it has more digits."""
    scale = int(field.scale)
    digits = int(field.length) - (not is_unsigned) - (scale > 0)
    return "VARCHAR" if digits > _DECIMAL_DIGITS else f"DECIMAL({digits},{scale})"


def rejection(misfits: Sequence[FetchedColumn], columns: Sequence[DatabaseColumn]) -> str:
    """Return SQL for the text of a rejected row: the row as JSON, and the columns that do not fit with their values."""
    reasons = ", ".join(
        f"case when {each.misfit} then concat({mysql_literal(f'column {each.column.name!r} is not {each.column.type}: ')}, {each.column.text}) end"
        for each in misfits
    )
    values = ", ".join(
        f"{mysql_literal(each.name)}, {f't.{quoted_in_backticks(each.name)}' if is_number(each.type) else each.text}"
        for each in columns
    )
    return f"concat(json_object({values}), {literal(SEPARATOR)}, concat_ws('; ', {reasons}))"
