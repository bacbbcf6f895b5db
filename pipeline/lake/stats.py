"""What the Delta log says of a file, from what DuckDB says when it has written one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_INTEGERS = frozenset({"TINYINT", "SMALLINT", "INTEGER", "BIGINT"})
_REALS = frozenset({"FLOAT", "DOUBLE"})
_LONGEST = 64
"""Text bounds are left out above this length: Delta's may be cut, and a cut upper bound would be wrong."""


def delta_stats(rows: int, columns: Mapping[str, Mapping[str, str]], types: Mapping[str, str]) -> str:
    """Return the JSON statistics of a file: rows, nulls, and the least and greatest value of each plain column.

    `columns` is `column_statistics` of DuckDB's `COPY … (return_stats)`, keyed by quoted column names.
    """
    least: dict[str, Any] = {}
    greatest: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    for name, kind in types.items():
        found = columns.get('"' + name.replace('"', '""') + '"', {})
        if "null_count" in found and not kind.endswith("]") and not kind.startswith(("STRUCT", "MAP")):
            nulls[name] = int(found["null_count"])
        low, high = _bound(found.get("min"), kind), _bound(found.get("max"), kind)
        if low is not None and high is not None:
            least[name], greatest[name] = low, high
    return json.dumps({"numRecords": rows, "minValues": least, "maxValues": greatest, "nullCount": nulls})


def _bound(text: str | None, kind: str) -> object | None:
    if text is None:
        return None
    if kind in _INTEGERS:
        return int(text)
    if kind in _REALS or kind.startswith("DECIMAL"):
        return float(text) if text.lower().lstrip("-") not in {"nan", "inf", "infinity"} else None
    if kind == "VARCHAR":
        return text if len(text) <= _LONGEST else None
    if kind == "DATE":
        return text
    if kind in {"TIMESTAMP", "TIMESTAMPTZ"}:
        date, _, clock = text.removesuffix("+00").partition(" ")
        return f"{date}T{clock}" + ("Z" if kind == "TIMESTAMPTZ" else "")
    return None
