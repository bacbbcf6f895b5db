"""Formats numbers for display: thousands separators, units, and no rounding up to 100 %."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from pipeline.core.errors import quantity

ABSENT = "\N{EN DASH}"
_UNITS = {
    "s": "seconds",
    "ms": "milliseconds",
    "min": "minutes",
    "minutes": "minutes",
    "hours": "hours",
    "days": "days",
    "bytes": "bytes",
    "rows": "rows",
    "ft": "feet",
    "m": "metres",
    "km": "kilometres",
    "kg": "kilograms",
    "miles": "miles",
    "usd": "US dollars",
    "eur": "euros",
}
SHARES = ("share", "rate", "ratio", "fraction")
"""Suffixes of columns with fractions of one, which are shown in percent."""


def count(number: int) -> str:
    """Format an integer with thousands separators."""
    return f"{number:,}"


def figure(number: float) -> str:
    """Format a measured number with about four significant digits."""
    if not math.isfinite(number):
        return ABSENT
    if number == int(number) and abs(number) < 1e15:  # noqa: PLR2004 - beyond this, a float is not exact
        return f"{int(number):,}"
    if abs(number) >= 100:  # noqa: PLR2004 - three digits before the decimal point
        return f"{number:,.1f}"
    return f"{number:,.4g}" if abs(number) >= 1e-4 else f"{number:.2e}"  # noqa: PLR2004 - otherwise mostly zeros


def percent(share: float) -> str:
    """Format a fraction in percent, rounded down: 100 % means all."""
    return f"{math.floor(share * 1e4 + 1e-7) / 100:.2f} %" if 0 < share < 1 else f"{share:.0%}".replace("%", " %")


def seconds(number: float) -> str:
    """Format a duration in a suitable unit."""
    if number < 60:  # noqa: PLR2004 - a minute
        return f"{number:.2f} s" if number < 10 else f"{number:.1f} s"  # noqa: PLR2004 - two significant digits
    rounded = round(number)
    if rounded < 3600:  # noqa: PLR2004 - an hour
        return f"{rounded // 60} min {rounded % 60:02d} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"


def speed(size_bytes: int, duration_s: float) -> str:
    """Return megabytes (10^6 bytes) per second, without the unit."""
    if not size_bytes or duration_s <= 0:
        return ABSENT
    rate = size_bytes / 1e6 / duration_s
    return f"{rate:,.1f}" if rate >= 0.1 else "< 0.1"  # noqa: PLR2004 - one decimal place


def size(size_bytes: int) -> str:
    """Format a number of bytes in a suitable decimal unit."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if size_bytes >= 10**power:
            return f"{size_bytes / 10**power:,.1f} {unit}"
    return quantity(size_bytes, "byte")


def moment(iso: str) -> str:
    """Format an ISO 8601 time as date and time in UTC."""
    at = _utc(iso)
    return f"{at.day} {at:%B %Y, %H:%M:%S} UTC"


def minute(iso: str) -> str:
    """Format an ISO 8601 time to the minute, in UTC."""
    at = _utc(iso)
    return f"{at:%Y-%m-%d %H:%M} UTC"


def between(start: str, end: str | None) -> float | None:
    """Return the seconds between two ISO 8601 times, or `None` without an end."""
    return None if end is None else (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def is_share(column: str) -> bool:
    """Return whether a column contains fractions of one, according to its name."""
    return column.lower().rsplit("_", 1)[-1] in SHARES


def axis_label(column: str) -> str:
    """Return a column's name as text, with the unit given by its suffix."""
    head, _, last = column.rpartition("_")
    unit = _UNITS.get(last.lower()) if head else None
    return f"{head.replace('_', ' ')} ({unit})" if unit else column.replace("_", " ")


def _utc(iso: str) -> datetime:
    at = datetime.fromisoformat(iso)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
