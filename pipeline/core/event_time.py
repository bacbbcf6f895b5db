"""Event time: when something happened, as against when it came. Watermarks and windows are made of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.schema import Schema

_UNITS = ("milliseconds", "seconds", "minutes", "hours", "days", "weeks")
_CALL = re.compile(r"\s*(\w+)\s*\(\s*(.+?)\s*\)\s*", re.DOTALL)
_OF_NUMBERS = {"to_timestamp": "TIMESTAMPTZ", "epoch_ms": "TIMESTAMP", "make_timestamp": "TIMESTAMP"}
"""DuckDB's functions that make a time of the seconds, milliseconds and microseconds since 1970, and its type."""
_NUMBERS = {"to_timestamp": "epoch({})::bigint", "epoch_ms": "epoch_ms({})", "make_timestamp": "epoch_us({})"}
"""SQL for the number of a time, by the function that makes the time of it."""
_INTEGERS = frozenset(
    {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT"}
)
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")


@dataclass(frozen=True)
class EventTime:
    """Which column says when a row happened, and how far from its order rows may come."""

    column: str
    lateness: timedelta = timedelta()
    """How long after the latest row of its partition a row may still come: the watermark is that much behind."""
    idle_after: timedelta | None = None
    """A partition from which nothing comes for so long does not hold the watermark back; by default each one does."""
    ahead: timedelta = timedelta(hours=1)
    """A row that claims to be from later than so long after now is set aside: it would end every window."""
    made_by: str | None = field(default=None, kw_only=True)
    """The SQL function that makes the time where the source has a number; the column is a time in its rows."""

    def __str__(self) -> str:
        """Return it as `event_time=` is written."""
        return self.column if self.made_by is None else f"{self.made_by}({self.column})"

    def in_rows(self, schema: Schema, place: Place) -> Schema:
        """Return the contract of a source's rows, in which the column is a time.

        Raises `DefinitionError` where a time is to be made of a column that is no integer.
        """
        kind = schema.as_dict().get(self.column)
        if self.made_by is None or kind is None:
            return schema
        if kind not in _INTEGERS:
            raise DefinitionError(
                f"event_time={str(self)!r} makes a time of an integer, and {self.column!r} is {kind}",
                do=f"declare {self.column!r} as BIGINT in schema=, or name the column itself if it is a time",
                place=place,
            )
        return _retyped(schema, self.column, _OF_NUMBERS[self.made_by])

    def in_source(self, schema: Schema) -> Schema:
        """Return the contract that the source is read by: the column is a number where a time is made of it."""
        return _retyped(schema, self.column, "BIGINT") if self.is_made(schema) else schema

    def is_made(self, schema: Schema) -> bool:
        """Return whether the time is made of a number, in rows with these columns."""
        return self.made_by is not None and schema.as_dict().get(self.column) == _OF_NUMBERS[self.made_by]

    def number_of(self, time: str) -> str | None:
        """Return SQL for the number of a time, as the source has it; `None` where it has times."""
        return None if self.made_by is None else _NUMBERS[self.made_by].format(time)


def event_time_of(
    column: str | None,
    lateness: str | timedelta | None,
    idle_after: str | timedelta | None,
    ahead: str | timedelta | None,
    place: Place,
) -> EventTime | None:
    """Return a definition's event time; raise `DefinitionError` for a span that cannot be read, or one without a column.

    `column` is a name, or a call of a function that makes a time of a number, for example `epoch_ms(at)`.
    """
    durations = {"lateness": lateness, "idle_after": idle_after, "ahead": ahead}
    spans: dict[str, Any] = {
        name: parse_duration(value, name, place) for name, value in durations.items() if value is not None
    }
    if column is None:
        if spans:
            raise DefinitionError(
                f"{next(iter(spans))}= needs an event time", do="give event_time= with a column", place=place
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
    """Raise `DefinitionError` for an event time that is no column of its owner, or of another type than a time."""
    column, kind = time.column, schema.as_dict().get(time.column)
    if kind is None:
        raise DefinitionError(
            f"{owner} has no column {column!r}, its event time",
            do=did_you_mean(column, schema.names),
            place=place,
        )
    if not kind.startswith(("TIMESTAMP", "DATE")):
        of_number = (
            f"make a time of it: event_time='epoch_ms({column})' in a source, epoch_ms({column}) in a SELECT; "
            "to_timestamp for seconds, make_timestamp for microseconds"
        )
        raise DefinitionError(
            f"{owner} has the event time {column!r}, which is {kind}; it must be a TIMESTAMP, TIMESTAMPTZ or DATE",
            do=of_number if kind in _INTEGERS else "make the column a time",
            place=place,
        )


def parse_duration(value: str | timedelta, what: str, place: Place | None = None) -> timedelta:
    """Return a span of time that was written in words, for example `10 minutes` or `1 hour 30 minutes`.

    Raises `DefinitionError` for other words and for less than nothing.
    """
    if isinstance(value, timedelta):
        duration = value
    else:
        text = value.strip().lower()
        parts = _PART.findall(text)
        units = [next((unit for unit in _UNITS if unit in {word, f"{word}s"}), "") for _, word in parts]
        if not parts or _PART.sub("", text).strip(" ,") or not all(units):
            raise DefinitionError(
                f"{what}= is not a span of time", got=repr(value), do="write for example '10 minutes'", place=place
            )
        duration = sum(
            (timedelta(**{unit: float(number)}) for (number, _), unit in zip(parts, units, strict=True)), timedelta()
        )
    if duration < timedelta():
        raise DefinitionError(f"{what}= is less than nothing", got=repr(value), place=place)
    return duration


def format_duration(duration: timedelta) -> str:
    """Return a span of time as `parse_duration` reads it."""
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
