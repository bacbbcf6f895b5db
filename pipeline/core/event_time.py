"""Event time: when a row happened, as opposed to when it arrived. Watermarks and windows are based on it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.schema import Schema

_UNITS = ("milliseconds", "seconds", "minutes", "hours", "days", "weeks")
_SHORT = {"ms": "milliseconds", "s": "seconds", "min": "minutes", "h": "hours", "d": "days"}
_CALL = re.compile(r"\s*(\w+)\s*\(\s*(.+?)\s*\)\s*", re.DOTALL)
_OF_NUMBERS = {"to_timestamp": "TIMESTAMPTZ", "epoch_ms": "TIMESTAMP", "make_timestamp": "TIMESTAMP"}
"""DuckDB's functions from seconds, milliseconds and microseconds since 1970 to a timestamp, with its type."""
_NUMBERS = {"to_timestamp": "epoch({})::bigint", "epoch_ms": "epoch_ms({})", "make_timestamp": "epoch_us({})"}
"""SQL for the inverse of each of these functions: from a timestamp to the number."""
_INTEGERS = frozenset(
    {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT"}
)
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")


@dataclass(frozen=True)
class EventTime:
    """The column with the time at which a row happened, and how far out of order rows may arrive."""

    column: str
    lateness: timedelta = timedelta()
    """How far a row may be behind the latest row of its partition; the watermark lags by this much."""
    idle_after: timedelta | None = None
    """A partition without new rows for this long no longer holds back the watermark. By default, it always does."""
    ahead: timedelta = timedelta(hours=1)
    """Rows further than this in the future are quarantined, because they would close every window."""
    made_by: str | None = field(default=None, kw_only=True)
    """The SQL function that converts the source's number to a timestamp; in the rows, the column is a timestamp."""

    def __str__(self) -> str:
        """Return the value of `event_time=`."""
        return self.column if self.made_by is None else f"{self.made_by}({self.column})"

    def in_rows(self, schema: Schema, place: Place) -> Schema:
        """Return the contract of a source's rows, in which the column is a timestamp.

        Raises `DefinitionError` if a column that is not an integer is to be converted.
        """
        kind = schema.as_dict().get(self.column)
        if self.made_by is None or kind is None:
            return schema
        if kind not in _INTEGERS:
            raise DefinitionError(
                f"event_time={str(self)!r} requires an integer column, but {self.column!r} is {kind}",
                do=f"declare {self.column!r} as BIGINT in schema=, or use the column without a function if it is a time",
                place=place,
            )
        return _retyped(schema, self.column, _OF_NUMBERS[self.made_by])

    def in_source(self, schema: Schema) -> Schema:
        """Return the contract for reading the source, in which a converted column is still a number."""
        return _retyped(schema, self.column, "BIGINT") if self.is_made(schema) else schema

    def is_made(self, schema: Schema) -> bool:
        """Return whether the column of this schema was converted from a number."""
        return self.made_by is not None and schema.as_dict().get(self.column) == _OF_NUMBERS[self.made_by]

    def number_of(self, time: str) -> str | None:
        """Return SQL for the source's number of a timestamp; `None` if the source has timestamps."""
        return None if self.made_by is None else _NUMBERS[self.made_by].format(time)


def event_time_of(
    column: str | None,
    lateness: str | timedelta | None,
    idle_after: str | timedelta | None,
    ahead: str | timedelta | None,
    place: Place,
) -> EventTime | None:
    """Return a definition's event time; raise `DefinitionError` for an invalid duration, or one without a column.

    `column` is a name, or a function call that converts a number to a timestamp, for example `epoch_ms(at)`.
    """
    durations = {"lateness": lateness, "idle_after": idle_after, "ahead": ahead}
    spans: dict[str, Any] = {
        name: parse_duration(value, name, place) for name, value in durations.items() if value is not None
    }
    if column is None:
        if spans:
            raise DefinitionError(
                f"{next(iter(spans))}= requires event_time=", do="set event_time= to a column", place=place
            )
        return None
    call = _CALL.fullmatch(column)
    if call is None or call[1].lower() not in _OF_NUMBERS:
        event_time = EventTime(column)
    else:
        event_time = EventTime(call[2].strip('"'), made_by=call[1].lower())
    return replace(event_time, **spans)


def _retyped(schema: Schema, column: str, kind: str) -> Schema:
    return Schema(tuple(replace(c, type=kind) if c.name == column else c for c in schema.columns))


def require_event_time(time: EventTime, schema: Schema, owner: str, place: Place | None) -> None:
    """Raise `DefinitionError` if the event time is not a column of its owner, or is not a timestamp or date."""
    column, kind = time.column, schema.as_dict().get(time.column)
    if kind is None:
        raise DefinitionError(
            f"{owner} has no event time column {column!r}",
            do=did_you_mean(column, schema.names),
            place=place,
        )
    if not kind.startswith(("TIMESTAMP", "DATE")):
        of_number = (
            f"convert it: event_time='epoch_ms({column})' in a source, epoch_ms({column}) in a SELECT; "
            "use to_timestamp for seconds, make_timestamp for microseconds"
        )
        raise DefinitionError(
            f"the event time {column!r} of {owner} is {kind}, but must be TIMESTAMP, TIMESTAMPTZ or DATE",
            do=of_number if kind in _INTEGERS else "cast the column to TIMESTAMP",
            place=place,
        )


LONGEST = timedelta(days=36_525)
"""The longest duration: sums of it and a time are still times."""


def parse_duration(value: str | timedelta, what: str, place: Place | None = None) -> timedelta:
    """Return a duration from its text, for example `10 minutes`, `1 hour 30 minutes` or `4h`.

    Raises `DefinitionError` for an invalid text, and for a duration that is negative or longer than `LONGEST`.
    """
    if isinstance(value, timedelta):
        duration = value
    else:
        text = value.strip().lower()
        parts = _PART.findall(text)
        words = [_SHORT.get(word, word) for _, word in parts]
        units = [next((unit for unit in _UNITS if unit in {word, f"{word}s"}), "") for word in words]
        if not parts or _PART.sub("", text).strip(" ,") or not all(units):
            raise DefinitionError(
                f"{what}= is not a duration", got=repr(value), do="use a text such as '10 minutes'", place=place
            )
        try:
            duration = sum(
                (timedelta(**{unit: float(number)}) for (number, _), unit in zip(parts, units, strict=True)),
                timedelta(),
            )
        except OverflowError:
            duration = timedelta.max
    if duration < timedelta():
        raise DefinitionError(f"{what}= must not be negative", got=repr(value), place=place)
    if duration > LONGEST:
        raise DefinitionError(f"{what}= is too long", got=repr(value), do="use at most 100 years", place=place)
    return duration


def format_duration(duration: timedelta) -> str:
    """Return a duration as text that `parse_duration` accepts."""
    micros = duration // timedelta(microseconds=1)
    if not micros:
        return "0 seconds"
    for unit, size in (
        ("days", 86_400_000_000),
        ("hours", 3_600_000_000),
        ("minutes", 60_000_000),
        ("seconds", 1_000_000),
    ):
        if micros and micros % size == 0:
            count = micros // size
            return f"{count} {unit[:-1] if count == 1 else unit}"
    return f"{Decimal(micros) / 1000:f} milliseconds"
