"""Values of MySQL as text, as a snapshot and as the binary log have them, and their types."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.connectors.databases.changes.log import LoggedColumn
from pipeline.connectors.databases.columns import DatabaseColumn
from pipeline.connectors.databases.mysql_types import quoted_in_backticks
from pipeline.connectors.databases.typed_rows import with_types
from pipeline.core.schema import Column, Schema
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.sql_text import quoted

_KIND = re.compile(r"([a-z]+)(?:\((.*)\))?(.*)", re.DOTALL)
_INTEGERS = {
    "tinyint": ("TINYINT", "SMALLINT"),
    "smallint": ("SMALLINT", "INTEGER"),
    "mediumint": ("INTEGER", "BIGINT"),
    "int": ("INTEGER", "BIGINT"),
    "bigint": ("BIGINT", "DECIMAL(20,0)"),
    "year": ("SMALLINT", "SMALLINT"),
}
_OTHERS = {"float": "FLOAT", "double": "DOUBLE", "date": "DATE", "datetime": "TIMESTAMP", "timestamp": "TIMESTAMPTZ"}
_BINARY = frozenset({"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"})
_DECIMAL_DIGITS = 38
_ZERO_TIMESTAMP, _ZERO_YEAR = dt.datetime(1970, 1, 1), 1900  # noqa: DTZ001 - the library's have no zone
"""How the library delivers the zero values, which no other TIMESTAMP or YEAR has."""
_SECOND = dt.timedelta(seconds=1)


def parts_of(column: LoggedColumn) -> tuple[str, str, str]:
    """Return the name of a type, what is in its parentheses, and what follows."""
    match = _KIND.match(column.kind)
    return (match[1], match[2] or "", match[3]) if match else (column.kind, "", "")


def column_type(column: LoggedColumn) -> str:
    """Return the DuckDB type of a column, which is that of `mysql`."""
    name, inside, rest = parts_of(column)
    if name in _INTEGERS:
        return _INTEGERS[name]["unsigned" in rest]
    if name == "decimal":
        digits, _, scale = inside.partition(",")
        return f"DECIMAL({int(digits)},{int(scale or 0)})" if int(digits) <= _DECIMAL_DIGITS else "VARCHAR"
    return "BLOB" if name in _BINARY else _OTHERS.get(name, "VARCHAR")


def as_text(column: LoggedColumn) -> str:
    """Return SQL for a value of a snapshot as text; bytes are hexadecimal."""
    at, name = f"t.{quoted_in_backticks(column.name)}", parts_of(column)[0]
    if name in _BINARY:
        return f"hex({at})"
    if name == "bit":
        return f"lpad(bin({at}), {int(parts_of(column)[1] or 1)}, '0')"
    return f"cast({at} as char)"


def text_of(column: LoggedColumn, value: Any) -> str | None:
    """Return a value of the binary log as text, as `as_text` has it."""
    name, inside, _ = parts_of(column)
    match value:
        case None:
            text = None
        case _ if name == "json":
            text = _json(value)
        case bytes() | str() if name in _BINARY:
            text = (value if isinstance(value, bytes) else value.encode("latin-1")).hex().upper()
        case bytes():
            text = value.decode("utf-8", "backslashreplace")
        case dt.datetime():
            is_zero = name == "timestamp" and value == _ZERO_TIMESTAMP
            seconds = "0000-00-00 00:00:00" if is_zero else value.strftime("%Y-%m-%d %H:%M:%S")
            text = seconds + _fraction(value.microsecond, inside)
        case dt.timedelta():
            text = _duration(value, inside)
        case set() | frozenset():
            members = (member.replace("''", "'") for member in re.findall(r"'((?:[^']|'')*)'", inside))
            text = ",".join(member for member in members if member in value)
        case bool():
            text = str(int(value))
        case _:
            text = format(value, "f") if name == "decimal" else _year(value) if name == "year" else str(value)
    return text


def _json(value: Any) -> str:
    """Return a value as JSON, as MySQL prints it."""
    match value:
        case dict():
            text = "{" + ", ".join(f"{_json(key)}: {_json(each)}" for key, each in value.items()) + "}"
        case list():
            text = "[" + ", ".join(map(_json, value)) + "]"
        case bytes():
            text = json.dumps(value.decode("utf-8", "backslashreplace"), ensure_ascii=False)
        case Decimal():
            text = format(value, "f")
        case dt.datetime():
            text = f'"{value:%Y-%m-%d %H:%M:%S.%f}"'
        case _:
            text = json.dumps(value, ensure_ascii=False, default=str)
    return text


def _year(value: int) -> str:
    return "0000" if value == _ZERO_YEAR else str(value)


def _fraction(microsecond: int, digits: str) -> str:
    return f".{microsecond:06d}"[: int(digits) + 1] if digits.isdigit() and int(digits) else ""


def _duration(value: dt.timedelta, digits: str) -> str:
    sign, size = ("-", -value) if value < dt.timedelta() else ("", value)
    seconds, rest = divmod(size, _SECOND)
    return f"{sign}{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}" + _fraction(
        rest.microseconds, digits
    )


def typed(rows: pa.Table, columns: Sequence[LoggedColumn], schema: Schema) -> pa.Table:
    """Return logged rows with the types of their columns, or as text where the contract has VARCHAR."""
    declared = schema.as_dict()
    wanted = [c for c in columns if c.name in rows.column_names and declared.get(c.name, "VARCHAR") != "VARCHAR"]
    blobs = {column.name for column in wanted if column_type(column) == "BLOB"}
    if blobs:
        items = ", ".join(
            f"unhex({quoted(name)}) as {quoted(name)}" if name in blobs else quoted(name) for name in rows.column_names
        )
        with connect() as con:
            con.register("_logged", rows)
            rows = arrow(con, f"select {items} from _logged")
    for column in (each for each in wanted if column_type(each) == "TIMESTAMPTZ"):
        at = rows.schema.get_field_index(column.name)
        zoned = pc.binary_join_element_wise(rows.column(at), "+00", "")
        rows = rows.set_column(at, column.name, zoned)
    return with_types(rows, (DatabaseColumn(each.name, column_type(each), "", "") for each in wanted))


def schema_of(columns: Sequence[LoggedColumn]) -> tuple[Column, ...]:
    """Return the columns with the types under which they are stored."""
    return tuple(Column(column.name, column_type(column)) for column in columns)
