"""Converts the statistics that DuckDB returns for a written file to those of the Delta log."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

_INTEGERS = frozenset({"TINYINT", "SMALLINT", "INTEGER", "BIGINT"})
_REALS = frozenset({"FLOAT", "DOUBLE"})
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d(?:\.\d+)?)(?:\+00)?")
_LONGEST = 64
"""Maximum length of text bounds: a longer lower bound is truncated, a longer upper bound is truncated and raised."""
_EXACT_DIGITS = 15
"""Decimals with more digits may not be exact as a JSON number in readers."""


def delta_stats(
    rows: int, columns: Mapping[str, Mapping[str, str]], types: Mapping[str, str], without: tuple[str, ...] = ()
) -> str:
    """Return the JSON statistics of a file: row count, null counts, minimum and maximum of each column of a scalar type.

    `columns` is `column_statistics` of DuckDB's `COPY … (return_stats)`, keyed by quoted column names; `without`
    are the partition columns. If any value has no exact bound (NaN, infinity, a decimal with many digits), the file
    gets no bounds at all: delta-rs interprets a missing bound of a single column as null, and would skip the file.
    """
    least: dict[str, Any] = {}
    greatest: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    bounded = True
    for name, kind in types.items():
        statistics = columns.get('"' + name.replace('"', '""') + '"', {})
        if name in without or "null_count" not in statistics or not _is_plain(kind):
            continue
        nulls[name] = int(statistics["null_count"])
        if nulls[name] == rows:
            continue
        low, high = _bound(statistics, "min", kind), _bound(statistics, "max", kind)
        bounded = bounded and low is not None and high is not None
        least[name], greatest[name] = low, high
    bounds = {"minValues": least, "maxValues": greatest} if bounded else {}
    return json.dumps({"numRecords": rows, **bounds, "nullCount": nulls})


def with_partition_bounds(stats: str, partition: Mapping[str, str | None], types: Mapping[str, str]) -> str:
    """Return the statistics of a file with those of its partition columns, for a table without partition columns.

    `partition` has the values in the format of the Delta log. If one has no exact bound, the file gets no bounds.
    """
    parts = json.loads(stats)
    nulls = parts.setdefault("nullCount", {})
    for name, value in partition.items():
        kind = types[name]
        if not _is_plain(kind):
            continue
        nulls[name] = parts["numRecords"] if value is None else 0
        if value is None or "minValues" not in parts:
            continue
        text = value if kind != "TIMESTAMPTZ" else value.replace("T", " ").removesuffix("Z")
        text = str(int(value == "true")) if kind == "BOOLEAN" else text
        bounds = [_bound({which: text}, which, kind) for which in ("min", "max")]
        if None in bounds:
            del parts["minValues"], parts["maxValues"]
        else:
            parts["minValues"][name], parts["maxValues"][name] = bounds
    return json.dumps(parts)


def partition_value(text: str | None, kind: str) -> str | None:
    """Convert DuckDB's text of a partition value to the format of the Delta log."""
    if text is None or kind != "TIMESTAMPTZ":
        return text
    return _TIME.sub(r"\1T\2Z", text)


def logged(value: object) -> str | None:
    """Convert a partition value, as returned by delta-rs, to the format of the Delta log."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dt.datetime):
        text = value.replace(tzinfo=None).isoformat(sep=" " if value.tzinfo is None else "T")
        seconds, dot, fraction = text.partition(".")
        return f"{seconds}{dot}{fraction.rstrip('0')}" + ("" if value.tzinfo is None else "Z")
    return None if value is None else str(value)


def _is_plain(kind: str) -> bool:
    named = kind in _INTEGERS | _REALS | {"VARCHAR", "BOOLEAN", "DATE", "TIMESTAMP", "TIMESTAMPTZ"}
    return named or (kind.startswith("DECIMAL") and not kind.endswith("]"))


def _bound(statistics: Mapping[str, str], which: str, kind: str) -> object | None:
    text = statistics.get(which)
    if text is None or statistics.get("has_nan") == "true":
        return None
    if kind in _INTEGERS:
        return int(text)
    if kind == "BOOLEAN":
        return text == "1"
    if kind == "VARCHAR":
        return text if len(text) <= _LONGEST else _cut(text, which)
    return _number(text) if kind in _REALS or kind.startswith("DECIMAL") else _moment(text, kind)


def _number(text: str) -> float | None:
    number = Decimal(text)
    digits = number.as_tuple().digits
    exact = number.is_finite() and (len(digits) <= _EXACT_DIGITS or Decimal(repr(float(text))) == number)
    return float(text) if exact else None


def _moment(text: str, kind: str) -> str | None:
    if kind == "DATE":
        return text if _DATE.fullmatch(text) else None
    match = _TIME.fullmatch(text)
    return None if match is None else f"{match[1]}T{match[2]}" + ("Z" if kind == "TIMESTAMPTZ" else "")


def _cut(text: str, which: str) -> str | None:
    head = text[:_LONGEST]
    if which == "min":
        return head
    raised = ord(head[-1]) + 1
    is_character = raised <= 0x10FFFF and not 0xD800 <= raised <= 0xDFFF  # noqa: PLR2004 - code point ranges of Unicode
    return head[:-1] + chr(raised) if is_character else None
