"""What the values of Debezium mean: by the name of the type in the schema, never by the size of a number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_CONNECT, _TIME = "org.apache.kafka.connect.data.", "io.debezium.time."
DECIMAL, VARIABLE_DECIMAL = f"{_CONNECT}Decimal", "io.debezium.data.VariableScaleDecimal"
BYTES = "bytes"
_PER_SECOND = {
    f"{_CONNECT}Timestamp": 1_000,
    f"{_TIME}Timestamp": 1_000,
    f"{_TIME}MicroTimestamp": 1_000_000,
    f"{_TIME}NanoTimestamp": 1_000_000_000,
    f"{_CONNECT}Time": 1_000,
    f"{_TIME}Time": 1_000,
    f"{_TIME}MicroTime": 1_000_000,
    f"{_TIME}NanoTime": 1_000_000_000,
}
"""How many units of a type a second has."""
_DATES = (f"{_CONNECT}Date", f"{_TIME}Date")
_US_PER_SECOND = 1_000_000
_LEAST_DAY, _MOST_DAY = -719_162, 2_932_896
_MOST_NS = (1 << 63) - 2
_LEAST_US, _MOST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The years 1 to 9999, as in contracts: DuckDB fails near its own limits, and Debezium writes infinity as a distant time."""
_NAMED = re.compile(r"([\w.]+)\((-?\d+)\)")
_DONE_BY_AVRO = frozenset({"decimal", "date", "time-millis", "time-micros", "timestamp-millis", "timestamp-micros"})
"""Logical types of Avro, whose values are decoded already."""


@dataclass(frozen=True)
class FieldType:
    """The type of a field: the name of what it means, and for decimals the scale."""

    name: str
    scale: int = 0

    @classmethod
    def of_name(cls, text: str) -> FieldType:
        """Return the type of a name; a decimal has its scale in parentheses."""
        match = _NAMED.fullmatch(text)
        return cls(match[1], int(match[2])) if match else cls(text)


def field_types(schema: Any, *, is_envelope: bool) -> dict[str, FieldType]:
    """Return the types of a table's columns from the schema of an event, in the form of Kafka Connect or of Avro.

    Raises `ValueError` if it is neither.
    """
    try:
        return _types_in(schema, is_envelope=is_envelope) if isinstance(schema, Mapping) else {}
    except (AttributeError, TypeError) as error:
        raise ValueError("not a schema of Kafka Connect or Avro") from error


def _types_in(schema: Mapping[str, Any], *, is_envelope: bool) -> dict[str, FieldType]:
    records = [schema]
    if is_envelope:
        rows = [
            each for each in schema.get("fields", ()) if (each.get("field") or each.get("name")) in {"after", "before"}
        ]
        records = [record for each in rows if (record := _record(each)) is not None]
    found: dict[str, FieldType] = {}
    for record in records:
        for each in record.get("fields", ()):
            kind = _type_of(each)
            if kind is not None:
                found.setdefault(str(each.get("field") or each.get("name")), kind)
    return found


def _record(field: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the record of `before` or `after`; only one of them defines it in Avro."""
    if "fields" in field:
        return field
    kinds = field.get("type")
    options = kinds if isinstance(kinds, list) else [kinds]
    return next((each for each in options if isinstance(each, Mapping) and "fields" in each), None)


def _type_of(field: Mapping[str, Any]) -> FieldType | None:
    if "field" in field:  # the form of Kafka Connect
        name = field.get("name") or (BYTES if field.get("type") == BYTES else None)
        scale = (field.get("parameters") or {}).get("scale", 0)
        return None if name is None else FieldType(str(name), int(scale))
    kinds = field.get("type")
    options = kinds if isinstance(kinds, list) else [kinds]
    kind = next((each for each in options if each != "null"), None)
    if kind == BYTES:
        return FieldType(BYTES)
    if not isinstance(kind, Mapping) or kind.get("logicalType") in _DONE_BY_AVRO:
        return None
    name = kind.get("connect.name") or (BYTES if kind.get("type") == BYTES else None)
    return None if name is None else FieldType(str(name))


def converted(kind: FieldType | None, text: str) -> str | None:
    """Return SQL for the text of a value as a contract reads it, null if it is not of its type; `None` if it means itself."""
    if kind is None:
        return None
    sql = None
    if kind.name in _DATES:
        sql = f"(date '1970-01-01' + {_within(_whole(text), _LEAST_DAY, _MOST_DAY)}::integer)::varchar"
    elif kind.name in _PER_SECOND:
        per_second = _PER_SECOND[kind.name]
        sql = _time(text, per_second) if kind.name.endswith("Time") else _timestamp(text, per_second)
    elif kind.name == DECIMAL:
        sql = _decimal(text, f"{kind.scale}")
    elif kind.name == VARIABLE_DECIMAL:
        sql = _decimal(f"(({text})::json->>'value')", f"(({text})::json->>'scale')::integer")
    elif kind.name == BYTES:
        sql = f"from_base64({text})::varchar"
    return None if sql is None else f"try({sql})"


def _whole(text: str) -> str:
    """Return SQL for an integer; null for other text, whose cast would round."""
    return f"(case when regexp_full_match({text}, '-?[0-9]+') then {text} end)::bigint"


def _within(number: str, least: int, most: int) -> str:
    return f"list_transform([{number}], lambda x: case when x between {least} and {most} then x end)[1]"


def _timestamp(text: str, per_second: int) -> str:
    """Return SQL for the text of a timestamp."""
    least, most = (-_MOST_NS, _MOST_NS) if per_second > _US_PER_SECOND else (_LEAST_US, _MOST_US)
    factor = max(1, _US_PER_SECOND // per_second)
    number = _within(f"{factor} * {_whole(text)}", least, most)
    return f"{'make_timestamp_ns' if per_second > _US_PER_SECOND else 'make_timestamp'}({number})::varchar"


def _time(text: str, per_second: int) -> str:
    """Return SQL for the text of a time, which may be negative or beyond 24 hours: MySQL has them up to 838 hours."""
    two = "lpad(({})::varchar, 2, '0')"
    minute, second = two.format(f"clock.a // {60 * per_second} % 60"), two.format(f"clock.a // {per_second} % 60")
    hours = f"clock.a // {3600 * per_second}"
    hour = f"case when {hours} < 10 then '0' else '' end || {hours}"
    digits = f"lpad((clock.a % {per_second})::varchar, {len(str(per_second)) - 1}, '0')"
    fraction = f"case when clock.a % {per_second} = 0 then '' else '.' || rtrim({digits}, '0') end"
    shown = f"case when clock.n < 0 then '-' else '' end || {hour} || ':' || {minute} || ':' || {second} || {fraction}"
    given = f"list_transform([{_whole(text)}], lambda whole: {{'n': whole, 'a': abs(whole::hugeint)}})"
    return f"list_transform({given}, lambda clock: {shown})[1]"


def _decimal(text: str, scale: str) -> str:
    """Return SQL for the text of a number from its digits: bytes in base64, big-endian, in two's complement."""
    octet = "('0x' || substr(d.h, 2 * i - 1, 2))::integer"
    octets = (
        f"list_transform(range(1, length(d.h) // 2 + 1), "
        f"lambda i: ({octet} - case when i = 1 and {octet} > 127 then 256 else 0 end)::hugeint)"
    )
    unscaled = f"list_reduce({octets}, lambda a, x: a * 256 + x)"
    absolute = "lpad(abs(d.u)::varchar, greatest(length(abs(d.u)::varchar), d.s + 1)::integer, '0')"
    point = (
        "case when d.s <= 0 then d.u::varchar || repeat('0', -d.s) else "
        f"case when d.u < 0 then '-' else '' end || left({absolute}, -d.s) || '.' || right({absolute}, d.s) end"
    )
    given = f"[{{'h': hex(from_base64({text})), 's': {scale}}}]"
    return f"list_transform(list_transform({given}, lambda d: {{'u': {unscaled}, 's': d.s}}), lambda d: {point})[1]"
