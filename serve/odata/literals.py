"""The words of an OData expression, and the types of its literals."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Literal, cast

from serve.http_errors import HttpError
from serve.queries.expressions import Constant
from serve.queries.values import shown

Kind = Literal["text", "time", "number", "name", "mark", "end"]
_DATE = r"\d{4}-\d\d-\d\d"
_CLOCK = r"\d\d:\d\d(?::\d\d(?:\.\d{1,12})?)?"
_WORD = re.compile(
    rf"""\s*(?:
    (?P<text>'(?:[^']|'')*')
    | (?P<time>{_DATE}T{_CLOCK}(?:Z|[+\- ]\d\d:?\d\d)?|{_DATE}|{_CLOCK}|duration'[^']*')
    | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{{1,3}})?)
    | (?P<name>[$@]?[^\W\d]\w*(?:\.[^\W\d]\w*)*)
    | (?P<mark>[(),/:\-*=])
    | (?P<end>\Z))""",
    re.VERBOSE | re.IGNORECASE,
)
_DURATION = re.compile(r"([+-])?P(?:(\d{1,6})D)?(?:T(?:(\d{1,6})H)?(?:(\d{1,6})M)?(?:(\d{1,9})(?:\.(\d{1,6}))?S)?)?")
_MOST_DIGITS = 38
_MOST_BIGINT_DIGITS = 18


@dataclass(frozen=True)
class Word:
    """A word of an expression, and where it begins."""

    kind: Kind
    text: str
    at: int


def words_of(text: str) -> list[Word]:
    """Return the words of an expression, with one of the kind `end` after them; raise `HttpError` where none can be read."""
    words, at = [], 0
    while True:
        match = _WORD.match(text, at)
        if match is None:
            raise HttpError("the expression cannot be read", got=shown(text[at:].lstrip()), do="see docs/odata.md")
        kind = cast("Kind", match.lastgroup)  # the groups have the names of the kinds
        words.append(Word(kind, match[kind], match.start(kind)))
        if kind == "end":
            return words
        at = match.end()


def text_of(word: str) -> str:
    """Return the text of a literal in quotes."""
    text = word[1:-1].replace("''", "'")
    if "\x00" in text:
        raise HttpError("a text contains a character that no value has", got=shown(word))
    return text


def number_of(word: str, *, is_negative: bool = False) -> Constant:
    """Return a number as a constant: an integer, a decimal number, or with an exponent a floating-point number."""
    text = f"-{word}" if is_negative else word
    if re.fullmatch(r"-?\d+", text):
        digits = len(text.lstrip("-").lstrip("0"))
        kind = "BIGINT" if digits <= _MOST_BIGINT_DIGITS else "HUGEINT" if digits <= _MOST_DIGITS else "DOUBLE"
        return Constant(kind, text if kind != "DOUBLE" else repr(float(text)))
    number = Decimal(text)
    _, figures, exponent = number.as_tuple()
    scale = -int(exponent)
    if "e" in text.lower() or max(len(figures), scale) > _MOST_DIGITS:
        return Constant("DOUBLE", repr(float(text)))
    return Constant(f"DECIMAL({max(len(figures), scale, 1)},{max(scale, 0)})", f"{number:f}")


def time_of(word: str) -> Constant:
    """Return a date, a time of day, a moment or a duration as a constant; raise `HttpError` for one that does not exist."""
    try:
        if word[:8].lower() == "duration":
            return Constant("INTERVAL", f"{_microseconds(word[9:-1])} microseconds")
        if re.fullmatch(_DATE, word):
            return Constant("DATE", date.fromisoformat(word).isoformat())
        if re.fullmatch(_CLOCK, word):
            return Constant("TIME", time.fromisoformat(_in_microseconds(word)).isoformat())
        # a plus sign that was not encoded arrives as a space
        moment = datetime.fromisoformat(_in_microseconds(word.upper().replace(" ", "+")))
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        return Constant("TIMESTAMPTZ", moment.isoformat())
    except (ValueError, OverflowError) as error:
        raise HttpError(
            "there is no such time", got=shown(word), do="write 2026-01-05T12:00:00Z, with at most six decimals"
        ) from error


def _in_microseconds(text: str) -> str:
    """Return a time without zeros beyond six decimals; raise `ValueError` for other digits."""
    match = re.fullmatch(r"([^.]*\.\d{6})(\d+)(.*)", text)
    if match is None:
        return text
    if match[2].strip("0"):
        raise ValueError(text)
    return match[1] + match[3]


def _microseconds(text: str) -> int:
    match = _DURATION.fullmatch(text.upper())
    if match is None or text.upper().rstrip("T").endswith("P") or text.upper().endswith("T"):
        raise ValueError(text)
    sign, days, hours, minutes, seconds, fraction = match.groups()
    whole = ((int(days or 0) * 24 + int(hours or 0)) * 60 + int(minutes or 0)) * 60 + int(seconds or 0)
    return (whole * 1_000_000 + int((fraction or "").ljust(6, "0"))) * (-1 if sign == "-" else 1)
