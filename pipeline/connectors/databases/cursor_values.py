"""Cursor columns: the options that all databases share, and values as text of their type."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Literal

from pipeline.connectors.databases.sessions import is_integer, is_number
from pipeline.core.cursors import Bound
from pipeline.core.errors import DefinitionError, SourceError
from pipeline.core.event_time import parse_duration

Lag = str | timedelta | int
NullCursors = Literal["include", "exclude", "refuse"]
"""What happens to rows whose cursor is null."""
ROW_BYTES = 100
"""The size that a row is assumed to have."""
TIMES = frozenset({"DATE", "TIMESTAMP", "TIMESTAMPTZ"})
_FIRST = datetime(1, 1, 1)  # noqa: DTZ001 - a number of microseconds
_MICROSECOND = timedelta(microseconds=1)


def most_rows(bound: Bound) -> int | None:
    """Return the number of rows that a bound allows; rows are assumed to have 100 bytes."""
    by_size = None if bound.size_bytes is None else max(1, bound.size_bytes // ROW_BYTES)
    limits = [most for most in (bound.rows, by_size) if most is not None]
    return min(limits) if limits else None


def check_lag(lag: Lag | None, kind: str) -> None:
    """Raise `DefinitionError` for a lag that does not suit the type of the cursor; a text may be a time."""
    if lag is None:
        return
    wanted = "a number" if is_number(kind) else "a duration" if kind in {*TIMES, "VARCHAR"} else "none"
    if wanted != ("a number" if isinstance(lag, int) else "a duration"):
        raise DefinitionError(
            f"the lag does not suit the type {kind} of the cursor", got=repr(lag), do=f"its lag must be {wanted}"
        )


def less_lag(text: str, kind: str, lag: Lag | None) -> str:
    """Return a value less the lag; the value itself without one."""
    if lag is None or lag == 0:
        return text
    if is_number(kind):
        return str(_number(text) - int(str(lag)))
    span = parse_duration(lag if isinstance(lag, str | timedelta) else timedelta(0), "lag")
    moment = _moment(text)
    try:
        earlier = moment - span
    except OverflowError:
        earlier = _FIRST.replace(tzinfo=moment.tzinfo)
    if kind == "VARCHAR":  # a prefix of the text sorts before it, so neither fraction nor zone is needed
        return earlier.replace(tzinfo=None).isoformat("T" if "T" in text else " ", "seconds")
    return _text(earlier, kind)


def cuts(low: str, high: str, kind: str, parts: int) -> list[str]:
    """Return values that divide the range from `low` to `high`, in order; none if the type cannot be divided."""
    if parts < 2 or not (is_integer(kind) or kind in TIMES):  # noqa: PLR2004 - one part has no cut
        return []
    if is_integer(kind):
        begin, end = int(low), int(high)
        return [str(begin + (end - begin) * n // parts) for n in range(1, parts)]
    begin_at, end_at = _moment(low), _moment(high)
    step = (end_at - begin_at) // parts
    return list(dict.fromkeys(_text(begin_at + step * n, kind) for n in range(1, parts)))


def _number(text: str) -> int | Decimal:
    try:
        return int(text) if text.lstrip("-").isdigit() else Decimal(text)
    except InvalidOperation as error:
        raise SourceError("a cursor is no number", got=repr(text)) from error


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise SourceError(
            "a cursor is not a date or a time", got=repr(text), do="remove lag=, or choose another cursor"
        ) from error


def _text(moment: datetime, kind: str) -> str:
    if kind == "DATE":
        return date.isoformat(moment.date())
    return (moment if moment.tzinfo is None else moment.astimezone(UTC)).isoformat(" ")
