"""How the stored types of DuckDB are staged in Parquet, and what they are in Snowflake.

Parquet types that Snowflake reads unambiguously are staged as they are; others as text, which a statement converts:

    integers                NUMBER(38,0)
    DECIMAL(p,s)            NUMBER(p,s)
    FLOAT, DOUBLE           FLOAT                 with NaN and infinities
    BOOLEAN, VARCHAR, DATE  the same
    TIMESTAMP               TIMESTAMP_NTZ(6)      in microseconds, as a logical type
    TIMESTAMPTZ             TIMESTAMP_TZ(6)       the instant, in UTC
    BLOB                    BINARY                staged in hexadecimal
    STRUCT and MAP          OBJECT                staged as JSON
    lists                   ARRAY                 staged as JSON

UUID, TIME and others are text in a lake already. Dates outside the years 1 to 9999 are rejected, because Snowflake would
store other ones. In nested values, NaN and infinities become the texts that DuckDB prints, because JSON has none.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.schema import Column, Schema
from pipeline.kernel.sql_text import literal, quoted
from pipeline.kernel.types import decimal_of, inner_types

_PLAIN = {
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT"), "NUMBER(38,0)"),
    **dict.fromkeys(("FLOAT", "DOUBLE"), "FLOAT"),
    "BOOLEAN": "BOOLEAN",
    "VARCHAR": "VARCHAR",
    "DATE": "DATE",
    "TIMESTAMP": "TIMESTAMP_NTZ(6)",
    "TIMESTAMPTZ": "TIMESTAMP_TZ(6)",
}
_TIMES = frozenset({"DATE", "TIMESTAMP", "TIMESTAMPTZ"})
_REALS = frozenset({"FLOAT", "DOUBLE"})


@dataclass(frozen=True)
class SnowflakeColumn:
    """A column in the lake, in the staged file, in the landing table and in the table."""

    name: str
    staged: str
    """SQL of DuckDB that computes the staged value."""
    landing_type: str
    type: str
    converted: str = "{}"
    """SQL of Snowflake that converts the landed value, with `{}` for it."""

    @property
    def identifier(self) -> str:
        """The quoted name in Snowflake."""
        return identifier(self.name)

    @property
    def is_nested(self) -> bool:
        """Whether it is an ARRAY or an OBJECT."""
        return self.type in {"ARRAY", "OBJECT"}

    @property
    def value(self) -> str:
        """SQL of Snowflake for the value of a landed row."""
        return self.converted.format(self.identifier)


def identifier(name: str) -> str:
    """Return the quoted name of a table or column in Snowflake: in upper case, as it would be without quotes.

    Names of Headwater are case-insensitive, so they stay different; other letters than a to z are unchanged, as Snowflake
    does not fold them.
    """
    return quoted(stored_name(name))


def stored_name(name: str) -> str:
    """Return a name as Snowflake stores it."""
    return "".join(letter.upper() if letter.isascii() else letter for letter in name)


def columns_of(schema: Schema) -> tuple[SnowflakeColumn, ...]:
    """Return the columns of a table, in order."""
    return tuple(_column(column) for column in schema.columns)


def _column(column: Column) -> SnowflakeColumn:
    name, kind = column.name, column.type
    value, decimal = quoted(name), decimal_of(kind)
    if kind == "BLOB":
        return SnowflakeColumn(name, f"hex({value})", "VARCHAR", "BINARY", "TO_BINARY({}, 'HEX')")
    if decimal is not None:
        number = f"NUMBER({decimal[0]},{decimal[1]})"
        return SnowflakeColumn(name, value, number, number)
    if kind in _PLAIN:
        staged = _in_range(name) if kind in _TIMES else f"{value}::double" if kind in _REALS else value
        return SnowflakeColumn(name, staged, _PLAIN[kind], _PLAIN[kind])
    return _nested(name, kind)


def _nested(name: str, kind: str) -> SnowflakeColumn:
    value = quoted(name)
    if inner_types(kind) is None:
        return SnowflakeColumn(name, f"{value}::varchar", "VARCHAR", "VARCHAR")
    into = "ARRAY" if kind.endswith("]") else "OBJECT"
    staged = f"to_json({json_safe(value, kind)})::varchar"
    return SnowflakeColumn(name, staged, "VARCHAR", into, f"CAST(PARSE_JSON({{}}) AS {into})")


def json_safe(value: str, kind: str) -> str:
    """Return SQL for a nested value in which reals without a number in JSON are text, and blobs hexadecimal."""
    if kind in _REALS:
        return f"if(isfinite({value}), to_json({value}), to_json({value}::varchar))"
    if kind == "BLOB":
        return f"to_json(hex({value}))"
    inner = inner_types(kind)
    if inner is None or not _needs_care(kind):
        return f"to_json({value})"
    if kind.endswith("]"):
        return f"to_json(list_transform({value}, lambda e: {json_safe('e', inner['element'])}))"
    if kind.startswith("MAP"):
        entries = f"lambda e: struct_pack(key := e.key, value := {json_safe('e.value', inner['value'])})"
        return f"to_json(map_from_entries(list_transform(map_entries({value}), {entries})))"
    fields = ", ".join(f"{quoted(n)} := {json_safe(f'({value}).{quoted(n)}', part)}" for n, part in inner.items())
    return f"if({value} is null, null, to_json(struct_pack({fields})))"


def _needs_care(kind: str) -> bool:
    inner = inner_types(kind)
    if inner is None:
        return kind in _REALS or kind == "BLOB"
    return any(_needs_care(part) for part in inner.values())


def _in_range(name: str) -> str:
    """Return SQL for a date or time that Snowflake can store; other values raise an error with the name."""
    value = quoted(name)
    problem = literal(f"column {name!r} has a date outside the years 1 to 9999, which Snowflake cannot store")
    return f"if({value} is null or (isfinite({value}) and year({value}) between 1 and 9999), {value}, error({problem}))"


def is_widening(before: str, now: str) -> bool:
    """Return whether Snowflake can change a column from one type to the other in place, keeping all values."""
    narrow, wide = _number(before), _number(now)
    return narrow is not None and wide is not None and narrow[1] == wide[1] and narrow[0] < wide[0]


def is_same(known: str, wanted: str) -> bool:
    """Return whether a type as Snowflake describes it is the wanted one; lengths of texts and digits of times may differ."""
    return _plain(known) == _plain(wanted)


def _plain(kind: str) -> str:
    word = kind.upper().partition("(")[0]
    number = _number(kind)
    return f"NUMBER({number[0]},{number[1]})" if number else {"DOUBLE": "FLOAT", "TEXT": "VARCHAR"}.get(word, word)


def _number(kind: str) -> tuple[int, int] | None:
    return decimal_of(kind.upper().replace("NUMBER", "DECIMAL", 1)) if kind.upper().startswith("NUMBER(") else None
