"""Values as Spark writes them in JSON."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any


def plain(value: Any) -> Any:
    """Return a value as in JSON: without nulls in structs, numbers as decimals."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items() if each is not None}
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return {key: plain(each) for key, each in value}
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, dt.datetime):
        return value.replace(tzinfo=None).isoformat(" ", "microseconds")
    if isinstance(value, dt.date):
        return value.isoformat()
    return Decimal(repr(value)) if isinstance(value, float) else value


def ordered(rows: list[Any]) -> list[Any]:
    return sorted(rows, key=lambda row: str(sorted(row.items())))
