"""Values in the two forms of PostgreSQL's protocol: text, which the engine makes, and binary.

Source: https://www.postgresql.org/docs/current/datatype.html, and `pg_type.dat` for the numbers of types. Lists, structs and maps are JSON.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from pipeline.core.schema import Column, Schema
from pipeline.kernel.types import arrow_type
from serve.http_errors import HttpError
from serve.postgres.messages import BINARY, TEXT, FieldDescription
from serve.queries.expressions import is_nested, plain
from serve.queries.values import shown

Encoder = Callable[[Any], bytes]
_EPOCH = 946_684_800_000_000
"""Microseconds from 1970 to 2000, from when PostgreSQL counts."""
_LATEST, _EARLIEST = (1 << 63) - 1, -(1 << 63)
_DIGITS = 4
"""Decimal digits in each part of a number."""


@dataclass(frozen=True)
class PostgresType:
    """A type of PostgreSQL, and how values of the engine become values of it; `{0}` is the column."""

    oid: int
    name: str
    length: int
    text: str
    """The SQL of the text form."""
    raw: str
    """The SQL of what `encoder` encodes."""
    encoder: Encoder
    duckdb: str
    """The type of the engine as which parameters are read."""


def _packed(form: str) -> Encoder:
    return struct.Struct(f"!{form}").pack


def _microseconds(clock: str) -> str:
    """Return the SQL of the microseconds since 2000 of a time."""
    infinite = f"case when {{0}} > {clock} '2000-01-01' then {_LATEST} else {_EARLIEST} end"
    return f"case when isinf({{0}}) then {infinite} else epoch_us({{0}}) - {_EPOCH} end"


def _numeric(value: Decimal | int) -> bytes:
    """Return a number in base 10,000: how many digits, the weight of the first, the sign, the decimal places, and the digits."""
    sign, digits, exponent = Decimal(value).as_tuple()
    places = max(-int(exponent), 0)
    text = "".join(map(str, digits)) + "0" * max(int(exponent), 0)
    whole, fraction = text[: len(text) - places], text[len(text) - places :].rjust(places, "0")
    whole = whole.rjust(-(-len(whole) // _DIGITS) * _DIGITS, "0")
    fraction = fraction.ljust(-(-len(fraction) // _DIGITS) * _DIGITS, "0")
    parts = [int((whole + fraction)[at : at + _DIGITS]) for at in range(0, len(whole + fraction), _DIGITS)]
    weight = len(whole) // _DIGITS - 1
    while parts and parts[0] == 0:
        parts, weight = parts[1:], weight - 1
    while parts and parts[-1] == 0:
        parts = parts[:-1]
    return struct.pack(f"!hhHh{len(parts)}h", len(parts), weight if parts else 0, 0x4000 if sign else 0, places, *parts)


def _interval(value: Any) -> bytes:
    months, days, nanoseconds = value
    return struct.pack("!qii", nanoseconds // 1_000, days, months)


_SHOWN_FLOAT = "case when isnan({0}) then 'NaN' when isinf({0}) then case when {0} > 0 then 'Infinity' else '-Infinity' end else regexp_replace({0}::varchar, '\\.0$', '') end"
_ERA = "replace({0}, ' (BC)', ' BC')"
BOOL = PostgresType(16, "bool", 1, "case when {0} then 't' when not {0} then 'f' end", "{0}", _packed("?"), "BOOLEAN")
BYTEA = PostgresType(17, "bytea", -1, "'\\x' || lower(hex({0}))", "{0}", bytes, "BLOB")
INT8 = PostgresType(20, "int8", 8, "{0}::varchar", "{0}", _packed("q"), "BIGINT")
INT2 = PostgresType(21, "int2", 2, "{0}::varchar", "{0}", _packed("h"), "SMALLINT")
INT4 = PostgresType(23, "int4", 4, "{0}::varchar", "{0}", _packed("i"), "INTEGER")
TEXT_TYPE = PostgresType(25, "text", -1, "{0}::varchar", "{0}::varchar", str.encode, "VARCHAR")
JSON_TYPE = PostgresType(114, "json", -1, "{0}", "{0}", str.encode, "VARCHAR")
FLOAT4 = PostgresType(700, "float4", 4, _SHOWN_FLOAT, "{0}", _packed("f"), "FLOAT")
FLOAT8 = PostgresType(701, "float8", 8, _SHOWN_FLOAT, "{0}", _packed("d"), "DOUBLE")
DATE = PostgresType(
    1082, "date", 4, _ERA.format("{0}::varchar"),
    "case when isinf({0}) then case when {0} > date '2000-01-01' then 2147483647 else -2147483648 end else {0} - date '2000-01-01' end",
    _packed("i"), "DATE",
)  # fmt: skip
TIME = PostgresType(1083, "time", 8, "{0}::varchar", "epoch_us({0})", _packed("q"), "TIME")
TIMESTAMP = PostgresType(
    1114, "timestamp", 8, _ERA.format("{0}::varchar"), _microseconds("timestamp"), _packed("q"), "TIMESTAMP"
)
TIMESTAMPTZ = PostgresType(
    1184, "timestamptz", 8, "case when isinf({0}) then {0}::timestamp::varchar when {0} < timestamptz '0001-01-01 00:00:00+00' "
    "then replace({0}::varchar, ' (BC)+00', '+00 BC') else {0}::varchar end", _microseconds("timestamptz"), _packed("q"), "TIMESTAMPTZ",
)  # fmt: skip
INTERVAL = PostgresType(1186, "interval", 16, "replace({0}::varchar, 'month', 'mon')", "{0}", _interval, "INTERVAL")
NUMERIC = PostgresType(
    1700, "numeric", -1, "{0}::varchar", "{0}::varchar", lambda value: _numeric(Decimal(value)), "DECIMAL(38,10)"
)
UUID_TYPE = PostgresType(2950, "uuid", 16, "{0}::varchar", "{0}::varchar", lambda value: UUID(value).bytes, "UUID")
VARCHAR = PostgresType(1043, "varchar", -1, "{0}", "{0}", str.encode, "VARCHAR")
TYPES = (BOOL, BYTEA, INT8, INT2, INT4, TEXT_TYPE, JSON_TYPE, FLOAT4, FLOAT8, DATE, TIME, TIMESTAMP, TIMESTAMPTZ, INTERVAL, NUMERIC,
         UUID_TYPE, VARCHAR)  # fmt: skip
_BY_OID: Mapping[int, PostgresType] = {each.oid: each for each in TYPES} | {
    18: TEXT_TYPE, 19: TEXT_TYPE, 26: INT8, 705: TEXT_TYPE, 1042: VARCHAR, 3802: JSON_TYPE,
}  # fmt: skip
_BY_DUCKDB: Mapping[str, PostgresType] = {
    "BOOLEAN": BOOL, "BLOB": BYTEA, "TINYINT": INT2, "SMALLINT": INT2, "UTINYINT": INT2, "INTEGER": INT4, "USMALLINT": INT4,
    "BIGINT": INT8, "UINTEGER": INT8, "UBIGINT": NUMERIC, "HUGEINT": NUMERIC, "UHUGEINT": NUMERIC, "FLOAT": FLOAT4, "DOUBLE": FLOAT8,
    "DATE": DATE, "TIME": TIME, "TIMESTAMP": TIMESTAMP, "TIMESTAMP_S": TIMESTAMP, "TIMESTAMP_MS": TIMESTAMP, "TIMESTAMP_NS": TIMESTAMP,
    "TIMESTAMPTZ": TIMESTAMPTZ, "INTERVAL": INTERVAL, "UUID": UUID_TYPE, "VARCHAR": TEXT_TYPE, "JSON": JSON_TYPE,
}  # fmt: skip
_ALIASES: Mapping[str, PostgresType] = {
    "INT": INT4,
    "TEXT": TEXT_TYPE,
    "DECIMAL": NUMERIC,
    "REAL": FLOAT4,
    "CHAR": VARCHAR,
}
_CLOCK = re.compile(r"(?P<date>\d{4,}-\d\d-\d\d)(?:[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)?")
_NUMBER = re.compile(r"[+-]?\d*(?:\.(?P<places>\d*))?")
_MOST_DIGITS = 38
_DECIMAL = re.compile(r"DECIMAL\((\d+),(\d+)\)")
_LIST_OF_OIDS = 1028
_ARRAYS: Mapping[int, PostgresType] = {
    1000: BOOL, 1005: INT2, 1007: INT4, 1009: TEXT_TYPE, 1015: VARCHAR, 1016: INT8, 1021: FLOAT4, 1022: FLOAT8, _LIST_OF_OIDS: INT8, 1115: TIMESTAMP, 1182: DATE,
    1185: TIMESTAMPTZ, 1231: NUMERIC, 2951: UUID_TYPE,
}  # fmt: skip
"""The types of lists that parameters may have."""
ARRAY_OIDS: Mapping[int, int] = {each.oid: oid for oid, each in _ARRAYS.items() if oid != _LIST_OF_OIDS}


def type_of(column: Column) -> PostgresType:
    """Return the type as which a column is sent."""
    if is_nested(column):
        return JSON_TYPE
    return NUMERIC if column.type.startswith("DECIMAL") else _BY_DUCKDB.get(column.type, TEXT_TYPE)


def type_named(text: str) -> PostgresType | None:
    """Return the type that a cast in the engine's dialect names, or `None` if it is not known."""
    name = text.partition("(")[0].upper()
    return _ALIASES.get(name) or _BY_DUCKDB.get(name)


def modifier_of(column: Column) -> int:
    """Return the precision and scale of a decimal number, in PostgreSQL's form; -1 for other types."""
    found = _DECIMAL.fullmatch(column.type)
    return -1 if found is None else (int(found[1]) << 16 | int(found[2])) + 4


def field_of(column: Column, name: str, form: int) -> FieldDescription:
    """Return how a driver is told of a column."""
    kind = type_of(column)
    return FieldDescription(name, kind.oid, kind.length, modifier_of(column), form)


def sending(sql: str, schema: Schema, forms: Sequence[int]) -> tuple[str, list[Encoder]]:
    """Return a SELECT of what is sent of each column, and the functions that make bytes of it.

    `forms` are one for all columns, one for each, or none: then all are text.
    """
    names = [f"c{number}" for number in range(len(schema.columns))]
    each = [
        _sent_as(column, name, form)
        for column, name, form in zip(schema.columns, names, each_form(forms, len(names)), strict=True)
    ]
    columns = ", ".join(f"{text} as {name}" for name, (text, _) in zip(names, each, strict=True))
    return f"select {columns} from ({sql}) as t({', '.join(names)})", [encoder for _, encoder in each]


def each_form(forms: Sequence[int], number: int) -> Sequence[int]:
    """Return the form of each of so many values, given one for all, one for each, or none; raise `HttpError` for other numbers of them."""
    if len(forms) not in {0, 1, number}:
        raise HttpError(f"there are {number} values", got=f"the forms of {len(forms)}", do="use a driver of PostgreSQL")
    return list(forms) * number if len(forms) == 1 else forms or [TEXT] * number


def _sent_as(column: Column, name: str, form: int) -> tuple[str, Encoder]:
    """Return the SQL of what is sent of a column that has a name in the statement, and the function that makes bytes of it."""
    kind = type_of(column)
    if kind is JSON_TYPE and is_nested(column):
        return (
            f"case when {name} is not null then to_json({plain(name, arrow_type(column.type))})::varchar end",
            str.encode,
        )
    if form == BINARY:
        return kind.raw.format(name), kind.encoder
    return kind.text.format(name), str.encode


def parameter(oid: int, form: int, value: bytes | None) -> tuple[str | list[str | None] | None, str]:
    """Return a parameter as a text, or as several of a list, and the type of the engine; empty for texts, whose type is that of what they are compared with.

    Raises `HttpError` if it cannot be read.
    """
    element = _ARRAYS.get(oid)
    if element is not None:
        if value is None:
            return None, f"{element.duckdb}[]"
        items = _binary_array(element, value) if form == BINARY else _text_array(_utf8(value))
        return items, f"{element.duckdb}[]"
    kind = _BY_OID.get(oid)
    if oid and kind is None:
        raise HttpError("a parameter has a type that is not supported", got=f"type {oid}", do="send it as text")
    # texts that drivers do not know the type of are sent as text
    duckdb = "" if kind is None or kind is TEXT_TYPE or kind is VARCHAR else kind.duckdb
    if value is None:
        return None, duckdb
    text = _from_binary(kind, value) if form == BINARY and kind is not None else _utf8(value)
    if kind is BYTEA and form == TEXT:
        text = _hex_of(text)
    elif kind is DATE or kind is TIMESTAMP:
        found = _CLOCK.match(text)  # drivers add the time, and the zone, which are left out as PostgreSQL does
        text = text if found is None else found["date"] if kind is DATE else found[0]
    elif kind is NUMERIC:
        duckdb = _decimal_type(text)
    return text, duckdb


def _decimal_type(text: str) -> str:
    """Return a type that has all decimal places of a number."""
    found = _NUMBER.fullmatch(text.strip())
    return "DOUBLE" if found is None else f"DECIMAL({_MOST_DIGITS},{min(len(found['places'] or ''), _MOST_DIGITS - 1)})"


def _utf8(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise HttpError("a parameter is not in UTF-8", do="set client_encoding to UTF8") from error


def _hex_of(text: str) -> str:
    """Return bytes in PostgreSQL's text form in that of the engine."""
    if not text.startswith("\\x"):
        raise HttpError("a parameter of bytes cannot be read", got=shown(text[:40]), do=r"write \x and digits")
    return "".join(f"\\x{text[at : at + 2]}" for at in range(2, len(text), 2))


def _from_binary(kind: PostgresType, value: bytes) -> str:
    """Return a value as a text of the engine."""
    try:
        return (
            _DECODERS[kind](value) if kind in _DECODERS else _utf8(value.removeprefix(b"\1"))
        )  # which jsonb begins with
    except (struct.error, ValueError, OverflowError) as error:
        raise HttpError(f"a parameter of type {kind.name} cannot be read", got=shown(value[:20].hex())) from error


def _number(form: str) -> Callable[[bytes], str]:
    return lambda value: str(struct.unpack(f"!{form}", value)[0])


def _integer(value: bytes) -> str:
    """Return an integer of 8 bytes, or the number of a table or type, of 4 bytes without sign."""
    return str(int.from_bytes(value, "big", signed=len(value) == INT8.length))


def _interval_of(value: bytes) -> str:
    microseconds, days, months = struct.unpack("!qii", value)
    return f"{months} months {days} days {microseconds} microseconds"


def _moment(value: bytes) -> datetime:
    return datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=struct.unpack("!q", value)[0])


def _decimal_of(value: bytes) -> str:
    count, weight, sign, places = struct.unpack("!hhHh", value[:8])
    digits = struct.unpack(f"!{count}h", value[8:])
    number = sum((Decimal(digit) * Decimal(10_000) ** (weight - at) for at, digit in enumerate(digits)), Decimal(0))
    if sign not in {0, 0x4000}:
        raise ValueError(sign)
    return f"{-number if sign else number:.{max(places, 0)}f}"


_DECODERS: Mapping[PostgresType, Callable[[bytes], str]] = {
    BOOL: _number("?"), INT2: _number("h"), INT4: _number("i"), INT8: _integer, FLOAT4: _number("f"), FLOAT8: _number("d"), NUMERIC: _decimal_of,
    BYTEA: lambda value: "".join(f"\\x{byte:02x}" for byte in value), INTERVAL: _interval_of, UUID_TYPE: lambda value: str(UUID(bytes=value)),
    DATE: lambda value: str(date(2000, 1, 1) + timedelta(days=struct.unpack("!i", value)[0])), TIME: lambda value: str(_moment(value).time()),
    TIMESTAMP: lambda value: str(_moment(value).replace(tzinfo=None)), TIMESTAMPTZ: lambda value: str(_moment(value)),
}  # fmt: skip


def _binary_array(element: PostgresType, value: bytes) -> list[str | None]:
    try:
        dimensions, _, _ = struct.unpack("!iii", value[:12])
        if dimensions == 0:
            return []
        if dimensions != 1:
            raise ValueError(dimensions)  # noqa: TRY301 - one refusal for whatever is wrong
        (count,) = struct.unpack("!i", value[12:16])
        at, items = 20, []
        for _ in range(count):
            (size,) = struct.unpack("!i", value[at : at + 4])
            at += 4
            items.append(None if size < 0 else _from_binary(element, value[at : at + size]))
            at += max(size, 0)
    except (struct.error, ValueError) as error:
        raise HttpError("a parameter of a list cannot be read", do="send a list of one dimension") from error
    return items


_ITEM = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^{},"]*?))\s*([,}])', re.DOTALL)


def _text_array(text: str) -> list[str | None]:
    if text.strip() == "{}":
        return []
    items: list[str | None] = []
    at = text.find("{") + 1
    while at:
        found = _ITEM.match(text, at)
        if found is None:
            break
        if found[1] is not None:
            items.append(re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL))
        else:
            items.append(None if found[2].upper() == "NULL" else found[2])
        at = found.end()
        if found[3] == "}":
            if text[at:].strip():
                break
            return items
    raise HttpError("a parameter of a list cannot be read", got=shown(text[:40]), do="write {a,b}")
