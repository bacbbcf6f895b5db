"""The texts that a column of each type can be compared with, checked before a statement is made of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal

from pipeline.core.schema import Column
from serve.http_errors import HttpError

_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?"
_DATE = r"\d{4}-\d\d-\d\d"
_TIME = rf"{_DATE}([T ]\d\d:\d\d(:\d\d(\.\d{{1,6}})?)?)?"
_ZONE = r"(Z|[+-]\d\d(:?\d\d)?)?"
_MOST_SHOWN = 80
_BITS = {"TINYINT": 8, "SMALLINT": 16, "INTEGER": 32, "BIGINT": 64, "HUGEINT": 128}
_DECIMAL = re.compile(r"DECIMAL\((\d+), ?(\d+)\)")


def shown(text: str) -> str:
    """Return a value for an error message: quoted, and truncated if it is long."""
    return repr(text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "…")


def bad_value(column: Column, value: str, takes: str = "a value in the range of its type") -> HttpError:
    """Return the error for a value that a column cannot be compared with."""
    return HttpError(f"column {column.name!r} is {column.type} and takes {takes}", got=shown(value))


def is_comparable(column: Column) -> bool:
    """Return whether a column can be compared with values."""
    return column.type in _FORMS or _DECIMAL.fullmatch(column.type) is not None


def require_value(column: Column, value: str) -> None:
    """Raise `HttpError` for a text that a column cannot be compared with, also because it is out of the type's range."""
    decimal = _DECIMAL.fullmatch(column.type)
    if decimal is not None:
        _require_decimal(column, value, int(decimal[1]), int(decimal[2]))
        return
    if column.type not in _FORMS:
        raise HttpError(
            f"column {column.name!r} is {column.type}, which cannot be compared",
            do=f"use {column.name}=is.null or {column.name}=is.not_null",
        )
    form, takes, is_in_range = _FORMS[column.type]
    if not re.fullmatch(form, value, re.ASCII):
        raise bad_value(column, value, takes)
    if not is_in_range(column.type, value):
        raise bad_value(column, value)


def _require_decimal(column: Column, value: str, precision: int, scale: int) -> None:
    if not re.fullmatch(rf"[+-]?\d{{1,38}}(\.\d{{0,{scale}}})?", value, re.ASCII):
        raise bad_value(column, value, f"a number with at most {scale} decimals")
    if abs(Decimal(value)) >= Decimal(10) ** (precision - scale):
        raise bad_value(column, value)


def _is_integer(kind: str, value: str) -> bool:
    most = 1 << (_BITS[kind] - 1)
    return -most <= int(value) < most


def _is_unsigned(kind: str, value: str) -> bool:
    return 0 <= int(value) < 1 << _BITS[kind.removeprefix("U")]


def _is_float(kind: str, value: str) -> bool:
    return abs(float(value)) <= (3.4028235e38 if kind == "FLOAT" else 1.7976931348623157e308)


def _is_date(_: str, value: str) -> bool:
    with suppress(ValueError):
        return bool(date.fromisoformat(value))
    return False


def _is_time(_: str, value: str) -> bool:
    with suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(value)
        offset = moment.utcoffset()
        return offset is None or bool(moment.replace(tzinfo=None) - offset)
    return False


def _is_anything(_: str, value: str) -> bool:
    return "\x00" not in value


_INTEGER = (r"[+-]?\d{1,40}", "an integer")
_FORMS: dict[str, tuple[str, str, Callable[[str, str], bool]]] = {
    **dict.fromkeys(_BITS, (*_INTEGER, _is_integer)),
    **dict.fromkeys((f"U{name}" for name in _BITS), (*_INTEGER, _is_unsigned)),
    **dict.fromkeys(("FLOAT", "DOUBLE"), (_NUMBER, "a number", _is_float)),
    "BOOLEAN": ("true|false", "true or false", _is_anything),
    "DATE": (_DATE, "a date like 2013-07-01", _is_date),
    "TIMESTAMP": (_TIME, "a time without time zone like 2013-07-01T12:00:00", _is_time),
    "TIMESTAMPTZ": (
        _TIME + _ZONE,
        "a time like 2013-07-01T12:00:00Z, with a plus sign encoded as %2B",
        _is_time,
    ),
    "VARCHAR": (r"[\s\S]*", "text", _is_anything),
}
"""For each type, the form of its texts, how errors call it, and whether a text of this form is in the range."""
