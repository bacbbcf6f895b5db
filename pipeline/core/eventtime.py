"""Event time: when something happened, as against when it came. Watermarks and windows are made of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from pipeline.core.errors import DefinitionError, Place

_UNITS = ("milliseconds", "seconds", "minutes", "hours", "days", "weeks")
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


def event_time_of(
    column: str | None,
    lateness: str | timedelta | None,
    idle_after: str | timedelta | None,
    ahead: str | timedelta | None,
    place: Place,
) -> EventTime | None:
    """Return a definition's event time; raise `DefinitionError` for a span that cannot be read, or one without a column."""
    given = {"lateness": lateness, "idle_after": idle_after, "ahead": ahead}
    spans = {name: span(value, name, place) for name, value in given.items() if value is not None}
    if column is None:
        if spans:
            raise DefinitionError(
                f"{next(iter(spans))}= needs an event time", do="give event_time= with a column", place=place
            )
        return None
    return EventTime(column, **spans)


def require_time(column: str, kind: str, place: Place | None) -> None:
    """Raise `DefinitionError` for an event time that is of another type than a time."""
    if not kind.startswith(("TIMESTAMP", "DATE")):
        raise DefinitionError(
            f"event_time= names {column!r}, which is {kind}; it must be a TIMESTAMP, TIMESTAMPTZ or DATE",
            do="declare the column as a time in schema=",
            place=place,
        )


def span(value: str | timedelta, what: str, place: Place | None = None) -> timedelta:
    """Return a span of time that was written in words, for example `10 minutes` or `1 hour 30 minutes`.

    Raises `DefinitionError` for other words and for less than nothing.
    """
    if isinstance(value, timedelta):
        found = value
    else:
        text = value.strip().lower()
        parts = _PART.findall(text)
        units = [next((unit for unit in _UNITS if unit in {word, f"{word}s"}), "") for _, word in parts]
        if not parts or _PART.sub("", text).strip(" ,") or not all(units):
            raise DefinitionError(
                f"{what}= is not a span of time", got=repr(value), do="write for example '10 minutes'", place=place
            )
        found = sum(
            (timedelta(**{unit: float(number)}) for (number, _), unit in zip(parts, units, strict=True)), timedelta()
        )
    if found < timedelta():
        raise DefinitionError(f"{what}= is less than nothing", got=repr(value), place=place)
    return found


def in_words(span: timedelta) -> str:
    """Return a span of time as `span` reads it."""
    micros = span // timedelta(microseconds=1)
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
